"""Reading checkpoints: safely, and with a sentence where one is not what it should be."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from lambdanets.atomic import atomic_write, corruption
from lambdanets.config.upgrade import upgrade_config
from lambdanets.errors import UserError

# What torch.save writes is a zip archive, and begins like one.
ARCHIVE = b"PK\x03\x04"
# What job=export writes.
WEIGHTS = ".safetensors"
# What a checkpoint says of its run.
SAID = ("config", "classes", "category_ids")


class RunInCheckpoint(pl.Callback):
    """Puts into every checkpoint what it takes to use it without its run's folder.

    Args:
        config: the run's config with its interpolations.
        labels: names of the classes, and what else the data say of them.
    """

    def __init__(self, config: dict[str, Any], labels: dict[str, Any]) -> None:
        self.config = config
        self.labels = labels

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint.update(self.labels)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Loads a run's checkpoint on the CPU. Only tensors and plain values are read: a checkpoint can't run code.

    Raises:
        UserError: the file is missing, damaged, holds other objects, or is not a checkpoint of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint '{path}'; check the path.")
    if path.suffix == WEIGHTS:
        return read_weights(path)
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
    if not is_archive:
        raise UserError(f"The file '{path}' is not a checkpoint; give one that run.py wrote.")
    if wrong := corruption(path):
        raise UserError(
            f"The checkpoint '{path}' is damaged or cut off ({wrong}, {path.stat().st_size} bytes): use another one of "
            "the run, such as best.ckpt instead of last.ckpt."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The checkpoint '{path}' holds objects other than tensors and plain values and was not opened, since "
            "they could run code; use a checkpoint that run.py wrote."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The checkpoint '{path}' is damaged or cut off ({path.stat().st_size} bytes): use another one of the run, "
            "such as best.ckpt instead of last.ckpt."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "classes"} <= checkpoint.keys():
        raise UserError(f"The file '{path}' is not a checkpoint of a run; give one that run.py wrote.")
    return checkpoint | {"config": upgrade_config(checkpoint["config"])}


def write_weights(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes a checkpoint's weights, under the model's names, with its config and classes, as a safetensors file."""
    # The format has no shared tensors: what layers share is written for each of them.
    whole = torch.contiguous_format
    state = {name.removeprefix("model."): t.clone(memory_format=whole) for name, t in checkpoint["state_dict"].items()}
    said = {name: json.dumps(checkpoint[name]) for name in SAID if name in checkpoint}
    atomic_write(path, save(state, {**said, "format": "pt"}))


def read_weights(path: Path) -> dict[str, Any]:
    """What `write_weights` wrote, as `read_checkpoint` gives it.

    Raises:
        UserError: the file is damaged, or not one that job=export wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            state = {f"model.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"The file '{path}' is damaged or not a safetensors file ({error}): export it again."
        ) from error
    if not {"config", "classes"} <= said.keys():
        raise UserError(f"The file '{path}' has no config of a run; give one that job=export wrote.")
    labels = {name: json.loads(said[name]) for name in SAID if name in said}
    return {"state_dict": state, **labels, "config": upgrade_config(labels["config"])}


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    """Loads whole weights, also into a module that is sharded over several processes."""
    if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        set_model_state_dict(module, state, options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(state)


def check_fits(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, resize: bool = False) -> None:
    """Compares a checkpoint's weights with a module's.

    Args:
        module: what is to load them.
        state: the weights.
        path: of the checkpoint.
        resize: whether position embeddings may be of another feature size, to which their layers then stretch them.

    Raises:
        UserError: they are those of another architecture.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            found = "is not in it"
        elif resize and stretches(module, name) and state[name].shape[:2] == tensor.shape[:2]:
            continue
        elif state[name].shape != tensor.shape:
            found = f"is {list(state[name].shape)} in it and {list(tensor.shape)} in the model"
        else:
            continue
        break
    else:
        name = next((name for name in state if name not in own), "")
        found = "is not in the model"
        if not name:
            return
    raise UserError(
        f"The checkpoint '{path}' is of another architecture: {name} {found}. Leave out the overrides of mixer, model "
        "and data, so that the run's own are used."
    )


def stretches(module: nn.Module, name: str) -> bool:
    """Whether that parameter is a table of position embeddings which its layer fits to its feature size."""
    path, _, leaf = name.rpartition(".")
    return leaf == "table" and getattr(module.get_submodule(path), "scope", None) == "global"
