"""Tests on a GPU: skipped without one, or rehearsed on the CPU with LAMBDANETS_TEST_DEVICE=cpu."""

import os
from pathlib import Path

import pytest
import torch

DEVICE = torch.device(os.environ.get("LAMBDANETS_TEST_DEVICE", "cuda"))
# Folder of tests.json and tests.md, which are written after each test; job=gpu sets it.
REPORT = os.environ.get("LAMBDANETS_TEST_REPORT")
NO_GPU = "no GPU: torch.cuda.is_available() is false"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture
def device():
    """The GPU, or the CPU in a rehearsal; float32 is IEEE's, in convolutions too."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield DEVICE


needs_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="a rehearsal on the CPU")
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")


class Report:
    """Result with one row per test, written as tests.json and tests.md as the tests end.

    Args:
        folder: folder of the files.
        total: number of tests.
    """

    def __init__(self, folder, total):
        from lambdanets.benchmarks.measure import Setting
        from lambdanets.benchmarks.result import Result
        from lambdanets.jobs.benchmark import describe_origin

        self.folder, self.total, self.origin = Path(folder), total, describe_origin()
        self.result = Result("Tests", ["test", "outcome", "seconds", "reason"], setting=Setting(device=DEVICE.type))

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        row["reason"] = reason.strip().splitlines()[-1].replace("|", "¦") if reason else None
        self.result.rows.append(row)
        outcomes = [row["outcome"] for row in self.result.rows]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))
        self.result.notes = [f"{counts}, of {self.total} tests."]
        self.result.save(self.folder, "tests", self.origin)


def pytest_collection_finish(session):
    if REPORT:
        session.config.pluginmanager.register(Report(REPORT, len(session.items)))
