"""What array libraries cannot do by themselves: one module a library, the same function names in each.

``numpy``, ``torch`` and ``jax`` are array backends; ``scipy`` is what the host factorises for all of them, and a solver,
``slycot`` a solver only, ``safetensors`` a file format.  A backend from another distribution plugs in through the entry-point group ``balred.backends``;
``docs/extending`` lists the functions.
"""
