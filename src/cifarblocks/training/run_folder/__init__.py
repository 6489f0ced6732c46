"""Files of a run: configuration, metrics, summary and weights."""
