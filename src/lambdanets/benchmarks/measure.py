"""Time and memory of several candidates, measured in turn."""

import contextlib
import gc
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.machine import CpuUse, count_cores
from lambdanets.measured import Measured
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.models.memory_format import lay_out_convolutions

log = logging.getLogger(__name__)
Step = Callable[[], object]
OTHER_CORES = 0.1  # cores that other processes may use during a measurement
CACHE_BYTES = 2**28  # more than the cache of any GPU
LAUNCH_CYCLES = 8_000_000  # some 4 ms, more than the CPU needs to launch a layer's training step


@dataclass(frozen=True)
class Setting:
    """Conditions of all measurements of one benchmark.

    Args:
        device: cpu, cuda, or auto for a GPU if there is one.
        precision: float32, or bfloat16 for autocast.
        threads: CPU threads.
        repeats: measurements of each candidate; results are medians.
        passes: candidates that are compared are measured again, up to so many times in all, while a time is noisy.
        seconds: a candidate whose first step takes longer is measured fewer times, `min_repeats` at least.
        min_repeats: measurements of the slowest candidates.
        memory_gib: limit of the memory; candidates that are known to need more are not run, or with a smaller batch.
        channels_last: lay out the weights and inputs of whole modules with the channels innermost.
        hide_launches: on a GPU, let it wait until the CPU has launched a step, to measure the time of the GPU alone.
    """

    device: str = "auto"
    precision: str = "float32"
    threads: int = 2
    repeats: int = 9
    passes: int = 3
    seconds: float = 4.0
    min_repeats: int = 2
    memory_gib: float = 8.0
    channels_last: bool = False
    hide_launches: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"Unknown precision={self.precision}: choose float32 or bfloat16.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={self.device} needs a GPU, but torch finds none: use device=cpu.")

    @property
    def torch_device(self) -> torch.device:
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def time_unit(self) -> tuple[str, float]:
        """Unit of the time of a layer in tables, and its number per second."""
        return ("µs", 1e6) if self.torch_device.type == "cuda" else ("ms", 1e3)

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Set the number of CPU threads, and the fastest exact convolutions of cuDNN; restore both on exit."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            # PyTorch's default lets convolutions alone compute in TF32, which would favor them in float32.
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
                yield
        finally:
            torch.set_num_threads(before)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, and with channels_last lay out the weights of its convolutions."""
        module = module.to(self.torch_device)
        if self.channels_last:
            lay_out_convolutions(module)
        return module

    def make_images(self, batch: int, channels: int, size: tuple[int, int]) -> Tensor:
        """Return random float32 images (batch, channels, *size) on the device, in the memory format."""
        images = torch.randn(batch, channels, *size, device=self.torch_device)
        return images.contiguous(memory_format=self.memory_format)

    def make_features(self, batch: int, channels: int, side: int) -> Tensor:
        """Return a random map within a network, which autocast has already cast, with a gradient."""
        features = self.make_images(batch, channels, (side, side))
        return (features.bfloat16() if self.precision == "bfloat16" else features).requires_grad_()

    def make_training_step(self, module: nn.Module, x: Tensor) -> Step:
        """Return a step of forward and backward pass, which includes the gradient of the input x."""
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
        """Return a step of a forward pass in evaluation mode."""

        def step() -> None:
            module.eval()
            with (
                torch.inference_mode(),
                torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
            ):
                module(x.detach())

        return step

    def measure_modules(
        self, modules: Mapping[str, nn.Module], x: Tensor
    ) -> tuple[dict[str, Measured], dict[str, Measured], dict[str, float]]:
        """Return the seconds of training and of inference steps, and the peak MiB of training steps, by name."""
        training = {name: self.make_training_step(module, x) for name, module in modules.items()}
        inference = {name: self.make_inference_step(module, x) for name, module in modules.items()}
        return self.measure_times(training), self.measure_times(inference), self.measure_peaks(training)

    def measure_times(self, steps: Mapping[str, Step]) -> dict[str, Measured]:
        """Return the seconds of each step, measured in turn so that slow phases of the machine affect all.

        While a time is noisy, all are measured again; the pass with the fewest noisy times counts. A step that runs out
        of the GPU's memory has nan.
        """
        rounds = {name: self.count_rounds(step) for name, step in steps.items()}
        passes = []
        for _ in range(self.passes):
            passes.append(self.measure_pass(steps, rounds))
            if not any(seconds.is_noisy for seconds in passes[-1].values()):
                break
        best = min(passes, key=rate_noise)
        if noisy := [name for name, seconds in best.items() if seconds.is_noisy]:
            disturbed = ", and other processes use this machine" * any(seconds.disturbed for seconds in best.values())
            log.warning("After %d passes the times are noisy%s: %s", len(passes), disturbed, ", ".join(noisy))
        return best

    def count_rounds(self, step: Step) -> int:
        """Return how often to measure a step, after its first calls; 0 if it runs out of the GPU's memory."""
        try:
            step()
        except torch.OutOfMemoryError:
            return 0
        first = self.time_step(step)
        return max(self.min_repeats, min(self.repeats, round(self.repeats * self.seconds / max(first, 1e-9))))

    def measure_pass(self, steps: Mapping[str, Step], rounds: Mapping[str, int]) -> dict[str, Measured]:
        """Return the seconds of each step, measured in turn as often as `rounds` says."""
        times: dict[str, list[float]] = {name: [] for name in steps}
        start = CpuUse.now()
        for round_index in range(max(rounds.values(), default=0)):
            for name, step in steps.items():
                if round_index < rounds[name]:
                    times[name].append(self.time_step(step))
        disturbed = self.is_disturbed(CpuUse.now().others_since(start))
        return {name: Measured(seconds, disturbed=disturbed) for name, seconds in times.items()}

    def is_disturbed(self, other_cores: float | None) -> bool:
        """Return whether other processes use so many cores that CPU times are wrong.

        Half of the cores that the measurement leaves are free for them: the other half may be second threads of the
        cores that it uses.
        """
        if other_cores is None or self.torch_device.type == "cuda":
            return False
        return other_cores > OTHER_CORES + max(0, count_cores() - self.threads) / 2

    def time_step(self, step: Step) -> float:
        """Return the seconds of a step: on a GPU by its own clock, with a cold cache."""
        if self.torch_device.type == "cuda":
            return self.time_gpu_step(step)
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    def time_gpu_step(self, step: Step) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=self.torch_device)
        torch.cuda.synchronize()
        if self.hide_launches:
            torch.cuda._sleep(LAUNCH_CYCLES)
        cache.random_()  # evicts what earlier steps have left in the GPU's cache
        if not self.hide_launches:
            torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    def measure_peaks(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """Return the peak memory of each step in MiB, beyond the memory in use before it."""
        return {name: self.measure_peak(step) for name, step in steps.items()}

    def measure_peak(self, step: Step) -> float:
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            try:
                step()
            except torch.OutOfMemoryError:
                return math.nan
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        return measure_cpu_peak(step)


def rate_noise(times: Mapping[str, Measured]) -> tuple[int, float]:
    """Return the number of noisy times, and the largest spread."""
    return sum(seconds.is_noisy for seconds in times.values()), max(
        (seconds.spread for seconds in times.values()), default=0.0
    )


def format_scope(scope: Scope) -> str:
    """Return the scope of a lambda layer as a table shows it: global, or 23×23."""
    return str(scope) if scope == "global" else f"{scope}×{scope}"


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


def measure_cpu_peak(step: Step) -> float:
    """Return the peak of the memory that a step allocates from PyTorch's CPU allocator, in MiB."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    allocated = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak / 2**20


def measure_matrix_rate(setting: Setting) -> float:
    """Return the multiply-adds per second of a large matrix product."""
    size = 8192 if setting.torch_device.type == "cuda" else 2048
    dtype = torch.bfloat16 if setting.precision == "bfloat16" and setting.torch_device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=setting.torch_device, dtype=dtype)
    return size**3 / setting.measure_times({"product": lambda: a @ a})["product"]


def measure_bandwidth(setting: Setting) -> float:
    """Return the bytes per second of a large copy: those read and those written."""
    size = 2**30 if setting.torch_device.type == "cuda" else 2**27
    source = torch.randint(256, (size,), device=setting.torch_device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / setting.measure_times({"copy": lambda: target.copy_(source)})["copy"]
