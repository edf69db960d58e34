"""Model outputs cached between runs."""
