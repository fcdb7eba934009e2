"""The use of this machine's cores against processes of known use."""

import subprocess
import sys
import time

import pytest

from lambdanets.machine import CpuUse, busy_seconds, count_cores

SPIN = """
import time
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
print(time.process_time())
"""
needs_report = pytest.mark.skipif(busy_seconds() is None, reason="the system does not report the use of its cores")


@needs_report
def test_the_time_of_another_process_counts():
    start = CpuUse.now()
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True) as neighbor:
        used = float(neighbor.stdout.readline())
        end = CpuUse.now()  # before its time is added to that of this process
    assert end.others_since(start) * (end.time - start.time) > 0.8 * used


@needs_report
def test_the_time_of_this_process_does_not_count():
    start, own_start = CpuUse.now(), time.process_time()
    while time.process_time() < own_start + 0.7:
        pass
    end = CpuUse.now()
    elapsed = end.time - start.time
    assert end.others_since(start) * elapsed < count_cores() * elapsed - 0.6


def test_a_use_that_is_unknown_or_too_short_is_none():
    assert CpuUse(10.0, None, None).others_since(CpuUse(1.0, None, None)) is None
    assert CpuUse(1.01, 5.0, None).others_since(CpuUse(1.0, 4.0, None)) is None
    assert CpuUse(3.0, 5.0, None).others_since(CpuUse(1.0, 4.0, None)) == 0.5
