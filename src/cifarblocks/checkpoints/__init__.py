"""Weights files → models: own weights and published ones."""
