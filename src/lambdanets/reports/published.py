"""Numbers that the papers print."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FILE = Path(__file__).with_name("published.yaml")
LARGEST_DIFFERENCE = 0.12  # million parameters; a count that differs by more has a note in the file


@dataclass(frozen=True)
class PublishedValue:
    """A printed number and its mark of trust.

    Args:
        value: the number as printed.
        trust: "D" derived again by this project, "S" read in a table or text, "R" recalled and shown as unconfirmed.
        others: other values of the same quantity by their source: "submission" as the submission printed it, "counted"
            as we count it.
    """

    value: float
    trust: str
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def rounding(self) -> float:
        """Half of the last printed digit."""
        return 0.5 * 10 ** -len(str(self.value).partition(".")[2])

    @property
    def plain(self) -> str:
        """The number without its mark: 15.4 (counted: 15.56)."""
        others = ", ".join(f"{which}: {value}" for which, value in self.others.items())
        return f"{self.value} ({others})" if others else str(self.value)

    def __str__(self) -> str:
        return self.plain + (" (unconfirmed)" if self.trust == "R" else "")


@cache
def load_published() -> dict[str, dict[str, Any]]:
    """Return published.yaml: label, numbers, larger versions and note by experiment."""
    return OmegaConf.to_container(OmegaConf.load(FILE))  # type: ignore[return-value]


def published_value(experiment: str | None, quantity: str) -> PublishedValue | None:
    """Return the number printed for an experiment, or for the first experiment that it is a small version of.

    Args:
        experiment: the name of a row of a sweep, such as table3/conv.
        quantity: params (millions), top1 (percent), gain (percent), throughput (images/s), memory (GB), flops
            (billions), seconds (of a training step of 1024 images), speedup (of an arrow of Figure 2), box_ap and the
            like (percent).
    """
    entry = load_published().get(experiment or "", {})
    if quantity in entry:
        return PublishedValue(*entry[quantity])
    values = (published_value(larger, quantity) for larger in entry.get("of", []))
    return next((value for value in values if value), None)


def format_published(experiment: str | None, quantity: str) -> str | None:
    """Return the cell with a published number, None if there is none; a gain has its sign."""
    number = published_value(experiment, quantity)
    if number is None:
        return None
    return f"+{number}" if quantity == "gain" else str(number)


def published_note(sentence: str, numbers: Iterable[PublishedValue | None]) -> str:
    """Return a sentence on published numbers, with the meaning of their mark if one of them is unconfirmed."""
    unconfirmed = any(number.trust == "R" for number in numbers if number)
    return sentence + ("; unconfirmed: as recalled, not read again." if unconfirmed else ".")


def row_label(experiment: str) -> str:
    """Return an experiment's name in tables and plots."""
    return load_published().get(experiment, {}).get("label", experiment)


def row_note(experiment: str, quantity: str = "params") -> str | None:
    """Return why our count of an experiment is not the published number, None if no reason is given.

    Args:
        experiment: the name of a row of a sweep.
        quantity: params or flops.
    """
    return load_published().get(experiment, {}).get("notes", {}).get(quantity)
