"""The formats of torch.save: containers, pickles read without running them, and writers."""
