"""The functions and classes that a config may call: it can come from a stranger, in a checkpoint or a run's folder."""

import importlib
import inspect
from collections.abc import Iterable, Iterator
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
# Parts of these packages that compile, download or run what they are given.
DENIED = (
    "lambdanets.atomic",
    "lambdanets.cli",
    "lambdanets.config",
    "lambdanets.distributed",
    "lambdanets.hub",
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
    """Check that a config calls only known packages, and those of config.allow_targets.

    The object that a name leads to counts as well as the name: torch.os.system is no part of torch. The check looks
    names up, which imports known packages, and calls nothing.

    Raises:
        UserError: a `_target_` lies outside of these packages, or in a part of them that runs what it is given.
    """
    trusted = config.get("allow_targets") or ()
    trusted = (trusted,) if isinstance(trusted, str) else trusted
    if not isinstance(trusted, Iterable) or not all(isinstance(name, str) for name in trusted):
        raise UserError(f"allow_targets={trusted} must be a list of packages or names, such as [my_package].")
    allowed = (*ALLOWED, *trusted)
    for key, target in find_targets(OmegaConf.to_container(config)):
        if not isinstance(target, str) or not is_allowed(target, allowed):
            raise UserError(
                f"{key}={target} is refused: a config may call only {', '.join(ALLOWED)}, and in them nothing that "
                f"runs what it is given. If you trust it, add allow_targets=[{target}]."
            )


def find_targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each `_target_` in a nested config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        dotted = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            yield dotted, value
        yield from find_targets(value, dotted)


def is_allowed(target: str, allowed: tuple[str, ...]) -> bool:
    """Return whether a config may call a target.

    Args:
        target: dotted name.
        allowed: `ALLOWED`, then the packages and names that the user trusts.
    """
    if in_packages(target, allowed[len(ALLOWED) :]):
        return True
    if not in_packages(target, allowed) or is_denied(target):
        return False
    value = locate(target)
    if value is None:
        return True  # it does not exist: Hydra explains that
    module = getattr(value, "__module__", None)
    if not (inspect.isclass(value) or inspect.isroutine(value)) or not isinstance(module, str):
        return False
    return in_packages(module, allowed) and not is_denied(f"{module}.{getattr(value, '__qualname__', '')}")


def in_packages(name: str, packages: tuple[str, ...]) -> bool:
    """Return whether a dotted name is one of the packages, or lies in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def is_denied(name: str) -> bool:
    """Return whether a dotted name lies in a part of the allowed packages that runs what it is given."""
    return any(name.startswith(part) if part.endswith("_") else in_packages(name, (part,)) for part in DENIED)


def locate(target: str) -> Any:
    """Return the object of a dotted name, or None."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            value = getattr(value, part, None)
        return value
    return None
