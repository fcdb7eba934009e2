"""Measured times and memory against known ones."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lambdanets.benchmarks.measure import Setting, format_scope, measure_matrix_rate
from lambdanets.errors import UserError
from lambdanets.machine import CpuUse

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_times_are_medians_of_steps_measured_in_turn(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr("lambdanets.benchmarks.measure.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(name, durations):
        durations = iter(durations)

        def run():
            order.append(name)
            now[0] += next(durations)

        return run

    # The first call warms up, the second decides on the number of measurements.
    steps = {"short": step("short", [9.0, 0.1, 0.1, 0.3, 0.2]), "long": step("long", [9.0, 2.0, 4.0, 3.0])}
    times = Setting(device="cpu", repeats=3, passes=1, seconds=1.0).measure_times(steps)
    assert times == pytest.approx({"short": 0.2, "long": 3.5})
    assert order == ["short"] * 2 + ["long"] * 2 + ["short", "long", "short", "long", "short"]


def scripted(monkeypatch, durations):
    """Return steps that take these seconds, one after the other, and the list of their calls."""
    now, calls = [0.0], []
    monkeypatch.setattr("lambdanets.benchmarks.measure.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(name, seconds):
        def run():
            calls.append(name)
            now[0] += next(seconds)

        return run

    return {name: step(name, iter(seconds)) for name, seconds in durations.items()}, calls


def test_noisy_times_are_measured_again_beside_the_others(monkeypatch):
    first_calls, calm = [1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    durations = {"noisy": [*first_calls, 1.0, 5.0, 1.0, 9.0, *calm], "calm": [*first_calls, *calm, 2.0, 2.0, 2.0, 2.0]}
    steps, calls = scripted(monkeypatch, durations)
    times = Setting(device="cpu", repeats=4, seconds=60).measure_times(steps)
    assert times == {"noisy": 1.0, "calm": 2.0}  # both of the second pass
    assert len(calls) == 2 * (2 + 4 + 4)


def test_times_that_stay_noisy_are_said_and_marked(monkeypatch, caplog):
    noise = [1.0, 5.0, 1.0, 9.0]
    steps, calls = scripted(monkeypatch, {"ours": [1.0, 1.0, *noise, 1.0, 2.0, 1.0, 2.0, *noise]})
    seconds = Setting(device="cpu", repeats=4, passes=3, seconds=60).measure_times(steps)["ours"]
    assert len(calls) == 2 + 3 * 4
    assert (float(seconds), seconds.is_noisy) == (1.5, True)  # of the pass with the smallest spread
    assert "After 3 passes the times are noisy: ours" in caplog.text


@pytest.mark.parametrize(
    ("cores", "threads", "others", "disturbed"),
    [(2, 2, 0.05, False), (2, 2, 0.3, True), (2, 1, 0.4, False), (2, 1, 1.0, True), (64, 2, 20.0, False)],
)
def test_other_processes_disturb_when_they_use_more_than_half_of_the_spare_cores(
    cores, threads, others, disturbed, monkeypatch
):
    monkeypatch.setattr("lambdanets.benchmarks.measure.count_cores", lambda: cores)
    assert Setting(device="cpu", threads=threads).is_disturbed(others) is disturbed
    assert not Setting(device="cpu", threads=threads).is_disturbed(None)


def test_a_busy_neighbor_marks_the_times(monkeypatch):
    uses = iter([CpuUse(0.0, 5.0, 1.0), CpuUse(10.0, 14.0, 1.0)])  # 0.9 cores
    monkeypatch.setattr(CpuUse, "now", staticmethod(lambda: next(uses)))
    monkeypatch.setattr("lambdanets.benchmarks.measure.count_cores", lambda: 2)
    steps, _ = scripted(monkeypatch, {"ours": [1.0] * 4})
    seconds = Setting(device="cpu", repeats=2, passes=1).measure_times(steps)["ours"]
    assert (seconds.spread, seconds.is_noisy) == (0, True)


def test_peak_is_the_memory_that_a_step_adds():
    before = torch.ones(2**20)

    def step():
        extra = torch.ones(16 * 2**20)  # 64 MiB
        return (extra + before[0]).sum()  # the sum of both takes as much again

    peak = QUICK.measure_peaks({"step": step})["step"]
    assert peak == pytest.approx(128, rel=0.01)


def test_threads_are_restored():
    before = torch.get_num_threads()
    with Setting(device="cpu", threads=before + 1).apply():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_matrix_rate_is_multiply_adds_per_second(monkeypatch):
    monkeypatch.setattr(Setting, "time_step", lambda self, step: 0.5)
    assert measure_matrix_rate(QUICK) == 2 * 2048**3


def test_names_of_scopes():
    assert [format_scope(scope) for scope in ("global", 23)] == ["global", "23×23"]


def test_invalid_settings():
    with pytest.raises(UserError, match="precision=int8"):
        Setting(precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda needs a GPU"):
            Setting(device="cuda")


class FakeEvent:
    """A CUDA event of a clock that the test sets."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = FakeEvent.now

    def elapsed_time(self, end):
        return end.time - self.time


@pytest.mark.parametrize("hide_launches", [False, True])
def test_steps_on_a_gpu_are_timed_by_its_clock_behind_a_cold_cache(hide_launches, monkeypatch):
    calls = []
    fakes = {
        "Event": FakeEvent,
        "is_available": lambda: True,
        "synchronize": lambda: calls.append("wait"),
        "_sleep": lambda cycles: calls.append("sleep"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    class Cache:
        def random_(self):
            FakeEvent.now += 100
            calls.append("evict")

    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: Cache())

    def step():
        FakeEvent.now += 7  # milliseconds
        calls.append("step")

    setting = Setting(device="cuda", hide_launches=hide_launches)
    assert setting.time_step(step) == pytest.approx(7e-3)
    # Without hiding them, the GPU must not be busy with the eviction while the CPU launches the step.
    before = ["sleep", "evict"] if hide_launches else ["evict", "wait"]
    assert calls == ["wait", *before, "step", "wait"]


def test_a_step_without_enough_memory_has_no_time():
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    times = QUICK.measure_times({"large": fail, "small": lambda: None})
    assert math.isnan(times["large"])
    assert times["small"] > 0


def test_convolutions_alone_are_laid_out_channels_last():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 4, 3)
            self.deep = torch.nn.Conv3d(4, 4, (1, 3, 3))
            self.table = torch.nn.Parameter(torch.randn(4, 2, 3, 3))

    block = replace(QUICK, channels_last=True).place(Block())
    assert block.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert block.table.is_contiguous()
    assert replace(QUICK, channels_last=True).make_images(2, 3, (4, 5)).stride() == (60, 1, 15, 3)
