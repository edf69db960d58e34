"""Files, processes, memory and devices; nothing here knows of checkpoints."""
