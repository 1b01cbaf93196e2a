"""Layers of PyTorch models: one family a file."""
