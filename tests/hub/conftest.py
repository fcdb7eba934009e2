"""The Hugging Face hub without a network, and published weights of a network that nobody trained."""

import pytest

from lambdanets.jobs import export
from lambdanets.runs import published
from tests.checkpoints import write_checkpoint


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function that makes a model's folder in an empty cache of the hub's own client."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)

    def model_folder(name):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        commit = "0" * 40
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        return snapshot

    return model_folder


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Publish digits/lambda, of global lambda layers; return its folder, and its network with the rounded weights."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    config, network, _ = write_checkpoint(
        tmp_path,
        ["mixer=lambda", "mixer.scope=global", "mixer.heads=2", "model=tiny", "job=export", "job.dtype=float16"],
    )
    folder = tmp_path / "weights" / "digits" / "lambda"
    export.run(config, folder)
    monkeypatch.setattr(published, "published_folder", lambda: tmp_path / "weights")
    for tensor in network.state_dict().values():
        if tensor.ndim >= 2:
            tensor.copy_(tensor.half())
    return folder, network
