"""Several configs in one file: the rows of a sweep and the variants of a model.

The file of a sweep reads like the paper's table. Each row is a choice of the group experiment:

    sweep:
      base: {data: imagenet, model: resnet50, recipe: imagenet90}  # common to all rows
      rows:
        table3/conv: {mixer: conv}
        table3/lambda_u4: {mixer: lambda, mixer.intra_depth: 4, mixer.scope: 7}
        efficientnet/b7: # without values: defined by another sweep, or by a file of configs/experiment

The keys are those of the command line: a key without a dot whose value is text names a config group and its choice.
In the composed config, sweep.experiments has the names of the rows.

The file of a model lists its variants, with the keys that differ. Each is a choice of the group model:

    variants:
      resnet101: {depth: 101}

Both work in every folder of configs that Hydra reads, including those of hydra.searchpath.
"""

from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from lambdanets.errors import UserError


def register_config_source() -> None:
    """Let Hydra read folders of configs through FileConfigSource, also in processes that its launchers start."""
    Plugins.instance()  # registers Hydra's own sources
    # Plugins.register keeps the source that a scheme has.
    SourcesRegistry.instance().types["file"] = FileConfigSource


class FileConfigSource(file_config_source.FileConfigSource):
    """A folder of configs, with the rows of its sweeps and the variants of its models.

    It has the name of Hydra's own class: a launcher's process registers Hydra's sources after it has received this one,
    which is an error unless the names agree.
    """

    def derived_configs(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the configs without a file in the group of `path`, by their own paths."""
        group = path.split("/")[0]
        if group in ("", "experiment"):
            return {
                f"experiment/{name}": merge_row(name, sweep.get("base") or {}, row)
                for content in self.read_group("sweep").values()
                for sweep in [content.get("sweep") or {}]
                for name, row in (sweep.get("rows") or {}).items()
                if row is not None
            }
        if group == "model":
            return {
                f"model/{name}": {"defaults": [model]} | values
                for model, content in self.read_group("model").items()
                for name, values in (content.get("variants") or {}).items()
            }
        return {}

    def read_group(self, group: str) -> dict[str, dict[str, Any]]:
        folder = Path(self.path, group)
        files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
        return {choice: read_yaml(file, file.stat().st_mtime_ns) for choice, file in files.items()}

    @override
    def is_config(self, config_path: str) -> bool:
        return super().is_config(config_path) or config_path in self.derived_configs(config_path)

    @override
    def is_group(self, config_path: str) -> bool:
        derived = self.derived_configs(config_path)
        return super().is_group(config_path) or any(path.startswith(f"{config_path}/") for path in derived)

    @override
    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names = set(super().list(config_path, results_filter) if super().is_group(config_path) else ())
        prefix = f"{config_path}/" if config_path else ""
        for path in self.derived_configs(config_path):
            name, *subgroups = path.removeprefix(prefix).split("/")
            kind = ObjectType.GROUP if subgroups else ObjectType.CONFIG
            if path.startswith(prefix) and results_filter in (None, kind):
                names.add(name)
        return sorted(names)

    @override
    def load_config(self, config_path: str) -> ConfigResult:
        group = config_path.split("/")[0]
        if not super().is_config(config_path):
            values = self.derived_configs(config_path)[config_path]
            config, package = (row_config(values), "_global_") if group == "experiment" else (values, None)
            return ConfigResult(self.provider, self.full_path(), OmegaConf.create(config), {"package": package})
        result = super().load_config(config_path)
        content: Any = result.config
        if group == "model":
            content.pop("variants", None)
        elif group == "sweep" and content.get("sweep"):
            rows = content.sweep.pop("rows", None)
            content.sweep.pop("base", None)
            if rows is not None:
                content.sweep.experiments = [*rows]
        return result


def merge_row(name: str, base: dict[str, Any], row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"The row {name} of a sweep has the value {row}: write it as {{key: value}}.")
    return base | row


def row_config(overrides: dict[str, Any]) -> DictConfig:
    """Return overrides as a config, with the choices of groups in its defaults list."""
    config = OmegaConf.create({"defaults": []})
    for key, value in overrides.items():
        if isinstance(value, str) and "." not in key.split("@")[0]:
            config.defaults.append({f"override /{key}": value})
        else:
            OmegaConf.update(config, key, value)
    return config


@cache
def read_yaml(file: Path, modified_ns: int) -> dict[str, Any]:
    """Return the content of a file, again once it has been modified; interpolations stay text."""
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    return content or {}
