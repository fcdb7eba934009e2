"""Checkpoints of runs and exported weights: safe reading, checks against a model, writing."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lambdanets.atomic import ZIP_MAGIC, corruption, write_archive
from lambdanets.config.upgrade import upgrade_config
from lambdanets.errors import UserError
from lambdanets.peers import TIMM_NETWORKS

# The suffix of the weights that job=export writes.
SAFETENSORS_SUFFIX = ".safetensors"
# Numbers that weights can be stored in.
STORED_DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Entries of a checkpoint that describe its run.
METADATA_KEYS = ("config", "labels")
# Entries that checkpoints of version 0.1.0 have in the place of "labels".
FORMER_LABEL_KEYS = ("classes", "category_ids")
# The checkpoint that was read with keep=True and waits for its next reader, by its file, size and time of change.
unclaimed: dict[tuple[Path, int, int], dict[str, Any]] = {}


class RunInCheckpoint(pl.Callback):
    """Store a run's config and classes in every checkpoint, so that it can be used without the run's folder.

    Args:
        config: the run's config with its interpolations.
        labels: the names of the "classes", and other facts of the data that predictions need.
    """

    def __init__(self, config: dict[str, Any], labels: dict[str, Any]) -> None:
        self.config = config
        self.labels = labels

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint["labels"] = self.labels


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints: written atomically with a checksum, read by `read_checkpoint`."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_archive(Path(path), lambda file: torch.save(checkpoint, file))

    @override
    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


def read_checkpoint(path: str | Path, *, keep: bool = False) -> dict[str, Any]:
    """Read the checkpoint of a run, or exported weights, to the CPU.

    Only tensors and plain values are read: a checkpoint cannot run code.

    Args:
        path: of the file.
        keep: whether the next call for this file returns the same checkpoint without reading the file again.

    Raises:
        UserError: the file is missing, damaged, holds other objects, or is not a checkpoint of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint '{path}'; check the path.")
    version = (path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
    checkpoint = unclaimed.pop(version, None)
    if checkpoint is None:
        checkpoint = read_safetensors(path) if path.suffix == SAFETENSORS_SUFFIX else read_archive(path)
    unclaimed.clear()  # of a command that was refused
    if keep:
        unclaimed[version] = checkpoint
    return checkpoint


def read_archive(path: Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning wrote.

    Raises:
        UserError: as `read_checkpoint`.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not is_archive:
        raise UserError(f"The file '{path}' is not a checkpoint; give one that run.py wrote.")
    advice = "use another one of the run, such as best.ckpt instead of last.ckpt."
    if reason := corruption(path):
        raise UserError(
            f"The checkpoint '{path}' is damaged or cut off ({reason}, {path.stat().st_size} bytes): {advice}"
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
            f"The checkpoint '{path}' is damaged or cut off ({path.stat().st_size} bytes): {advice}"
        ) from error
    if isinstance(checkpoint, dict):
        checkpoint = upgrade_metadata(checkpoint)
    if not isinstance(checkpoint, dict) or not {"state_dict", *METADATA_KEYS} <= checkpoint.keys():
        raise UserError(f"The file '{path}' is not a checkpoint of a run; give one that run.py wrote.")
    return checkpoint


def upgrade_metadata(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with its config and labels as this version writes them."""
    checkpoint = dict(checkpoint)
    if "config" in checkpoint:
        checkpoint["config"] = upgrade_config(checkpoint["config"])
    labels = {name: checkpoint.pop(name) for name in FORMER_LABEL_KEYS if name in checkpoint}
    return {"labels": labels, **checkpoint} if labels else checkpoint


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read the weights of `pack_weights`, in the form of a checkpoint; half precision becomes float32.

    Raises:
        UserError: the file is damaged, or job=export did not write it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {f"model.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"The file '{path}' is damaged or not a safetensors file ({error}): export it again."
        ) from error
    known = (*METADATA_KEYS, *FORMER_LABEL_KEYS)
    entries = upgrade_metadata({key: json.loads(text) for key, text in metadata.items() if key in known})
    if not set(METADATA_KEYS) <= entries.keys():
        raise UserError(f"The file '{path}' has no config of a run; give one that job=export wrote.")
    state = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in stored.items()}
    return {"state_dict": state, **entries}


def pack_weights(checkpoint: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> bytes:
    """Return a safetensors file of a checkpoint's weights, under the model's names, with its config and labels.

    Equal checkpoints give equal bytes.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        dtype: of tensors with two or more dimensions, such as matrices and kernels; the others stay as they are.
    """
    # The format has no shared tensors: tensors that layers share are written once for each layer.
    dense = torch.contiguous_format
    state = {
        name.removeprefix("model."): t.to(dtype if is_rounded(t) else t.dtype, memory_format=dense, copy=True)
        for name, t in checkpoint["state_dict"].items()
    }
    metadata = {key: json.dumps(checkpoint[key]) for key in METADATA_KEYS}
    return sort_metadata(save(state, {**metadata, "format": "pt"}))


def round_weights(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights with the values that they have once `pack_weights` has stored them in a dtype.

    Raises:
        UserError: a weight is too large for the dtype.
    """
    rounded = {name: t.to(dtype).to(t.dtype) if is_rounded(t) else t for name, t in state.items()}
    for name, tensor in rounded.items():
        if not torch.equal(tensor.isfinite(), state[name].isfinite()):
            raise UserError(
                f"{name} has weights up to {state[name].abs().max():.3g}, and {dtype} ends at "
                f"{torch.finfo(dtype).max:g}: set job.dtype=float32."
            )
    return rounded


def is_rounded(tensor: Tensor) -> bool:
    """Return whether a tensor may be stored in half precision: vectors are small, and normalization needs theirs."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def sort_metadata(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in order; the library's order differs between processes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    """Load complete weights, also into a module that is sharded over several processes."""
    if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        set_model_state_dict(module, state, options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(state)


def check_state_dict(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, resize: bool = False) -> None:
    """Check that a checkpoint's weights match a module.

    Args:
        module: the module that is to load them.
        state: the weights.
        path: of the checkpoint.
        resize: whether position embeddings may be of another feature size, see `has_global_tables`: their layers
            interpolate them.

    Raises:
        UserError: a tensor is missing, superfluous, or of another shape.
    """
    own = module.state_dict()
    mismatch = None
    for name, tensor in own.items():
        if name not in state:
            mismatch = f"{name} is missing from the checkpoint"
        elif state[name].shape != tensor.shape:
            if resize and is_resizable_table(module, name) and state[name].shape[:2] == tensor.shape[:2]:
                continue
            mismatch = f"{name} is {list(state[name].shape)} in the checkpoint and {list(tensor.shape)} in the model"
        if mismatch:
            break
    else:
        if superfluous := next((name for name in state if name not in own), None):
            mismatch = f"{superfluous} is missing from the model"
    if mismatch:
        raise UserError(
            f"The checkpoint '{path}' does not match the model: {mismatch}. Leave out the overrides of mixer, model "
            "and data, so that the run's own are used."
        )


def check_classes(classes: Sequence[str], trained: Sequence[str], path: str | Path) -> None:
    """Check that data have the classes of a checkpoint, in the same order.

    Args:
        classes: names of the data's classes.
        trained: names of the checkpoint's classes.
        path: of the checkpoint.

    Raises:
        UserError: they differ.
    """
    classes, trained = [*map(str, classes)], [*map(str, trained)]
    if classes == trained:
        return
    if len(classes) != len(trained):
        difference = f"{len(classes)} classes, and the checkpoint {len(trained)}"
    else:
        own, other = next(pair for pair in zip(classes, trained, strict=True) if pair[0] != pair[1])
        difference = f"the class '{own}' where the checkpoint has '{other}'"
    raise UserError(
        f"The data do not have the classes of '{path}': they have {difference}. Use the data set that it was trained "
        "on, or start a new run from its config with base_run=<run>."
    )


def has_global_tables(config: Mapping[str, Any]) -> bool:
    """Return whether the tables of a run's lambda layers have all offsets, so that layers may interpolate them.

    The table of a local scope ends at its scope. Interpolated, it would be that of another layer.

    Args:
        config: the run's.
    """
    model = config["model"]
    has_own_layers = str(model.get("_target_")).startswith("lambdanets.peers.")  # the mixer is ignored
    layers = {**TIMM_NETWORKS[model["name"]], **model} if has_own_layers else config["mixer"]
    return layers.get("scope", "global") == "global"


def is_resizable_table(module: nn.Module, name: str) -> bool:
    """Return whether a parameter is a table of position embeddings that its layer interpolates to its feature size."""
    path, _, leaf = name.rpartition(".")
    return leaf == "table" and getattr(module.get_submodule(path), "scope", None) == "global"
