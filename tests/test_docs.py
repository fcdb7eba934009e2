"""README and docs: commands compose, the cheap ones run, Python blocks run, and options, links and numbers exist."""

import re
import shlex
import shutil
from importlib.util import find_spec

import pytest
import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from lambdanets.config import experiments, upgrade
from tests.command import ROOT
from tests.configs import FOLDER, composing
from tests.in_process import run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"<(\w+)>")
NOT_CHOICES = {"sweep": {"grid"}}  # files of a group that other files include


def page_name(page):
    return page.stem


def blocks(page, *languages):
    return [code for language, code in BLOCK.findall(page.read_text()) if language in languages]


def arguments(words):
    """Return the arguments of run.py in the words of a shell command, or None if it does not start run.py."""
    for word in words:
        if "run.py " in word:  # a command within quotes
            return arguments(shlex.split(word.strip("$()")))
        if word.startswith("ARGS="):
            return ["job=gpu"] * ("gpu" in words) + shlex.split(word.removeprefix("ARGS="))
    if "compose" in words and "run" in words:
        return words[words.index("--rm") + 2 :]
    for index, word in enumerate(words):
        if word in ("run.py", "lambdanets"):
            return words[index + 1 :]
    return None


def commands(page):
    """Return the arguments of each command on a page that starts run.py, with words in place of placeholders."""
    text = BLOCK.sub("", page.read_text())
    lines = [code for code in re.findall(r"`(python run\.py [^`]+)`", text) if "…" not in code and "<TAB>" not in code]
    for block in blocks(page, "sh"):
        lines += block.replace("\\\n", " ").splitlines()
    splits = [arguments(shlex.split(line, comments=True)) for line in lines]
    return [[PLACEHOLDER.sub(r"\1", word) for word in words] for words in splits if words is not None]


def grid(words):
    """Yield lists of overrides that together contain each value of a sweep."""
    overrides = []
    for override in OverridesParser.create().parse_overrides(words):
        if override.key_or_group.startswith("hydra") and "ray" in override.input_line and not find_spec("ray"):
            continue
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [None]
        overrides.append((override, values))
    texts = [
        [override.input_line if value is None else f"{override.get_key_element()}={value}" for value in values]
        for override, values in overrides
    ]
    yield [choices[0] for choices in texts]
    for index, choices in enumerate(texts):
        for choice in choices[1:] if not choices[0].startswith("seed=") else []:
            yield [choice if position == index else first[0] for position, first in enumerate(texts)]


def compose_command(overrides):
    """Compose and resolve the configs of one command: one, or some rows of its sweep."""
    keys = [override.split("=")[0] for override in overrides]
    if "sweep" in keys:
        config = compose("config", overrides=overrides)
        rows = config.sweep.experiments
        shared = [override for override in overrides if experiments.applies_to_rows(override)]
        for row in rows if "sweep.experiments" in keys else rows[:1]:
            experiments.compose_experiment(row, shared)
    elif "experiment" in keys:
        index = keys.index("experiment")
        experiments.compose_experiment(overrides[index].split("=")[1], overrides[:index] + overrides[index + 1 :])
    else:
        experiments.compose_config(overrides)


def write_configs(page, folder):
    """Write the yaml blocks that a page introduces as "`x.yaml` in `configs/y/`" into a folder."""
    for name, group, code in re.findall(
        r"`(\w+\.yaml)` in `configs/(\w+)/`.*?```yaml\n(.*?)```", page.read_text(), re.DOTALL
    ):
        (folder / group).mkdir(parents=True)
        (folder / group / name).write_text(code)
    return [f"hydra.searchpath=[{folder}]"] if any(folder.iterdir()) else []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_composes(page, tmp_path):
    own_configs = write_configs(page, tmp_path)
    with composing():
        for words in commands(page):
            if "-sc" in words or "--help" in words:
                continue
            overrides = [word for word in words if word not in ("--multirun", "--cfg", "job")] + own_configs
            assert not [word for word in overrides if word.startswith("-")], words
            for chosen in grid(overrides):
                try:
                    compose_command(chosen)
                except Exception as error:
                    raise AssertionError(f"{page.name}: python run.py {' '.join(words)}: {error}") from error


def test_commands_are_read_from_all_their_forms():
    for line in (
        "python run.py --multirun mixer=a,b  # a comment",
        "torchrun --nproc-per-node=8 run.py --multirun mixer=a,b",
        'sbatch --wrap "srun python run.py --multirun mixer=a,b"',
        'make run ARGS="--multirun mixer=a,b"',
        "OUTPUTS=$PWD docker compose -f docker/compose.yaml run --rm train --multirun mixer=a,b",
        "lambdanets --multirun mixer=a,b",
    ):
        assert arguments(shlex.split(line, comments=True)) == ["--multirun", "mixer=a,b"], line
    assert arguments(["make", "test"]) is None
    assert list(grid(["mixer=a,b", "heads=2,4", "seed=0,1", "x=[1,2]"])) == [
        ["mixer=a", "heads=2", "seed=0", "x=[1,2]"],
        ["mixer=b", "heads=2", "seed=0", "x=[1,2]"],
        ["mixer=a", "heads=4", "seed=0", "x=[1,2]"],
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a working directory with the files that the pages name."""
    shutil.copytree(
        ROOT / "tests" / "fixtures" / "version-0.1.0" / "run", tmp_path / "outputs" / "lambda-digits" / "time"
    )
    Image.new("L", (8, 8), 128).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "words", "output"),
    [
        ("README.md", "--help", "mixer: attention"),
        ("docs/guide.md", "--cfg job mixer=lambda", "_target_: lambdanets.mixers.LambdaLayer"),
        ("README.md", "job=test ckpt=outputs/lambda-digits/time", "test/top1"),
        ("README.md", "job=predict ckpt=outputs/lambda-digits/time input=photo.png", "photo.png"),
        ("docs/reproduction.md", "job=describe mixer=lambda model=resnet50 data=imagenet recipe=imagenet90", "14.99"),
    ],
)
def test_cheap_commands_run(page, words, output, folder):
    assert words.split() in commands(ROOT / page)
    assert output in run(*words.split(), cwd=folder).text


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_code_runs(page, folder):
    variables = {}
    for code in blocks(page, "python"):
        if "timm" in code:
            pytest.importorskip("timm")
        exec(compile(PLACEHOLDER.sub(r"\1", code), page.name, "exec"), variables)


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_name)
def test_relative_links_exist(page):
    text = BLOCK.sub("", page.read_text())
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", target.read_text()), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_files_exist(page):
    text = BLOCK.sub("", page.read_text())
    for path in re.findall(r"`((?:src|configs|tests|results|docker|notebooks)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_name)
def test_make_targets_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = [*blocks(page, "sh"), *re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))]
    for command in re.findall(r"^make ([a-z -]+)", "\n".join(code), re.MULTILINE):
        assert set(command.split()) <= set(targets), command


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    for file in (ROOT / "docs").rglob("*.md"):
        assert f": {file.relative_to(ROOT / 'docs')}\n" in navigation, file


@pytest.fixture(scope="module")
def choices():
    """Return the choices of each config group, by its name, as Hydra lists them."""
    by_group = {}
    with composing():
        loader = GlobalHydra.instance().config_loader()
        for group in set(loader.list_groups("")) - {"hydra"}:
            by_group[group] = set(loader.get_group_options(group)) - NOT_CHOICES.get(group, set())
            for inner in loader.list_groups(group):
                by_group[f"{group}/{inner}"] = set(loader.get_group_options(f"{group}/{inner}"))
                if group != "recipe":
                    by_group[group] |= {f"{inner}/{choice}" for choice in by_group[f"{group}/{inner}"]}
    return by_group


def config_keys():
    """All keys that the files of configs/ set, with the group in front."""
    keys = set()
    for file in FOLDER.rglob("*.yaml"):
        text = file.read_text()
        folder = file.parent.relative_to(FOLDER).as_posix().replace("/", ".")
        prefix = "" if folder == "." or "@package _global_" in text else f"{folder}."
        keys |= {prefix + key for key in dotted_keys(yaml.safe_load(text) or {})}
    return keys


def dotted_keys(node):
    for key, value in node.items():
        yield str(key)
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in dotted_keys(value))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_options_in_the_text_exist(page, choices):
    keys = config_keys()
    text = BLOCK.sub("", page.read_text())
    for code in re.findall(r"`([^`\n]+)`", text):
        option = re.fullmatch(r"([a-z_/]+(?:\.\w+)*)(?:=(\S*))?", code)
        if (
            option is None
            or option[1].startswith("hydra")
            or code.endswith(("/", ".md", ".py", ".json", ".yaml", ".safetensors"))
        ):
            continue
        key, value = option.groups()
        key = key.replace("model.backbone.", "model.")
        if key in choices and value is not None:
            assert not re.fullmatch(r"[\w/]+", value) or value in choices[key], f"{page.name}: {code}"
        elif value is not None or ("." in key and key.split(".")[0] in choices):
            assert key in keys, f"{page.name}: {code}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tables_of_choices_are_complete(page, choices):
    for group, rows in re.findall(r"^\| `(\w+)=` \|.*\n\|[-|: ]+\|\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE):
        listed = {name for row in rows.splitlines() for name in re.findall(r"`([\w/]+)`", row.split(" | ")[0])}
        assert listed == choices[group], group


def test_every_recipe_is_on_its_page(choices):
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == choices["recipe"]
    assert set(re.findall(r"configs/recipe/(\w+)\.yaml", page)) == choices["recipe"]


def test_mixers_have_the_options_of_their_table():
    page = (ROOT / "docs" / "mixers.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .+? \| ((?:`\w+`(?:, )?)+) \| [\d.]+ M", page, re.MULTILINE)
    assert len(rows) > 5
    for mixer, options in rows:
        config = OmegaConf.load(FOLDER / "mixer" / f"{mixer}.yaml")
        named_options = set(re.findall(r"`(\w+)`", options))
        assert named_options == {key for key in config if not key.startswith("_")}, mixer


def test_the_changelog_has_the_renamed_keys_and_classes():
    text = (ROOT / "CHANGELOG.md").read_text()
    renamed = [upgrade.KEYS, upgrade.TARGETS, *upgrade.OPTIONS.values(), *upgrade.VALUES.values()]
    for old, new in (pair for names in renamed for pair in names.items()):
        for name in (old, new):
            assert re.search(rf"\b{name.split('.')[-1]}\b", text), f"{old} → {new}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 170


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]


def table(text, header):
    """Return the rows of the first table whose header starts like this."""
    lines = text[text.index(header) :].splitlines()[2:]
    return [cells(line) for line in lines[: lines.index("")]]


def test_the_readme_counts_the_verdicts_of_the_results():
    readme = (ROOT / "README.md").read_text()
    (page,) = re.findall(r"\[All claims\]\((results/reproduction\w*\.md)\)", readme)
    verdicts = [row[-1] for row in table((ROOT / page).read_text(), "| data | claim |")]
    counts = [verdicts.count(verdict) for verdict in ("holds", "doesn't hold", "can't tell", "not run")]
    held, refuted, open_, not_run = counts
    rest = f"{open_} stay open, and {not_run} are not run yet." if not_run else f"and {open_} stay open."
    assert f"These are five of {sum(counts)} claims; {held} hold, {refuted} do not, {rest}" in readme


def test_the_readmes_speeds_are_those_of_the_results():
    readme, results = (ROOT / name for name in ("README.md", "results/layers.md"))
    text = results.read_text()
    measured = {
        (shape, layer): train for shape, scope, layer, train, *_ in table(text, "| map | context |") if scope == "23×23"
    }
    header, _, *_ = next(
        block for block in readme.read_text().split("\n\n") if block.startswith("| map |")
    ).splitlines()
    rows = table(readme.read_text(), header)
    assert len(rows) == 4
    for shape, *times in rows:
        assert times == [measured.get((shape, layer), "–") for layer in cells(header)[1:]], shape
    for version in re.findall(r"(?:torch|timm|lambda-networks) [\d.]+\d", readme.read_text()):
        assert version in text
