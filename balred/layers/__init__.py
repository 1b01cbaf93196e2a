"""Systems as parameters of published layers: the formulas, both ways, of no framework."""
