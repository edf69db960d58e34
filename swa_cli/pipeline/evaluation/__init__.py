"""swa-eval: from a configuration to one result."""
