"""The parts of the reference training loop in train.py, one idea a file."""
