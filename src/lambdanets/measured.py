"""Measured quantities, which keep their spread."""

import math
import statistics
from collections.abc import Iterable

# The middle half of repeated measurements may span this part of their median; beyond it, the median means little.
MAX_SPREAD = 0.1


class Measured(float):
    """The median of repeated measurements, which keeps all of them. Without any, it is nan.

    Products and quotients with a number keep the measurements; a quotient of two quantities that were measured in turn
    has the median of one over that of the other, and the quotients of the pairs as its measurements.

    Args:
        samples: the measurements, in their order.
        value: the median, or what stands for it.
        disturbed: the machine had other work during the measurements.
    """

    samples: tuple[float, ...]
    disturbed: bool

    def __new__(
        cls, samples: Iterable[float] = (), value: float | None = None, *, disturbed: bool = False
    ) -> "Measured":
        samples = tuple(samples)
        if value is None:
            value = statistics.median(samples) if samples else math.nan
        measured = super().__new__(cls, value)
        measured.samples = samples
        measured.disturbed = disturbed
        return measured

    def __getnewargs__(self) -> tuple[tuple[float, ...], float]:  # type: ignore[override]
        return self.samples, float(self)

    @property
    def spread(self) -> float:
        """Span of the middle half of the measurements, as a part of the median."""
        if len(self.samples) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return abs((third - first) / self) if self else 0.0

    @property
    def is_noisy(self) -> bool:
        return self.disturbed or self.spread > MAX_SPREAD

    def __mul__(self, factor: float) -> "Measured":
        return Measured((sample * factor for sample in self.samples), float(self) * factor, disturbed=self.disturbed)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Measured":
        if not isinstance(divisor, Measured):
            return self * (1 / divisor)
        pairs = zip(self.samples, divisor.samples, strict=False)
        disturbed = self.disturbed or divisor.disturbed
        return Measured((a / b for a, b in pairs), float(self) / float(divisor), disturbed=disturbed)

    def __rtruediv__(self, dividend: float) -> "Measured":
        return Measured(
            (dividend / sample for sample in self.samples), dividend / float(self), disturbed=self.disturbed
        )
