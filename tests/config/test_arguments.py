"""Arguments as users write them, and as Hydra reads them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lambdanets.config.arguments import prepare_arguments
from tests.in_process import invoke


def values(override):
    """The values of an override after Hydra's parser, as text."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    found = parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()]
    return [str(getattr(value, "text", value)) for value in found]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("ckpt=/x/epoch=3.ckpt", ["/x/epoch=3.ckpt"]),
        ("data.root=~/images", ["/home/me/images"]),
        ("input=my photo (1).png", ["my photo (1).png"]),
        ("input='a=b'", ["a=b"]),
        ("ckpt=it's=1.ckpt", ["it's=1.ckpt"]),
        ("sweep_dir=[a,b]", ["['a', 'b']"]),
        ("ckpt=null", ["None"]),
    ],
)
def test_paths_need_no_quotes(given, read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (prepared,) = prepare_arguments([given])
    assert values(prepared) == read


def test_a_sweep_over_paths_has_each_of_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    _, prepared = prepare_arguments(["data.root=~/a,b=1", "--multirun"])
    assert values(prepared) == ["/home/me/a", "b=1"]


# Quoted text, lists, calls of Hydra and interpolations are the user's own syntax.
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda path: path[0] not in "[{'\"~" and "${" not in path and "(" not in path and path.lower() != "null"
)


@given(PATHS)
def test_any_path_reaches_the_config(path):
    (prepared,) = prepare_arguments([f"input={path}"])
    assert values(prepared) == [path]


def test_options_come_first():
    given = ["a=1", "--multirun", "b=2", "--config-dir", "my=configs", "~c", "-m"]
    assert prepare_arguments(given) == ["--multirun", "--config-dir", "my=configs", "-m", "a=1", "b=2", "~c"]


def test_overrides_of_a_run_are_not_checked_against_the_default_config():
    given = ["ckpt=r", "data.root=x", "data=imagefolder", "seed=1", "job.top=3", "+model.gate=null", "hydra.run.dir=y"]
    assert prepare_arguments(given) == ["ckpt=r", "++data.root=x", *given[2:]]
    assert prepare_arguments(given[1:]) == given[1:]


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "null", "[1,2]", "a/../../b", "''", "~/x", "'a\\\\b'", "'a\nb'", "a//b", "x" * 201]
)
def test_a_name_stays_below_outputs(name, tmp_path):
    done = invoke(f"name={name}" if not name.startswith("~") else f"name='{name}'", cwd=tmp_path / ".")
    assert (done.code, "cannot name a run: its folder is outputs/<name>/<time>" in done.text) == (2, True), done.text
    assert [*tmp_path.iterdir()] == []


def test_a_value_that_cannot_be_read_is_shown_in_quotes(tmp_path):
    done = invoke("name=a=b", cwd=tmp_path)
    assert done.code == 2
    assert "name=a=b cannot be read as key=value" in done.text
    assert "'name=\"a=b\"'" in done.text
