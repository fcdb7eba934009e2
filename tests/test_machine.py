"""The use of this machine's cores against processes of known use, and limits from files as the system writes them."""

import os
import subprocess
import sys
import time

import pytest

from lambdanets.machine import CpuUse, busy_seconds, count_cores, cpu_quota, usable_cores

SPIN = """
import time
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
print(time.process_time())
"""
VERSION_1 = {"cpu,cpuacct/x/cpu.cfs_quota_us": "50000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}
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


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, "0::/a/b", 4.0),  # a parent's
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b", 2.0),  # the smaller one
        ({"cpu.max": "200000 100000"}, "0::/path/outside/of/the/container", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None),
        (VERSION_1, "4:cpu,cpuacct:/x", 0.5),
        ({"unified/cpu.max": "200000 100000"}, "3:memory:/\n0::/", 2.0),
        ({}, "0::/", None),
    ],
)
def test_the_quota_of_a_cgroup(files, membership, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cpu_quota(tmp_path, membership) == quota


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_usable_cores_follow_the_affinity():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
