"""Trainings: the loop, in PyTorch and JAX, one run, and a study of many."""
