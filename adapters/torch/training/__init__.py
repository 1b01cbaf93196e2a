"""Truncation of PyTorch models while they train."""
