"""Reference models, and what published code does otherwise."""
