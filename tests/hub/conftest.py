"""The Hugging Face hub without a network."""

import pytest


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
