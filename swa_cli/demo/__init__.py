"""The embedded demo: real images, a small CNN, and a run that leaves checkpoints."""
