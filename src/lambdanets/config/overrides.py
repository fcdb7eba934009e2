"""A stored config with a command line's overrides on top."""

import re
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

# What a command says for itself, whatever the run that it speaks of says.
COMMAND_KEYS = ("job", "ckpt", "like", "input", "allow_targets")


def overridden(base: DictConfig, composed: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """The stored config, changed where the command line said so.

    Args:
        base: the stored config.
        composed: the config that the command line gives with the defaults.
        overrides: the command line's overrides, as `trainer=gpu`, `mixer.heads=8`, `+key=value` or `~key`.

    Returns:
        A new config with the interpolations of both.
    """
    result: dict[str, Any] = OmegaConf.to_container(base)  # type: ignore[assignment]
    source: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    said = [re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0].replace("/", ".") for override in overrides]
    for key in [*said, *COMMAND_KEYS]:
        copy_key(source, result, key.split("."))
    return OmegaConf.create(result)


def copy_key(source: dict[str, Any], target: dict[str, Any], path: list[str]) -> None:
    """Gives target[path] the value that it has in source; a path that source lacks is removed."""
    *parents, last = path
    for name in parents:
        source = source.get(name) or {}
        target = target.setdefault(name, {})
    if last in source:
        target[last] = source[last]
    else:
        target.pop(last, None)
