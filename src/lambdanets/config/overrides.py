"""A stored config with the overrides of a command line on top."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.keys import COMMAND_KEYS, override_key


def apply_overrides(base: DictConfig, composed: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Return a stored config with the keys that a command line sets.

    Args:
        base: the stored config.
        composed: the config that the command line gives with the defaults.
        overrides: the overrides of the command line, such as `trainer=gpu`, `mixer.heads=8`, `+key=value` or `~key`.

    Returns:
        A new config with the interpolations of both.
    """
    result: dict[str, Any] = OmegaConf.to_container(base)  # type: ignore[assignment]
    source: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    for key in [*map(override_key, overrides), *COMMAND_KEYS]:
        copy_key(source, result, key.split("."))
    return OmegaConf.create(result)


def copy_key(source: dict[str, Any], target: dict[str, Any], path: list[str]) -> None:
    """Set target[path] to the value in source, or remove it where source has none."""
    *parents, last = path
    for name in parents:
        source = source.get(name) or {}
        target = target.setdefault(name, {})
    if last in source:
        target[last] = source[last]
    else:
        target.pop(last, None)
