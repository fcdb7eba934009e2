"""The profiles of the property tests, and the count of their cases.

`gate`, a few cases that are always the same, is for every test run; `fuzz`, many random ones, for `make fuzz`.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("base", deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.register_profile("gate", settings.get_profile("base"), max_examples=20, derandomize=True, database=None)
settings.register_profile("fuzz", settings.get_profile("base"), max_examples=200)


class CaseCounter:
    """The number of cases that the property tests of this process have run."""

    def __init__(self) -> None:
        self.cases = 0

    def count(self, test: Callable[..., Any]) -> Callable[..., Any]:
        """Return the test with a count of its calls."""

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.cases += 1
            return test(*args, **kwargs)

        return counted


COUNTER = CaseCounter()


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("gate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    handles = {id(item.obj.hypothesis): item.obj.hypothesis for item in items if hasattr(item.obj, "hypothesis")}
    for handle in handles.values():
        handle.inner_test = COUNTER.count(handle.inner_test)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if COUNTER.cases:
        terminalreporter.write_line(f"{COUNTER.cases} cases of properties")


@pytest.fixture(scope="session")
def fuzzing(request: pytest.FixtureRequest) -> None:
    """Skip a test of whole commands, which takes a second per case, except in `make fuzz`."""
    if request.config.getoption("--hypothesis-profile") != "fuzz":
        pytest.skip("whole commands: only in make fuzz")
