"""Measurements of many cases in a limited time, over several calls."""

import hashlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result, restore_measurements, store_measurements
from lambdanets.config.search_path import PACKAGE, packaged_configs
from lambdanets.runs.folders import read_json

MEASURED, BEGUN, FAILED = "measured", "begun", "failed"

log = logging.getLogger(__name__)


def differing_names(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ between two mappings, sorted."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def set_aside(file: Path, changed: Sequence[str]) -> None:
    """Rename a result and its table to `<name>-1`, or the next free number.

    Args:
        file: the JSON file of the result.
        changed: what differs from today's measurement.
    """
    number = next(n for n in itertools.count(1) if not file.with_stem(f"{file.stem}-{n}").exists())
    earlier_file = file.with_stem(f"{file.stem}-{number}")
    for suffix in (".json", ".md"):
        if file.with_suffix(suffix).is_file():
            file.with_suffix(suffix).rename(earlier_file.with_suffix(suffix))
    log.warning("'%s' was measured with another %s: it is kept as '%s'.", file, ", ".join(changed), earlier_file.name)


class ResumableResult:
    """Result of several cases, written after each of them as <name>.json and .md.

    A case that an earlier call has measured counts if the identity is the same; otherwise the files of earlier calls
    are renamed, and the result starts anew.
    Cases that an earlier call has begun without an end come last, so that one that hangs does not stop the others.

    Args:
        folder: folder of the files.
        name: name of the files.
        identity: device, versions, code and options of the measurement, as values of JSON.
        origin: origin of this call, for `Result.save`.
        setting: the conditions that all cases share.
        summarize: called with the result of all cases; it may add notes, and returns further entries of the JSON.
        anew: ignore earlier calls.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        identity: dict[str, Any],
        origin: dict[str, Any],
        setting: Setting,
        summarize: Callable[[Result], dict[str, Any]] = lambda result: {},
        anew: bool = False,
    ) -> None:
        self.folder, self.name, self.identity, self.origin = folder, name, identity, origin
        self.setting, self.summarize = setting, summarize
        self.cases: dict[str, str] = {}
        self.results: list[dict[str, Any]] = []
        file = folder / f"{name}.json"
        if file.is_file() and not anew:
            document = read_json(file) or {}
            changed = differing_names(document.get("identity") or {}, json.loads(json.dumps(identity)))
            if not changed:
                self.cases, self.results = document["cases"], document["results"]
            else:
                set_aside(file, changed)

    def pending(self, cases: Sequence[str]) -> list[str]:
        """Return the cases that are left to measure, and record all of them beside those that were measured."""
        measured = {case: state for case, state in self.cases.items() if state == MEASURED}
        self.cases = measured | {case: self.cases.get(case, "") for case in cases}
        left = [case for case in cases if self.cases[case] != MEASURED]
        return sorted(left, key=lambda case: self.cases[case] != "")

    def begin(self, case: str) -> None:
        self.cases[case] = BEGUN
        self.save()

    def finish(self, case: str, result: Result) -> None:
        self.cases[case] = MEASURED
        part = {key: getattr(result, key) for key in ("title", "columns", "rows", "notes", "machine_load")}
        self.results.append(part | {"measurements": store_measurements(result.rows)})
        self.save()

    def fail(self, case: str, error: Exception) -> None:
        self.cases[case] = f"{FAILED}: {describe_error(error)}"
        self.save()

    def measure(
        self,
        cases: Mapping[str, Callable[[], Result]],
        *,
        fits: Callable[[], bool] = lambda: True,
        strict: bool = False,
    ) -> int:
        """Measure the cases that are left; one that fails does not stop the others.

        Args:
            cases: measurement of each case.
            fits: returns whether there is time for another case.
            strict: raise the exception of a case that fails.

        Returns:
            The number of cases that were measured.
        """
        measured = 0
        for case in self.pending(list(cases)):
            if not fits():
                break
            self.begin(case)
            try:
                self.finish(case, cases[case]())
                measured += 1
            except Exception as error:
                if strict:
                    raise
                self.fail(case, error)
        return measured

    @property
    def failures(self) -> list[str]:
        """The cases that failed, with their errors."""
        return [f"{case}: {state}" for case, state in self.cases.items() if state.startswith(FAILED)]

    def save(self) -> Result:
        """Write and return one result with the rows and notes of all measured cases, and the names of the others."""
        result = Result(self.name, [], setting=self.setting)
        notes: dict[str, str] = {}
        for part in self.results:
            result.title, result.columns = part["title"], part["columns"]
            result.machine_load = join_loads(result.machine_load, part.get("machine_load", {}))
            result.rows += restore_measurements(part["rows"], part.get("measurements"))
            for note in part["notes"]:
                label = note.partition(":")[0]
                is_of_case = any(character.isdigit() for character in label)
                notes[note if is_of_case else label] = note  # of remarks on all cases, the last one
        result.notes = list(notes.values())
        more = self.summarize(result) if self.results else {}
        missing = {case: state for case, state in self.cases.items() if state != MEASURED}
        result.notes += [f"Not measured: {case}{state and f' ({state})'}." for case, state in missing.items()]
        more |= {"identity": self.identity, "cases": self.cases, "results": self.results}
        result.save(self.folder, self.name, self.origin, more=more)
        return result


def describe_error(error: BaseException) -> str:
    """Return the type and the beginning of the message of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def join_loads(first: dict[str, float | None], second: dict[str, float | None]) -> dict[str, float | None]:
    """Return the load of two measurements: the larger use by others, and the averages before and after both."""
    if not first or not second:
        return first or second
    others = [load["other cores"] for load in (first, second)]
    return second | {"before": first["before"], "other cores": None if None in others else max(others)}  # type: ignore


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[Callable[[], bool]]:
    """End the process when the limit is over, even within a call of the GPU's driver that doesn't return.

    Args:
        seconds: the limit.
        message: printed before the process ends with exit code 124.

    Yields:
        A function that returns whether another case fits: one that takes as long as the longest so far.
    """
    start = last = time.monotonic()
    longest = 0.0

    def fits() -> bool:
        nonlocal last, longest
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        return now - start + 1.5 * longest < seconds

    def end() -> None:
        print(f"error: {message}", flush=True)
        os._exit(124)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield fits
    finally:
        timer.cancel()


def hash_code() -> str:
    """Return a checksum of the package's code in Python and C, and of its configs."""
    checksum = hashlib.sha256()
    for file in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.c"), *packaged_configs().rglob("*.yaml")]):
        checksum.update(file.read_bytes())
    return checksum.hexdigest()[:12]
