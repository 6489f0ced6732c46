"""Training from existing weights: the whole network, or its last layer."""
