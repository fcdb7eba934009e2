"""The rows of a sweep as configs."""

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lambdanets.config.keys import SWEEP_KEYS, is_key_in, override_key


def rows(config: DictConfig) -> dict[str, DictConfig]:
    """The config of each experiment of config.sweep, with the command line's overrides; or this config alone.

    To be called by a job: it composes with what Hydra was started with.
    """
    sweep = config.get("sweep")
    if not sweep:
        return {config.experiment or config.name: config}
    return {experiment: row(experiment, overrides()) for experiment in sweep.experiments}


def overrides() -> list[str]:
    """What the command line says of all rows."""
    return [override for override in HydraConfig.get().overrides.task if concerns_rows(override)]


def row(experiment: str, overrides: list[str]) -> DictConfig:
    """One experiment's config, resolved."""
    config = compose("config", overrides=[*overrides, f"experiment={experiment}"])
    OmegaConf.set_struct(config, False)
    config.name = config.experiment = experiment
    OmegaConf.resolve(config)
    return config


def variant(overrides: list[str]) -> DictConfig:
    """A config of its own, from the defaults and these overrides, resolved."""
    config = compose("config", overrides=overrides)
    OmegaConf.set_struct(config, False)
    config.name, config.experiment = "-".join(overrides), None
    OmegaConf.resolve(config)
    return config


def concerns_rows(override: str) -> bool:
    return not is_key_in(override_key(override), SWEEP_KEYS)
