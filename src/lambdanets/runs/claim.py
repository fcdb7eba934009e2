"""Commands that start in the same second have folders of their own.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from lambdanets.runs.find import find_run
from lambdanets.runs.folders import chosen_folders
from lambdanets.runs.refusal import MULTIRUN_FILE, former_files, remember_folder


class FolderClaim(Callback):
    """Make the new folder of a command before Hydra does, or another one if it was just made by another command."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(Exception):  # raised again when Hydra makes the folder; of a callback it is only a warning
            while (folder := Path(config.hydra.run.dir)) in chosen_folders:
                chosen_folders.remove(folder)
                if make_folder(folder):
                    return
                find_run.cache_clear()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(Exception):
            folder = Path(config.hydra.sweep.dir)
            if folder not in chosen_folders:  # of a named sweep, which may go on in it
                return
            chosen_folders.remove(folder)
            while not make_folder(folder):
                folder = folder.with_name(f"{folder.name}_")
            former_files.clear()  # of the other command's folder
            former_files[folder / MULTIRUN_FILE] = None
            with read_write(config):
                config.hydra.sweep.dir = str(folder)
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={folder}")  # of which Hydra composes each run


def make_folder(folder: Path) -> bool:
    """Make a folder, and return whether it is new: of several commands, one alone makes it."""
    remember_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
