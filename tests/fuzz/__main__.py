"""Run the property tests on new random cases for some minutes: python -m tests.fuzz [minutes] [options of pytest].

Each round has a seed of its own, which is printed. A failed case is printed as code that repeats it; Hypothesis keeps
it in .hypothesis/ and tries it first in the next round. The exit status is 1 if any case failed.
"""

import re
import secrets
import subprocess
import sys
import time

OPTIONS = "-o addopts= -q -p no:warnings --hypothesis-profile=fuzz"
PYTEST = [sys.executable, "-m", "pytest", "tests/fuzz", *OPTIONS.split()]


def run_round(seed: int, options: list[str]) -> tuple[bool, int]:
    """Run each property once with a seed; return whether all hold, and the number of cases."""
    command = [*PYTEST, f"--hypothesis-seed={seed}", *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if result.returncode:
        print(result.stdout, flush=True)
    found = re.search(r"(\d+) cases of properties", result.stdout)
    return result.returncode == 0, int(found[1]) if found else 0


def main(minutes: float, options: list[str]) -> int:
    """Run rounds until the time is over; return the exit status."""
    start, cases, failed_rounds, rounds = time.monotonic(), 0, 0, 0
    while rounds == 0 or time.monotonic() - start < 60 * minutes:
        seed = secrets.randbelow(2**32)
        holds, count = run_round(seed, options)
        rounds, cases, failed_rounds = rounds + 1, cases + count, failed_rounds + (not holds)
        print(f"round {rounds}, seed {seed}: {count} cases, {'all hold' if holds else 'FAILED'}", flush=True)
    spent = (time.monotonic() - start) / 60
    print(f"{cases} cases in {rounds} rounds and {spent:.1f} minutes; {failed_rounds} rounds failed")
    return 1 if failed_rounds else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, sys.argv[2:]))
