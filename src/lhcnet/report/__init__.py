"""Everything a person reads: tables, plots, HTML, terminal."""
