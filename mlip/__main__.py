"""``python -m mlip`` is the command ``mlip``."""

import sys

from mlip.cli import main

if __name__ == "__main__":
    sys.exit(main())
