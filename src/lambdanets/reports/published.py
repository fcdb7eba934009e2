"""What the papers print."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

FILE = Path(__file__).with_name("published.yaml")


class Published(NamedTuple):
    """A printed number and its mark of trust: D derived again here, S read in a text, R recalled."""

    value: float
    trust: str

    def __str__(self) -> str:
        shown = f"{self.value:.1f}" if 1 <= self.value < 100 else f"{self.value:g}"
        return shown + (" (unconfirmed)" if self.trust == "R" else "")


@cache
def numbers() -> dict[str, dict[str, Any]]:
    return OmegaConf.to_container(OmegaConf.load(FILE))  # type: ignore[return-value]


def published(experiment: str | None, quantity: str) -> Published | None:
    """The number printed for an experiment, or for the first of those that it is a small version of.

    Args:
        experiment: as in configs/experiment, such as table3/conv.
        quantity: params (millions), top1 (percent), throughput (images/s), memory (GB).
    """
    row = numbers().get(experiment or "", {})
    if quantity in row:
        return Published(*row[quantity])
    return next((found for other in row.get("of", []) if (found := published(other, quantity))), None)


def label(experiment: str) -> str:
    """What a row is called in a table."""
    return numbers().get(experiment, {}).get("label", experiment)
