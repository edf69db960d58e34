"""swa-bn-update: from a configuration to a file with recomputed BatchNorm statistics."""
