"""`python -m lambdanets`: the command line of an installed package."""

import sys

from lambdanets.cli import main

if __name__ == "__main__":
    sys.exit(main())
