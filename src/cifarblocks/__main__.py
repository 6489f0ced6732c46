"""`python -m cifarblocks`, and so `torchrun … -m cifarblocks`: the command `cifarblocks`."""

import sys

from cifarblocks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
