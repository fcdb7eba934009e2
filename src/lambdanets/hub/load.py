"""Loading of trained models in one line of Python."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lambdanets.config.allowlist import check_targets
from lambdanets.config.build import ImageSpec, build_data, build_model, task_class
from lambdanets.config.keys import NETWORK_KEYS
from lambdanets.config.upgrade import upgrade_config
from lambdanets.data import ImageData
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS, GRAPH_FILES
from lambdanets.hub.download import HUB_PREFIX, download_from_hub
from lambdanets.hub.trained_model import TrainedModel
from lambdanets.runs.checkpoints import check_state_dict, has_global_tables, read_checkpoint
from lambdanets.runs.folders import RESOLVED_CONFIG, UNRESOLVED_CONFIG, best_checkpoint
from lambdanets.runs.published import find_published, suggest_names

LABELS_FILE = "labels.json"


def load(path: str | Path, *, allow_targets: Sequence[str] = ()) -> TrainedModel:
    """Load a trained model in evaluation mode, on the CPU.

    Args:
        path: a file of job=export, in any of its formats, or its folder, of which the weights count, or else the first
            graph; a run's folder, of which the best checkpoint counts; a checkpoint; the name of published weights,
            `<data>/<row>`; or `hf-hub:<user>/<name>`, an exported folder on the Hugging Face hub.
        allow_targets: packages or names that the config may call, beside this project's, torch's and Lightning's.

    Raises:
        UserError: there is no model, it is damaged, or its config calls something that is not allowed.
    """
    path = download_from_hub(str(path)) if str(path).startswith(HUB_PREFIX) else Path(path)
    file = find_published(str(path)) or model_file(path)
    graph_format = next((known for known in FORMATS.values() if file.suffix == Path(known.file).suffix), None)
    if graph_format is None:
        checkpoint = read_checkpoint(file)
        config = validated_config(OmegaConf.create(checkpoint["config"]), allow_targets)
        data, labels = build_data(config), checkpoint["labels"]
        run: Any = load_network(config, data, checkpoint, file)
    else:
        for name in (RESOLVED_CONFIG, LABELS_FILE):
            if not (file.parent / name).is_file():
                raise UserError(f"'{file}' is a graph without its {name}: keep the files of job=export together.")
        stored: Any = OmegaConf.to_container(OmegaConf.load(file.parent / RESOLVED_CONFIG))
        config = validated_config(OmegaConf.create(upgrade_config(stored)), allow_targets)
        data, labels = build_data(config), json.loads((file.parent / LABELS_FILE).read_text(encoding="utf-8"))
        try:
            run = graph_format.read(file)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"'{file}' is damaged, or of another version ({error}): export it again.") from error
    return TrainedModel(run, task=task_class(config), data=data, classes=labels["classes"], config=config)


def model_file(path: Path) -> Path:
    """Return the file of the model at a path: the path itself, or a file in that folder.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        graphs = (path / name for name in GRAPH_FILES)
        file = best_checkpoint(path) or next((g for g in graphs if g.is_file()), None)
        if file is not None:
            return file
        reason = "the run has no checkpoint yet" if (path / UNRESOLVED_CONFIG).is_file() else "there is no model in it"
        raise UserError(f"'{path}' can't be loaded: {reason}. Give a folder of job=export, or a run's folder.")
    raise UserError(
        f"'{path}' does not exist: give a folder of job=export, a run's folder, published weights, or "
        f"{HUB_PREFIX}<user>/<name>.{suggest_names(str(path))}"
    )


def validated_config(config: Any, allow_targets: Sequence[str]) -> DictConfig:
    """Return the groups of a config that a trained model needs, resolved and checked.

    Raises:
        UserError: the config calls something that is not allowed.
    """
    config = OmegaConf.masked_copy(config, [name for name in NETWORK_KEYS if name in config])
    config.allow_targets = list(allow_targets) or None
    OmegaConf.resolve(config)
    check_targets(config)
    return config


def load_network(config: DictConfig, data: ImageData, checkpoint: dict[str, Any], file: Path) -> nn.Module:
    """Build a config's network with a checkpoint's weights, in evaluation mode.

    Args:
        config: resolved.
        data: of the config.
        checkpoint: as `read_checkpoint` returns it.
        file: of the checkpoint, for messages.

    Raises:
        UserError: the weights don't match the network.
    """
    classes = checkpoint["labels"]["classes"]
    network = build_model(config, ImageSpec(data.channels, data.image_size, len(classes)))
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    check_state_dict(network, state, file, resize=has_global_tables(checkpoint["config"]))
    network.load_state_dict(state)
    return network.eval()
