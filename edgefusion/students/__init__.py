"""Which blocks each student keeps, and from which teacher blocks it inherits: data (one .toml each), not code."""
