"""Everything that touches the user's code: the model, the data module, and what they return."""
