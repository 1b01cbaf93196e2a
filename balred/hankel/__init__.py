"""Hankel singular values, balanced coordinates, and their derivatives."""
