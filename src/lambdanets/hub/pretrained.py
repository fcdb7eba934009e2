"""Weights that a network starts from: of a run, of an exported model, of a hub."""

import logging
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.hub.download import HUB, download_from_hub
from lambdanets.hub.load import model_file
from lambdanets.peers import TIMM_NETWORKS, rename_weights
from lambdanets.runs.checkpoints import is_resizable_table, read_checkpoint

log = logging.getLogger(__name__)
HEAD = "classifier."
# Of the hub's models, those that timm keeps there.
TIMM = "timm/"


def load_pretrained(network: nn.Module, source: str, *, key: str = "pretrained") -> None:
    """Loads trained weights, layer by layer; position tables of a global scope are stretched to the network's maps.

    A classifier of another number of classes, or of none, stays as it is.

    Args:
        network: a classifier, or a detector's skeleton.
        source: a run's folder, whose best checkpoint counts; a checkpoint; what job=export wrote, also as
            `<user>/<name>` on the Hugging Face hub; or one of timm's lambda networks there,
            `timm/lambda_resnet26t.c1_in1k` for instance.
        key: how the user calls the source.

    Raises:
        UserError: there is no such thing, or some of its layers are not the network's.
    """
    state, origin = weights_of(network, source, key)
    own: dict[str, Tensor] = network.state_dict()
    head = {name for name in (*own, *state) if name.startswith(HEAD)}
    new_head = any(name not in own or name not in state or own[name].shape != state[name].shape for name in head)
    if new_head:
        state = {name: tensor for name, tensor in state.items() if name not in head}
        state |= {name: own[name] for name in head if name in own}
    wrong = state_dict_mismatches(network, state)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{key}={source} doesn't fit in {len(wrong)} of {len(own)} tensors: {'; '.join(wrong[:3])}{more}. Give "
            f"mixer, model and their options as there, which is of {origin}."
        )
    network.load_state_dict(state)
    but = ", but for the classifier, which is new" if new_head and not head.isdisjoint(own) else ""
    log.info("Starting from %s: all of its tensors fit%s.", source, but)


def weights_of(network: nn.Module, source: str, key: str) -> tuple[dict[str, Tensor], str]:
    """The source's weights under the network's names, and what they are of, in words."""
    if source.startswith(TIMM) and not Path(source).exists():
        return timm_weights(network, source, key)
    if not Path(source).exists() and source.removeprefix(HUB).count("/") == 1 and not source.startswith((".", os.sep)):
        file = model_file(download_from_hub(source))
    else:
        file = model_file(Path(source))
    checkpoint = read_checkpoint(file)
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    return state, architecture_summary(checkpoint["config"])


def timm_weights(network: nn.Module, source: str, key: str) -> tuple[dict[str, Tensor], str]:
    name = source.removeprefix(TIMM).split(".")[0]
    if name not in TIMM_NETWORKS:
        raise UserError(f"{key}={source} is no lambda network of timm's; choose among {', '.join(TIMM_NETWORKS)}.")
    weights = load_file(download_from_hub(source, "model.safetensors"))
    try:
        return rename_weights(weights, network), f"model={name}"
    except (AttributeError, AssertionError) as error:
        raise UserError(f"{key}={source} are weights of another network than this one: choose model={name}.") from error


def state_dict_mismatches(network: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """What of the weights doesn't fit, in words."""
    own: dict[str, Tensor] = network.state_dict()
    found = []
    for name, tensor in own.items():
        if name not in state:
            found.append(f"{name} is not in it")
        elif state[name].shape != tensor.shape:
            if is_resizable_table(network, name) and state[name].shape[:2] == tensor.shape[:2]:
                continue
            found.append(f"{name} is {list(state[name].shape)} in it and {list(tensor.shape)} in the model")
    return found + [f"{name} is not in the model" for name in state if name not in own]


def architecture_summary(config: dict[str, Any]) -> str:
    """A run's mixer and model in a few words."""
    mixer, model = config["mixer"], config["model"]
    options = ", ".join(
        f"{key}={model[key]}" for key in ("name", "depth", "width", "layout", "stem", "shortcut") if key in model
    )
    return f"mixer {str(mixer['_target_']).rsplit('.', 1)[-1]} and {options}"
