"""What reads a layer or an object as a system and writes it back, and what cuts a training: loaded when its objects arrive.

A framework has a file, or a folder whose ``__init__`` says which extra is missing.  It may import the core and its own
framework, never another's; equinox and flax share ``jax/``, the callbacks of other people's trainers stand on ``torch/``.
"""
