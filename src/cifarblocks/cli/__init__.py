"""The command line: `cifarblocks`, the same as `python -m cifarblocks`."""
