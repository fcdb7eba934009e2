"""Setup of Ray workers."""

import os

# The variable that names the folder where the command was given.
WORKING_DIR_ENV = "LAMBDANETS_WORKING_DIR"


def enter_working_dir() -> None:
    """Change to the folder of the command; Ray starts its workers in the folder where their node was started."""
    os.chdir(os.environ[WORKING_DIR_ENV])
