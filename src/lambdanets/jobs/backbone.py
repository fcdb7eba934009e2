"""A detector that starts from the weights of a classification run."""

import logging
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.jobs.checkpoints import read_checkpoint, stretches
from lambdanets.jobs.runs import checkpoint_file, find_run

log = logging.getLogger(__name__)
HEAD = "classifier."


def load_backbone(model: nn.Module, ckpt: str) -> None:
    """Loads a classifier's skeleton into a detector's, layer by layer; position tables are stretched to larger maps.

    Args:
        model: the detector.
        ckpt: a run's folder, whose best checkpoint counts, a checkpoint, or weights that job=export wrote.

    Raises:
        UserError: there is no such checkpoint, or some of its layers are not those of the detector's skeleton.
    """
    file = named(ckpt)
    checkpoint = read_checkpoint(file)
    body: Any = model.get_submodule("backbone.body")
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    wrong = differences(body, state)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"model.backbone_ckpt={ckpt} doesn't fit in {len(wrong)} of {len(body.state_dict())} tensors: "
            f"{'; '.join(wrong[:3])}{more}. Give mixer, model.backbone and their options as in that run, which has "
            f"{described(checkpoint['config'])}."
        )
    body.load_state_dict(state)
    log.info("The backbone starts from %s: all of its %d tensors fit.", os.path.relpath(file), len(state))


def named(ckpt: str) -> Path:
    """Raises UserError: there is no such run or file, or the run has no checkpoint yet."""
    if Path(ckpt).is_file():
        return Path(ckpt)
    run = find_run(ckpt, "")
    file = checkpoint_file(run, ("best", "last", "previous")) if run is not None else None
    if file is None:
        raise UserError(f"model.backbone_ckpt={ckpt} has no checkpoint yet: train that run first.")
    return file


def differences(body: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """What of the weights doesn't fit the skeleton, in words."""
    own: dict[str, Tensor] = body.state_dict()
    found = []
    for name, tensor in own.items():
        if name not in state:
            found.append(f"{name} is not in it")
        elif state[name].shape != tensor.shape:
            if stretches(body, name) and state[name].shape[:2] == tensor.shape[:2]:
                continue
            found.append(f"{name} is {list(state[name].shape)} in it and {list(tensor.shape)} in the detector")
    return found + [f"{name} is not in the detector" for name in state if name not in own]


def described(config: dict[str, Any]) -> str:
    """A run's mixer and model in a few words."""
    mixer, model = config["mixer"], config["model"]
    options = ", ".join(
        f"{key}={model[key]}" for key in ("depth", "width", "layout", "stem", "shortcut") if key in model
    )
    return f"mixer {str(mixer['_target_']).rsplit('.', 1)[-1]} and {options}"
