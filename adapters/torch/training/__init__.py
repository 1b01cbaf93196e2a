"""Truncation of PyTorch models while they train: in one process, in replicas, in shards."""
