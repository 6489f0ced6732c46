"""Optimizers, parameter groups and the learning rate of each step."""
