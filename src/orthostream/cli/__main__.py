"""``python -m orthostream.cli``."""

import sys

from orthostream.cli import main

if __name__ == "__main__":
    sys.exit(main())
