"""Pretrained weights for a new network: of a run, of an exported model, or from a hub."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.hub.download import HUB_PREFIX, download_from_hub
from lambdanets.hub.load import model_file
from lambdanets.models.backbone import Backbone
from lambdanets.peers import TIMM_NETWORKS, rename_weights
from lambdanets.runs.checkpoints import has_global_tables, is_resizable_table, read_checkpoint
from lambdanets.runs.published import find_published, similar_names, suggest_names

log = logging.getLogger(__name__)
HEAD_PREFIX = "classifier."
# timm's own models on the hub.
TIMM_PREFIX = "timm/"


def load_pretrained(network: nn.Module, source: str, *, key: str = "pretrained") -> None:
    """Load trained weights into a network; position tables of a global scope are resized to the network's maps.

    A classifier of another number of classes, or of none, keeps its own weights.

    Args:
        network: a classifier, or the part of another network that loads a classifier's weights.
        source: a run's folder, whose best checkpoint counts; a checkpoint; the name of published weights,
            `<data>/<row>`; a folder or file of job=export, also as `<user>/<name>` on the Hugging Face hub; or one of
            timm's lambda networks there, such as `timm/lambda_resnet26t.c1_in1k`.
        key: the config key of the source, for messages.

    Raises:
        UserError: there is no such source, or some of its layers don't match the network's.
    """
    state, architecture, resize = read_weights(network, source, key)
    own: dict[str, Tensor] = network.state_dict()
    # A hidden layer before the logits is none of the classes'.
    has_hidden_head = isinstance(network, Backbone) and network.has_hidden_head
    prefix = f"{network.classifier_name}." if has_hidden_head else HEAD_PREFIX
    head = {name for name in (*own, *state) if name.startswith(prefix)}
    new_head = any(name not in own or name not in state or own[name].shape != state[name].shape for name in head)
    if new_head:
        state = {name: tensor for name, tensor in state.items() if name not in head}
        state |= {name: own[name] for name in head if name in own}
    mismatches = state_dict_mismatches(network, state, resize=resize)
    if mismatches:
        more = f" and {len(mismatches) - 3} more" if len(mismatches) > 3 else ""
        raise UserError(
            f"{key}={source} does not match the model in {len(mismatches)} of {len(own)} tensors: "
            f"{'; '.join(mismatches[:3])}{more}. Set mixer, model and their options as in the source, which has "
            f"{architecture}."
        )
    network.load_state_dict(state)
    exception = " except for the classifier, which is new" if new_head and not head.isdisjoint(own) else ""
    log.info("Initialized all weights from %s%s.", source, exception)


class Weights(NamedTuple):
    """The weights of a source under the network's names.

    Args:
        state: the weights.
        architecture: a summary of the source's architecture.
        resize: whether its position tables may be interpolated, see `has_global_tables`.
    """

    state: dict[str, Tensor]
    architecture: str
    resize: bool


def read_weights(network: nn.Module, source: str, key: str) -> Weights:
    """Read the weights of a source, see `load_pretrained`."""
    if source.startswith(TIMM_PREFIX) and not Path(source).exists():
        return read_timm_weights(network, source, key)
    name = source.removeprefix(HUB_PREFIX)
    if file := find_published(source):
        return read_file_weights(file)
    if not source.startswith(HUB_PREFIX) and not Path(source).exists() and similar_names(source):
        raise UserError(
            f"{key}={source} does not exist.{suggest_names(source)} A model on the Hugging Face hub is "
            f"{HUB_PREFIX}{source}."
        )
    if not Path(source).exists() and name.count("/") == 1 and not source.startswith((".", os.sep)):
        file = model_file(download_from_hub(source))
    else:
        file = model_file(Path(source))
    return read_file_weights(file)


def read_file_weights(file: Path) -> Weights:
    """Read the weights of a file."""
    checkpoint = read_checkpoint(file)
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    config = checkpoint["config"]
    return Weights(state, architecture_summary(config), has_global_tables(config))


def read_timm_weights(network: nn.Module, source: str, key: str) -> Weights:
    """Read the weights of a lambda network of timm's."""
    name = source.removeprefix(TIMM_PREFIX).split(".")[0]
    if name not in TIMM_NETWORKS:
        raise UserError(f"{key}={source} is not a lambda network of timm's; choose among {', '.join(TIMM_NETWORKS)}.")
    weights = load_file(download_from_hub(source, "model.safetensors"))
    try:
        is_global = TIMM_NETWORKS[name]["scope"] == "global"
        return Weights(rename_weights(weights, network), f"model={name}", resize=is_global)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"{key}={source} does not match the model: choose model={name}.") from error


def state_dict_mismatches(network: nn.Module, state: dict[str, Tensor], *, resize: bool) -> list[str]:
    """Describe each tensor of the weights that doesn't match the network's; `resize` as in `Weights`."""
    own: dict[str, Tensor] = network.state_dict()
    mismatches = []
    for name, tensor in own.items():
        if name not in state:
            mismatches.append(f"{name} is missing")
        elif state[name].shape != tensor.shape:
            if resize and is_resizable_table(network, name) and state[name].shape[:2] == tensor.shape[:2]:
                continue
            mismatches.append(f"{name} is {list(state[name].shape)}, and {list(tensor.shape)} in the model")
    return mismatches + [f"{name} is not in the model" for name in state if name not in own]


def architecture_summary(config: dict[str, Any]) -> str:
    """Summarize the mixer and the model of a run's config in a few words."""
    mixer, model = config["mixer"], config["model"]
    options = ", ".join(
        f"{key}={model[key]}"
        for key in ("name", "variant", "depth", "width", "layout", "blocks", "expansion", "stem", "shortcut")
        if key in model
    )
    scope = f" with scope={mixer['scope']}" if "scope" in mixer else ""
    return f"mixer {str(mixer['_target_']).rsplit('.', 1)[-1]}{scope} and {options}"
