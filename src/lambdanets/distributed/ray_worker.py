"""What a Ray worker does first."""

import os

FOLDER = "LAMBDANETS_FOLDER"


def enter() -> None:
    """Goes to the folder of the command: Ray leaves its workers in the one where their node was started."""
    os.chdir(os.environ[FOLDER])
