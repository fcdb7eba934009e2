"""The command line of a checkout: `python run.py --help`. An installed package has it as `lambdanets`."""

import sys

from lambdanets.cli import main

if __name__ == "__main__":
    sys.exit(main())
