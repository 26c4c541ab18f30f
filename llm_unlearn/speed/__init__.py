"""How fast the package works: each stage against its floor and against a baseline."""
