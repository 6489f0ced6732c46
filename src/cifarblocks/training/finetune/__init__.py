"""Training from weights that are there: the whole network, or its last layer."""
