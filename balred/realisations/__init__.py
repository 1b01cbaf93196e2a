"""State spaces made from systems, descriptor systems, sparse ones, and data."""
