"""Use of the GPU during a training."""

import contextlib
import statistics
import subprocess
from types import TracebackType

INTERVAL_MS = 100


class GpuUse:
    """Percentages of time in which the first GPU computes, sampled by nvidia-smi while the context is active.

    Without nvidia-smi there are no samples.
    """

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "GpuUse":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        with contextlib.suppress(OSError):
            self.process = subprocess.Popen(
                [*command, f"--loop-ms={INTERVAL_MS}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        self.process.terminate()
        output, _ = self.process.communicate()
        self.samples += [float(line) for line in output.splitlines() if line.strip().isdigit()]

    @property
    def median(self) -> float | None:
        """Median of the samples in which the GPU computed at all; it idles while a training is prepared."""
        busy = [sample for sample in self.samples if sample > 0]
        return statistics.median(busy) if busy else None
