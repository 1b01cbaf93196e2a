"""Gramian factors: one solver a file, and the table that chooses between them."""
