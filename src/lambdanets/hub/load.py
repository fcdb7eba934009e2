"""Trained models in one line of Python."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.allowlist import check_targets
from lambdanets.config.build import ImageSpec, build_data, build_model
from lambdanets.config.keys import NETWORK_KEYS
from lambdanets.config.upgrade import upgrade_config
from lambdanets.data import ImageData
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS
from lambdanets.hub.download import HUB, download_from_hub
from lambdanets.hub.trained_model import TrainedModel
from lambdanets.runs.checkpoints import check_state_dict, read_checkpoint
from lambdanets.runs.folders import RESOLVED_CONFIG, UNRESOLVED_CONFIG, best_checkpoint

LABELS_FILE = "labels.json"


def load(path: str | Path, *, allow_targets: Sequence[str] = ()) -> TrainedModel:
    """A trained model in evaluation mode, on the CPU.

    Args:
        path: what job=export wrote, as folder or file, in any of its formats (of a folder its weights, or else its
            first graph); a run's folder, of which the best checkpoint counts; a checkpoint; or `hf-hub:<user>/<name>`,
            such a folder on the Hugging Face hub.
        allow_targets: packages or names that its config may call beside this project's, torch's and Lightning's.

    Raises:
        UserError: there is nothing there, it is damaged, or its config calls something else.
    """
    path = download_from_hub(str(path)) if str(path).startswith(HUB) else Path(path)
    file = model_file(path)
    graph = next((known for known in FORMATS.values() if file.suffix == Path(known.file).suffix), None)
    if graph is None:
        checkpoint = read_checkpoint(file)
        config = validated_config(OmegaConf.create(checkpoint["config"]), allow_targets)
        data, classes = build_data(config), checkpoint["classes"]
        return TrainedModel(load_network(config, data, checkpoint, file), data=data, classes=classes, config=config)
    beside = file.parent
    for needed in (RESOLVED_CONFIG, LABELS_FILE):
        if not (beside / needed).is_file():
            raise UserError(f"'{file}' is a graph without its {needed}: keep the files of job=export together.")
    stored: Any = OmegaConf.to_container(OmegaConf.load(beside / RESOLVED_CONFIG))
    config = validated_config(OmegaConf.create(upgrade_config(stored)), allow_targets)
    classes = json.loads((beside / LABELS_FILE).read_text())["classes"]
    try:
        run = graph.read(file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{file}' is damaged, or of another version ({error}): export it again.") from error
    return TrainedModel(run, data=build_data(config), classes=classes, config=config)


def model_file(path: Path) -> Path:
    """The file that a path means.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        graphs = (path / known.file for known in FORMATS.values())
        found = best_checkpoint(path) or next((g for g in graphs if g.is_file()), None)
        if found is not None:
            return found
        what = (
            "the run in it has no checkpoint yet" if (path / UNRESOLVED_CONFIG).is_file() else "there is no model in it"
        )
        raise UserError(f"'{path}' can't be loaded: {what}; give what job=export wrote, or a run's folder.")
    raise UserError(f"'{path}' does not exist: give what job=export wrote, a run's folder, or {HUB}<user>/<name>.")


def validated_config(config: Any, allow_targets: Sequence[str]) -> DictConfig:
    """What of a config makes the network and prepares images, resolved.

    Raises:
        UserError: it calls what it may not.
    """
    kept = OmegaConf.masked_copy(config, [name for name in NETWORK_KEYS if name in config])
    kept.allow_targets = list(allow_targets) or None
    OmegaConf.resolve(kept)
    check_targets(kept)
    return kept


def load_network(config: DictConfig, data: ImageData, checkpoint: dict[str, Any], file: Path) -> Any:
    """A config's network with a checkpoint's weights, in evaluation mode."""
    network = build_model(config, ImageSpec(data.channels, data.image_size, len(checkpoint["classes"])))
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    check_state_dict(network, state, file, resize=True)
    network.load_state_dict(state)
    return network.eval()
