"""What array libraries cannot do by themselves: one module a library, the same function names in each.

``numpy`` (with SciPy), ``torch`` and ``jax`` are array backends; ``slycot`` is a solver only, ``safetensors``
a file format.  A backend from another distribution plugs in through the entry-point group ``balred.backends``;
``docs/extending`` lists the functions.
"""
