"""The folders that configs are read from: the package's own, and the user's on top."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

PACKAGE = Path(__file__).resolve().parent.parent
# Below the working directory: files there add choices to the groups, or replace the package's.
USER_CONFIGS = "configs"


def packaged_configs() -> Path:
    """Return the folder of the config groups: that of the installed package, or of the repository."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent.parent / "configs"


class UserConfigs(SearchPathPlugin):
    """Read the folder configs/ of the working directory before the package's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = Path(USER_CONFIGS).resolve()
        if folder.is_dir() and folder != packaged_configs():
            search_path.prepend("user", f"file://{folder}")


def register_user_configs() -> None:
    """Let Hydra read the user's configs, also in processes that its launchers start."""
    Plugins.instance().register(UserConfigs)
