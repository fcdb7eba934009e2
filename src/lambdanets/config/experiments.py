"""Configs of experiments, composed while a job runs."""

from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lambdanets.config.keys import SWEEP_KEYS, is_key_in, override_key


def compose_sweep(config: DictConfig) -> dict[str, DictConfig]:
    """Return the config of each row of config.sweep, with the overrides of the command line.

    Hydra must be initialized, as it is while a job runs.

    Args:
        config: a job's config; without a sweep, it is the only row.
    """
    sweep = config.get("sweep")
    if not sweep:
        return {config.experiment or config.name: config}
    return {experiment: compose_experiment(experiment, row_overrides()) for experiment in sweep.experiments}


def row_overrides() -> list[str]:
    """Return the overrides of the command line that apply to every row."""
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
    return [override for override in given if applies_to_rows(override)]


def compose_experiment(experiment: str, overrides: list[str]) -> DictConfig:
    """Return the resolved config of one experiment, with overrides."""
    return resolve_composed([*overrides, f"experiment={experiment}"], name=experiment, experiment=experiment)


def compose_config(overrides: list[str]) -> DictConfig:
    """Return the resolved config of these overrides, named after them; the command line's don't apply."""
    return resolve_composed(overrides, name="-".join(overrides), experiment=None)


def resolve_composed(overrides: list[str], *, name: str, experiment: str | None) -> DictConfig:
    config = compose("config", overrides=overrides)
    OmegaConf.set_struct(config, False)
    config.name, config.experiment = name, experiment
    OmegaConf.resolve(config)
    return config


def applies_to_rows(override: str) -> bool:
    """Return whether an override sets a key of the rows, and not one of the sweep as a whole."""
    return not is_key_in(override_key(override), SWEEP_KEYS)
