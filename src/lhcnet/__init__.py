"""LHC-Net: Local multi-Head Channel self-attention for facial expression recognition.

Importing the package loads no torch; the submodules do, when they are needed.
"""

__version__ = "0.1.0"
