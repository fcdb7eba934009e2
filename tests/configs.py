"""The product's configs, composed in this process."""

from contextlib import contextmanager

from hydra import initialize_config_dir
from omegaconf import OmegaConf

from lambdanets.cli import register_resolvers
from lambdanets.config import experiments
from tests.command import ROOT

FOLDER = ROOT / "configs"
SWEEPS = {
    file.relative_to(FOLDER / "sweep").with_suffix("").as_posix(): OmegaConf.load(file).sweep
    for file in sorted((FOLDER / "sweep").rglob("*.yaml"))
    if file.stem not in ("grid", "tune")
}
EXPERIMENTS = sorted({name for sweep in SWEEPS.values() for name in sweep.rows})


@contextmanager
def composing():
    register_resolvers()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        yield


def experiment(name, *overrides):
    """An experiment's resolved config."""
    with composing():
        return experiments.compose_experiment(name, list(overrides))
