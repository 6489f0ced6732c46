"""The options of a run: declared, parsed, and set by recipes."""
