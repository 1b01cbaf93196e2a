"""Data sets: where they come from, and the tasks that are made of them."""
