"""Files, processes, memory and devices: what knows nothing of checkpoints."""
