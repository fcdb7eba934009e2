"""Configs composed beside any Hydra application, which notices nothing."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from lambdanets import create
from lambdanets.errors import UserError
from lambdanets.hub.compose import compose_packaged

USERS_CONFIG = "defaults: [model: own]\nvalue: ${now:%Y}\n"
USERS_MODEL = "depth: 3\nvariants: {own_large: {depth: 9}}\n"


@pytest.fixture
def users_configs(tmp_path: Path) -> Path:
    """Return a folder of somebody else's configs, with names that ours have too."""
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text(USERS_CONFIG)
    (tmp_path / "model" / "own.yaml").write_text(USERS_MODEL)
    return tmp_path


@pytest.fixture(autouse=True)
def hydras_own_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the command line has registered in this process."""
    Plugins.instance()
    own = {scheme: kind for scheme, kind in SourcesRegistry.instance().types.items() if scheme != "file"}
    own["file"] = hydra._internal.core_plugins.file_config_source.FileConfigSource
    monkeypatch.setattr(SourcesRegistry.instance(), "types", own)


def make_network() -> int:
    network = create("tiny", image_size=8, in_channels=1, num_classes=10, overrides=["model.depth=[1,1,1,1]"])
    return sum(parameter.numel() for parameter in network.parameters())


def global_state() -> dict[str, Any]:
    return {
        "hydra": GlobalHydra.instance().hydra,
        "version base": VersionBase.instance().getbase(),
        "store": copy.deepcopy(ConfigStore.instance().repo),
        "sources": dict(SourcesRegistry.instance().types),
        "plugins": {kind: list(plugins) for kind, plugins in Plugins.instance().plugin_type_to_subclass_list.items()},
        "resolvers": dict(BaseContainer._resolvers),
    }


def test_networks_are_created_within_a_users_hydra_main(users_configs: Path, monkeypatch: pytest.MonkeyPatch):
    results = []

    @hydra.main(version_base="1.2", config_path=str(users_configs), config_name="config")
    def main(config: DictConfig) -> None:
        before = global_state()
        results.append([make_network(), make_network(), config.model.depth])
        assert global_state() == before
        assert compose("config").model.variants.own_large.depth == 9

    run = [f"hydra.run.dir={users_configs}", "hydra.output_subdir=null", "hydra/job_logging=none"]
    monkeypatch.setattr(sys, "argv", ["users_program.py", *run, "hydra/hydra_logging=none"])
    main()
    assert results == [[make_network(), make_network(), 3]]


def test_creating_leaves_no_trace_without_hydra():
    GlobalHydra.instance().clear()
    make_network()  # loads modules, which store the configs of Hydra's own plugins
    before = global_state()
    make_network()
    assert global_state() == before
    assert not GlobalHydra.instance().is_initialized()


def test_threads_compose_beside_a_users_hydra(users_configs: Path):
    expected = make_network()
    with initialize_config_dir(str(users_configs), version_base="1.3"), ThreadPoolExecutor(4) as pool:
        networks = [pool.submit(make_network) for _ in range(4)]
        users = [compose("config", overrides=[f"model.depth={depth}"]) for depth in range(8)]
        assert [network.result() for network in networks] == [expected] * 4
    assert [config.model.depth for config in users] == [*range(8)]
    assert all(config.model.variants.own_large.depth == 9 for config in users)


@pytest.mark.parametrize("base", ["1.1", "1.2", "1.3"])
@pytest.mark.filterwarnings("ignore:.*Hydra 1.1 compatibility")
def test_a_users_stored_configs_and_version_base_change_nothing(base: str, monkeypatch: pytest.MonkeyPatch):
    overrides = ["model=lambda_resnet101", "mixer=lambda_conv", "recipe/optimizer=sgd"]
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    monkeypatch.setattr(VersionBase.instance(), "version_base", VersionBase.instance().getbase())
    expected = OmegaConf.to_container(compose_packaged(overrides))
    ConfigStore.instance().store(name="config", node={"model": {"depth": 5}, "stray": 1})
    ConfigStore.instance().store(group="model", name="users_own", node={"depth": 7})
    hydra.version.setbase(base)
    assert OmegaConf.to_container(compose_packaged(overrides)) == expected
    with pytest.raises(UserError, match=r"model=users_own is not known; choose one of .*lambda_resnet50"):
        create("users_own")


def test_a_search_path_of_ones_own_works(users_configs: Path):
    (users_configs / "model" / "own.yaml").write_text("defaults: [tiny]\nwidth: 0.125\n")
    overrides = [f"hydra.searchpath=[file://{users_configs}]"]
    assert create("own", image_size=8, in_channels=1, overrides=overrides).feature_channels[0] == 32
    with pytest.raises(UserError, match=r"hydra.searchpath has http://x: give folders"):
        create(overrides=["hydra.searchpath=[http://x]"])
