"""`python -m dfdetect` is the same as `dfdetect`."""

import sys

from dfdetect.cli import main

if __name__ == "__main__":
    sys.exit(main())
