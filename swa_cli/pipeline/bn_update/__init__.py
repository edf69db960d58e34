"""The step of swa-bn-update."""
