"""Configs composed without Hydra's global state, beside any Hydra application.

`hydra.initialize` and `hydra.compose` share one object per process, as do Hydra's version base, its plugins and the
ConfigStore. A library must leave all of these to the program that uses it, whose threads may compose at the same time.
"""

from collections.abc import Sequence
from threading import Lock

import hydra._internal.core_plugins.basic_launcher  # stores a config of Hydra's own defaults list  # noqa: F401
import hydra._internal.core_plugins.basic_sweeper  # noqa: F401, likewise
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins import structured_config_source
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from lambdanets.config.search_path import packaged_configs
from lambdanets.config.source import FileConfigSource

# Hydra's parsers aren't documented as thread-safe.
LOCK = Lock()


def compose_packaged(overrides: Sequence[str]) -> DictConfig:
    """Compose the package's config with overrides; interpolations stay unresolved.

    Raises:
        HydraException: a choice or a key is unknown.
    """
    with LOCK:
        config = packaged_loader().load_configuration("config", [*overrides], RunMode.RUN)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config


def list_choices(group: str) -> list[str]:
    """Return the choices of a group of the package's config, sorted."""
    with LOCK:
        return packaged_loader().get_group_options(group)


def packaged_loader() -> "PackagedConfigLoader":
    """Return a loader of the package's configs."""
    search_path = ConfigSearchPathImpl()
    search_path.append("hydra", "pkg://hydra.conf")
    search_path.append("main", f"file://{packaged_configs()}")
    search_path.append("schema", "structured://")
    return PackagedConfigLoader(search_path)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """The ConfigStore without the configs of other programs; Hydra's repository expects this name."""

    @override
    def is_group(self, config_path: str) -> bool:
        return is_hydras(config_path) and super().is_group(config_path)

    @override
    def is_config(self, config_path: str) -> bool:
        return is_hydras(config_path) and super().is_config(config_path)

    @override
    def load_config(self, config_path: str) -> ConfigResult:
        if not is_hydras(config_path):  # or else a schema for our config of the same name
            raise ConfigLoadError(f"{config_path} is not a config of this package.")
        return super().load_config(config_path)

    @override
    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return super().list(config_path, results_filter) if is_hydras(config_path) else []


class PackagedConfigRepository(ConfigRepository):
    """Config sources of our own, instead of those in Hydra's registry."""

    TYPES: tuple[type[ConfigSource], ...] = (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource)

    @override
    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        types = {kind.scheme(): kind for kind in self.TYPES}
        self.sources = []
        for entry in config_search_path.get_path():
            assert entry.path is not None
            assert entry.provider is not None
            scheme = self._get_scheme(entry.path)
            if scheme not in types:
                raise HydraException(f"hydra.searchpath has {entry.path}: give folders, as file://… or pkg://….")
            self.sources.append(types[scheme](entry.provider, entry.path))


class PackagedConfigLoader(ConfigLoaderImpl):
    """Hydra's loader on our repository."""

    def __init__(self, search_path: ConfigSearchPath) -> None:
        self.config_search_path = search_path
        self.repository = PackagedConfigRepository(search_path)


def is_hydras(path: str) -> bool:
    return path.split("/")[0] == "hydra"
