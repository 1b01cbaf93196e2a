"""Systems as parameters of published layers, and what they do along data: the formulas, both ways, of no framework."""
