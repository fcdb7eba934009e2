"""Dockerfile and compose.yaml agree with the repository and with each other; no container engine is needed."""

import re
from importlib.metadata import metadata

import yaml

from tests.command import ROOT

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


def test_copied_files_exist_and_are_not_ignored():
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert {"src", "configs", "requirements.lock"} <= sources
    assert sources <= included
    assert all((ROOT / source).exists() for source in sources)


def test_installed_extras_exist():
    extras = set(re.findall(r"--extra (\w+)", DOCKERFILE))
    assert extras
    assert extras <= set(metadata("lambdanets").get_all("Provides-Extra"))


def test_only_gpu_services_reserve_gpus():
    services = COMPOSE["services"]
    assert {"train", "sweep", "tensorboard"} <= services.keys()
    for name, service in services.items():
        device = service["build"]["args"]["DEVICE"]
        assert device == ("cuda" if name.endswith("-gpu") else "cpu")
        assert ("deploy" in service) == (device == "cuda")
        volumes = {volume.rpartition(":")[2] for volume in service["volumes"]}
        assert volumes == {"/data", "/workspace/outputs", "/workspace/multirun"}
    assert re.search(r"^USER \$\{UID\}$", DOCKERFILE, re.MULTILINE)
