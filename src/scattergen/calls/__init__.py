"""What the calls of users go through: their keywords checked, PyTorch's and NumPy's state as usual."""
