"""Applications of the library: data sets, reference models, training runs and the demo.

Nothing is imported here, so ``import balred.studies`` costs nothing; the modules need
``pip install 'balred[torch,studies]'`` or ``'balred[jax,studies]'``.
"""
