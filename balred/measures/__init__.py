"""What is known of a system: norms, responses, comparisons, weights, stability of rankings."""
