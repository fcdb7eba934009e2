"""A stored config with the overrides of a command line on top."""

import difflib
import logging
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambdanets.config.keys import (
    COMMAND_KEYS,
    LABEL_KEYS,
    MACHINE_KEYS,
    REPEATABLE_GROUPS,
    START_KEYS,
    TRAINER_CHOICE_KEYS,
    is_key_in,
    override_key,
)
from lambdanets.errors import UserError

log = logging.getLogger(__name__)
Values = dict[str, Any]


def apply_overrides(base: DictConfig, composed: DictConfig, overrides: Iterable[str], *, source: str) -> DictConfig:
    """Return a stored config with the keys that a command line sets.

    A choice of a group replaces the whole group. Two kinds do less: the choice that the run has already, of
    `REPEATABLE_GROUPS`, changes nothing, and one of trainer= sets `TRAINER_CHOICE_KEYS`.

    Args:
        base: the stored config.
        composed: the config that the command line gives with the defaults.
        overrides: the overrides of the command line, such as `trainer=gpu`, `mixer.heads=8`, `+key=value` or `~key`.
        source: the run or checkpoint that the config is of.

    Returns:
        A new config with the interpolations of both.

    Raises:
        UserError: an override sets a key that the stored config lacks.
    """
    result: Values = OmegaConf.to_container(base)  # type: ignore[assignment]
    given: Values = OmegaConf.to_container(composed)  # type: ignore[assignment]
    overrides = list(overrides)
    for override in sorted(overrides, key=lambda override: not is_choice(override, given)):
        key = override_key(override)
        if is_key_in(key, (*COMMAND_KEYS, *LABEL_KEYS)):
            if "." not in key:
                copy_key(given, result, [key])
        elif is_choice(override, given):
            apply_choice(key, given, result, source)
        else:
            if not override.startswith("~"):  # what was removed may be removed again
                check_key(key, result, source, may_be_new=override.startswith("+") and not override.startswith("++"))
            copy_key(given, result, key.split("."))
    for key in COMMAND_KEYS:
        copy_key(given, result, [key])
    return OmegaConf.create(result)


def is_choice(override: str, given: Values) -> bool:
    """Return whether an override chooses from a config group: `trainer=gpu`, and not `seed=1`."""
    key = override.lstrip("+~").split("=", 1)[0]
    return "/" in key or "@" in key or ("." not in key and isinstance(given.get(key), dict))


def apply_choice(key: str, given: Values, result: Values, source: str) -> None:
    """Set a group, or the part of it that its choice stands for."""
    chosen, own = find_value(given, key), find_value(result, key)
    if isinstance(chosen, dict) and isinstance(own, dict):
        if key in REPEATABLE_GROUPS and chosen.get("_target_") == own.get("_target_"):
            log.info("%s is the one of '%s', whose options stay as they are.", key, source)
            return
        if key == "trainer":
            own.update({name: chosen[name] for name in TRAINER_CHOICE_KEYS if name in chosen})
            return
    copy_key(given, result, key.split("."))


def find_value(values: Values, key: str) -> Any:
    """Return the value of a dotted key, or None."""
    node: Any = values
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def check_key(key: str, values: Values, source: str, *, may_be_new: bool) -> None:
    """Check that a config has a key.

    Args:
        key: the dotted key.
        values: the config.
        source: the run or checkpoint that the config is of.
        may_be_new: whether the last part of the key may be missing.

    Raises:
        UserError: it lacks the key.
    """
    node: Any = values
    names = key.split(".")
    for depth, name in enumerate(names):
        path = ".".join(names[:depth])
        if not isinstance(node, dict):
            if isinstance(node, str) and node.startswith("${"):
                raise UserError(
                    f"{key} cannot be set, since {path} is {node} in the config of '{source}': set "
                    f"{node[2:-1]}.{'.'.join(names[depth:])}."
                )
            raise UserError(f"{key} is not a key of the config of '{source}': {path} is {node} there.")
        if name not in node and not (may_be_new and depth == len(names) - 1):
            prefix = f"{path}." if path else ""
            matches = difflib.get_close_matches(name, [str(known) for known in node], n=1)
            known = ", ".join(str(known) for known in node)
            advice = f"did you mean {prefix}{matches[0]}?" if matches else f"known keys: {known}."
            raise UserError(f"{prefix}{name} is not a key of the config of '{source}'; {advice}")
        node = node.get(name)


def copy_key(source: Values, target: Values, path: list[str]) -> None:
    """Set target[path] to the value in source, or remove it where source has none."""
    *parents, last = path
    node: Any = source
    for name in parents:
        node = node.get(name) if isinstance(node, dict) else None
        target = target.setdefault(name, {})
    if isinstance(node, dict) and last in node:
        target[last] = node[last]
    else:
        target.pop(last, None)


def changed_keys(base: DictConfig, config: DictConfig) -> list[str]:
    """Return the keys of an experiment in which two configs differ, sorted."""
    before, after = resolve_groups(base), resolve_groups(config)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def check_resumable(base: DictConfig, config: DictConfig, *, source: str) -> None:
    """Check that a training which resumes leaves alone the keys that only its start can apply.

    Args:
        base: the config of the run so far.
        config: the config that it is to go on with.
        source: the run or checkpoint, for messages.

    Raises:
        UserError: one of `START_KEYS` differs, averaging of weights is switched on or off, or FSDP is switched on.
    """
    before, after = resolve_groups(base), resolve_groups(config)
    strategy = before.get("trainer.strategy")
    if after.get("trainer.strategy") == "fsdp" != strategy and not after.get("recipe.decay_norm_and_bias"):
        raise UserError(
            f"trainer=fsdp cannot continue '{source}', which was trained with trainer.strategy={strategy}: it would "
            "read the optimizer's state in another order. Leave it out, or start a new run with base_run=."
        )
    reasons = dict(START_KEYS)
    if (before.get("recipe.ema_decay") is None) != (after.get("recipe.ema_decay") is None):
        reasons["recipe.ema_decay"] = "whether the checkpoints hold averaged weights"
    for key in changed_keys(base, config):
        for start_key, reason in reasons.items():
            if is_key_in(key, (start_key,)):
                option = key.removesuffix("._target_").replace("recipe.optimizer", "recipe/optimizer")
                raise UserError(
                    f"{key}={after.get(key)} cannot be applied to a training that resumes: it determines {reason}, and "
                    f"'{source}' began with {before.get(key)}. Leave {option} out, or start a new run with base_run=."
                )


def resolve_groups(config: DictConfig) -> dict[str, Any]:
    """Return the resolved values of an experiment's keys by their dotted names, unresolved where that fails."""
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key not in (*COMMAND_KEYS, *LABEL_KEYS)])
    values: dict[str, Any] = {}

    for key in config:
        try:
            value = config[key]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException:
            value = OmegaConf.to_container(config)[key]  # type: ignore[index]
        values |= flatten_values(value, str(key))
    return {key: value for key, value in values.items() if not is_key_in(key, MACHINE_KEYS)}


def flatten_values(node: Any, path: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by their dotted keys, which begin with a path."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flatten_values(value, f"{path}.{key}" if path else str(key))
    return values
