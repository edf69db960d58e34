"""A user's model file, good and bad."""

CODE = """
import helper_beside_it
from torch import nn

LIMIT = 3
instance = nn.Linear(1, 1)

class Net(nn.Linear):
    def __init__(self, width=helper_beside_it.WIDTH):
        super().__init__(width, 2)

def make(**kwargs):
    return Net(**kwargs)

def fails():
    raise ValueError("no such architecture")

def not_a_model():
    return 3
"""
