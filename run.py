"""The one door: `python run.py --help`."""

import sys
from pathlib import Path

from lambdanets.cli import main

if __name__ == "__main__":
    sys.exit(main(configs=Path(__file__).resolve().parent / "configs"))
