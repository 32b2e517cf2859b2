"""Atomic writes, bounded reads, JSON and YAML."""
