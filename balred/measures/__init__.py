"""What is known of a system: norms, responses, comparisons, stability of rankings."""
