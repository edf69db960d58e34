"""Calls into the user's code: building the model and data module, loading batches, running the forward pass."""
