"""Time and memory of several contestants, in turn."""

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """Where and how everything in one benchmark is measured.

    Args:
        device: cpu, cuda, or auto for a GPU if there is one.
        precision: float32, or bfloat16 for autocast.
        threads: of the CPU.
        repeats: measurements of each contestant, of which the median counts.
        seconds: a contestant whose first step takes longer is repeated less often, down to twice.
        memory_gib: contestants that are known to need more aren't run.
    """

    device: str = "auto"
    precision: str = "float32"
    threads: int = 2
    repeats: int = 9
    seconds: float = 4.0
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision={self.precision} is not known; choose one of float32, bfloat16.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={self.device} needs a GPU and torch finds none here: use device=cpu.")

    @property
    def torch_device(self) -> torch.device:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    @contextlib.contextmanager
    def limit_threads(self) -> Iterator[None]:
        """The threads set, and set back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def make_training_step(self, module: nn.Module, x: Tensor) -> Step:
        """Forward and backward, gradients of the input included."""
        grads: list[Tensor] = []

        def step() -> None:
            module.train().zero_grad()
            x.grad = None
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                y = module(x)
            if not grads:
                grads.append(torch.randn_like(y))
            y.backward(grads[0])

        return step

    def make_loss_step(self, module: nn.Module, arguments: tuple[Any, ...]) -> Step:
        """Return a step that computes the sum of a module's losses, and its gradients."""
        device = next(module.parameters()).device.type

        def step() -> None:
            module.train().zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
                losses = module(*arguments)
            torch.stack(list(losses.values())).sum().backward()

        return step

    def make_inference_step(self, module: nn.Module, x: Tensor) -> Step:
        def step() -> None:
            module.eval()
            with (
                torch.inference_mode(),
                torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
            ):
                module(x.detach())

        return step

    def measure_times(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """The median seconds of each step, measured in turn so that a slow moment of the machine hits all alike."""
        rounds = {}
        for name, step in steps.items():
            step()
            first = self.timed(step)
            rounds[name] = max(2, min(self.repeats, round(self.repeats * self.seconds / max(first, 1e-9))))
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(max(rounds.values(), default=0)):
            for name, step in steps.items():
                if number < rounds[name]:
                    taken[name].append(self.timed(step))
        return {name: statistics.median(seconds) for name, seconds in taken.items()}

    def timed(self, step: Step) -> float:
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def measure_peaks(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """The MiB that each step holds at most beyond what is held before it."""
        return {name: self.peak(step) for name, step in steps.items()}

    def peak(self, step: Step) -> float:
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        return allocated_peak(step)


class TimedTraining(Protocol):
    """Training of one config, whose parts can be timed."""

    @property
    def steps(self) -> int:
        """Training steps per epoch."""

    def epoch_seconds(self) -> float:
        """Return the seconds of an epoch of job=fit, with its validation."""

    def bare_loop_epoch_seconds(self) -> float:
        """Return the seconds of the same epoch in a bare PyTorch loop."""

    def training_seconds(self, callbacks: str) -> tuple[float, float]:
        """Return the seconds of a whole training with these callbacks, and those inside of visualizations."""


def allocated_peak(step: Step) -> float:
    """The most memory that PyTorch's CPU allocator holds for a step, in MiB, as on a GPU its caching allocator says."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def matrix_rate(setting: Setting) -> float:
    """Multiply-adds a second in a large matrix product."""
    size = 8192 if setting.torch_device.type == "cuda" else 2048
    kind = torch.bfloat16 if setting.precision == "bfloat16" and setting.torch_device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=setting.torch_device, dtype=kind)
    return size**3 / setting.measure_times({"product": lambda: a @ a})["product"]
