"""Numbers that the papers print."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

FILE = Path(__file__).with_name("published.yaml")


class PublishedValue(NamedTuple):
    """A printed number and its mark of trust.

    Args:
        value: the number as printed.
        trust: "D" derived again by this project, "S" read in a text, "R" recalled and shown as unconfirmed.
    """

    value: float
    trust: str

    def __str__(self) -> str:
        number = f"{self.value:.1f}" if 1 <= self.value < 100 else f"{self.value:g}"
        return number + (" (unconfirmed)" if self.trust == "R" else "")


@cache
def load_published() -> dict[str, dict[str, Any]]:
    """Return published.yaml: label, numbers and larger versions by experiment."""
    return OmegaConf.to_container(OmegaConf.load(FILE))  # type: ignore[return-value]


def published_value(experiment: str | None, quantity: str) -> PublishedValue | None:
    """Return the number printed for an experiment, or for the first experiment that it is a small version of.

    Args:
        experiment: the name of a row of a sweep, such as table3/conv.
        quantity: params (millions), top1 (percent), throughput (images/s), memory (GB), seconds (of a training
            step of 1024 images), box_ap and the like (percent).
    """
    entry = load_published().get(experiment or "", {})
    if quantity in entry:
        return PublishedValue(*entry[quantity][:2])
    values = (published_value(larger, quantity) for larger in entry.get("of", []))
    return next((value for value in values if value), None)


def row_label(experiment: str) -> str:
    """Return an experiment's name in tables and plots."""
    return load_published().get(experiment, {}).get("label", experiment)
