"""The step of swa-eval."""
