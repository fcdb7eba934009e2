"""Results of many cases, over several calls."""

import json
import subprocess
import sys

import pytest

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.resumable import ResumableResult, time_limit
from lambdanets.measured import Measured
from tests.command import environment

ORIGIN = {"packages": {"torch": "2.0"}, "python": "3.12", "date": "2026-01-01", "command": "make gpu"}
SETTING = Setting(device="cpu")


def open_result(folder, *, code="a", **options):
    return ResumableResult(folder, "layers", identity={"code": code}, origin=ORIGIN, setting=SETTING, **options)


def part(case, seconds):
    return Result("Layers", ["case", "s"], [{"case": case, "s": seconds}], [f"Rate: {seconds}.", f"{case}1: fast."])


def test_another_call_measures_the_cases_that_are_left(tmp_path):
    first = open_result(tmp_path)
    assert first.pending(["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    first.begin("a")
    first.finish("a", part("a", 1.0))
    first.begin("b")
    first.fail("b", RuntimeError("no\nmemory"))
    first.begin("c")  # hangs, and the process is killed
    second = open_result(tmp_path)
    assert second.pending(["a", "b", "c", "d"]) == ["d", "b", "c"]
    second.begin("d")
    second.finish("d", part("d", 2.0))
    document = json.loads((tmp_path / "layers.json").read_text())
    assert document["rows"] == [{"case": "a", "s": 1.0}, {"case": "d", "s": 2.0}]
    page = (tmp_path / "layers.md").read_text()
    assert "Not measured: b (failed: RuntimeError: no memory)." in page
    assert "Not measured: c (begun)." in page
    # Remarks on all cases are those of the last one; each case has its own.
    assert "Rate: 2.0." in page
    assert "Rate: 1.0." not in page
    assert "a1: fast." in page


def test_measurements_and_load_outlast_the_call(tmp_path):
    first = open_result(tmp_path)
    first.pending(["a", "b"])
    result = part("a", Measured([1.0, 3.0, 4.0]))
    result.machine_load = {"before": 0.1, "after": 0.2, "other cores": 0.0, "cores": 2.0}
    first.finish("a", result)
    second = open_result(tmp_path)
    result = part("b", Measured([2.0, 2.0, 2.0]))
    result.machine_load = {"before": 0.3, "after": 0.4, "other cores": 1.0, "cores": 2.0}
    second.finish("b", result)
    page = (tmp_path / "layers.md").read_text()
    assert "| a | 3.00 (1.00–4.00) noisy |" in page
    assert "| b | 2.00 (2.00–2.00) |" in page
    assert "Noisy cells: 1 of 2." in page
    assert (
        "Other processes used 1.00 of 2 cores during the measurements. Load average: 0.10 before, 0.40 after." in page
    )


@pytest.mark.parametrize("options", [{"code": "b"}, {"anew": True}], ids=str)
def test_other_code_and_anew_start_from_nothing(options, tmp_path):
    first = open_result(tmp_path)
    first.pending(["a"])
    first.finish("a", part("a", 1.0))
    assert open_result(tmp_path).pending(["a"]) == []
    assert open_result(tmp_path, **options).pending(["a"]) == ["a"]


def test_measurements_with_other_code_are_kept(tmp_path, caplog):
    pages = []
    for code in "abc":
        result = open_result(tmp_path, code=code)
        result.pending([code])
        result.finish(code, part(code, 1.0))
        pages.append((tmp_path / "layers.md").read_text())
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == {"layers.json", "layers.md", "layers-1.json", "layers-1.md", "layers-2.json", "layers-2.md"}
    assert [(tmp_path / f"layers-{number}.md").read_text() for number in (1, 2)] == pages[:2]
    assert "was measured with another code: it is kept as 'layers-1.json'" in caplog.text


def test_a_damaged_result_is_kept(tmp_path):
    (tmp_path / "layers.json").write_text('{"cases": {"a"')
    assert open_result(tmp_path).pending(["a"]) == ["a"]
    assert (tmp_path / "layers-1.json").read_text() == '{"cases": {"a"'


def test_a_summary_reads_all_rows_and_adds_to_the_document(tmp_path):
    def summarize(result):
        result.notes.append(f"{len(result.rows)} rows.")
        return {"rates": sum(row["s"] for row in result.rows)}

    result = open_result(tmp_path, summarize=summarize)
    result.pending(["a", "b"])
    for case, seconds in (("a", 1.0), ("b", 2.0)):
        result.finish(case, part(case, seconds))
    assert json.loads((tmp_path / "layers.json").read_text())["rates"] == 3
    assert "2 rows." in (tmp_path / "layers.md").read_text()


def test_the_limit_ends_a_process_that_hangs():
    code = (
        "import time; from lambdanets.benchmarks.resumable import time_limit\n"
        "with time_limit(0.1, 'too late'): time.sleep(600)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment(), check=False
    )
    assert done.returncode == 124
    assert done.stdout == "error: too late\n"


def test_a_case_fits_if_the_longest_one_would(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lambdanets.benchmarks.resumable.time.monotonic", lambda: now[0])
    with time_limit(100, "") as fits:
        assert fits()
        now[0] = 30
        assert fits()  # 30 + 45 < 100
        now[0] = 56
        assert not fits()


def test_a_call_of_other_cases_keeps_those_that_were_measured(tmp_path):
    first = open_result(tmp_path)
    first.pending(["a", "b"])
    for case, value in (("a", 1.0), ("b", 2.0)):
        first.finish(case, part(case, value))
    second = open_result(tmp_path)
    assert second.pending(["b", "c"]) == ["c"]
    second.finish("c", part("c", 3.0))
    assert open_result(tmp_path).pending(["a", "b", "c"]) == []
