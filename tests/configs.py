"""The product's configs, composed in this process."""

from contextlib import contextmanager

from hydra import initialize_config_dir

from lambdanets.cli import register_resolvers
from lambdanets.config import experiments
from tests.command import ROOT

FOLDER = ROOT / "configs"
EXPERIMENTS = sorted(
    str(file.relative_to(FOLDER / "experiment").with_suffix("")) for file in (FOLDER / "experiment").rglob("*.yaml")
)


@contextmanager
def composing():
    register_resolvers()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        yield


def experiment(name, *overrides):
    """An experiment's resolved config."""
    with composing():
        return experiments.row(name, list(overrides))
