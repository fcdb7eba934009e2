"""What a config may call: it can come from a stranger, in a checkpoint or in a run's folder."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.errors import UserError

ALLOWED = (
    "lambdanets",
    "torch",
    "torchvision",
    "torchmetrics",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "pl_bolts",
)
# Parts of these that compile, download or run what they are given.
REFUSED = (
    "lambdanets.cli",
    "lambdanets.ops",
    "lightning.pytorch.cli",
    "pytorch_lightning.cli",
    "torch._",
    "torch.distributed",
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.multiprocessing",
    "torch.package",
    "torch.serialization",
    "torch.testing",
    "torch.utils.benchmark",
    "torch.utils.bottleneck",
    "torch.utils.collect_env",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "torchvision.datasets.utils",
)


def check_targets(config: DictConfig) -> None:
    """Raises UserError: a `_target_` in the config lies outside of the known packages and of config.allow_targets.

    What a name leads to counts, not only the name: torch.os.system is no part of torch. Names are looked up, which
    imports known packages, and nothing is called.
    """
    allowed = (*ALLOWED, *(config.get("allow_targets") or ()))
    for key, target in targets(OmegaConf.to_container(config)):
        if not isinstance(target, str) or not permitted(target, allowed):
            raise UserError(
                f"{key}={target} is refused: a config may only call {', '.join(ALLOWED)}, and in them nothing that "
                f"runs what it is given; if you trust it, say so with allow_targets=[{target}]."
            )


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of all `_target_`s in a nested config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        place = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            yield place, value
        yield from targets(value, place)


def permitted(target: str, allowed: tuple[str, ...]) -> bool:
    trusted = allowed[len(ALLOWED) :]
    if within(target, trusted):
        return True
    if not within(target, allowed) or refused(target):
        return False
    found = locate(target)
    if found is None:
        return True  # there is no such thing: its own sentence comes from Hydra
    home = getattr(found, "__module__", None)
    if not (inspect.isclass(found) or inspect.isroutine(found)) or not isinstance(home, str):
        return False
    return within(home, allowed) and not refused(f"{home}.{getattr(found, '__qualname__', '')}")


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def refused(name: str) -> bool:
    return any(name.startswith(f"{part}") if part.endswith("_") else within(name, (part,)) for part in REFUSED)


def locate(target: str) -> Any:
    """The object of that dotted name, or None."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None
