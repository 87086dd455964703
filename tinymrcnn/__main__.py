"""`python -m tinymrcnn`: the command line."""

import sys

from tinymrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
