"""Systems of mass, damping and stiffness, and reductions that keep their form."""
