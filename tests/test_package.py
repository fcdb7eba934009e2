"""The wheel: what `pip install lambdanets-*.whl` gives runs in an empty folder, and takes the user's own configs."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from lambdanets.jobs import export
from tests.checkpoints import SHALLOW, write_checkpoint
from tests.command import ROOT, environment

QUICK = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's file."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (file,) = folder.glob("lambdanets-*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def lambdanets(site, *arguments, cwd, code=0):
    """Run `python -m lambdanets …` from the wheel."""
    command = [sys.executable, "-m", "lambdanets", *arguments]
    variables = environment() | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_wheel_has_the_configs_and_the_command(wheel, site):
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name.removeprefix("lambdanets/") for name in names if name.startswith("lambdanets/configs/")}
    assert packaged == {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*") if file.is_file()}
    weights = {name.removeprefix("lambdanets/") for name in names if name.startswith("lambdanets/weights/")}
    assert weights == {str(file.relative_to(ROOT)) for file in (ROOT / "weights").rglob("*") if file.is_file()}
    assert "lambdanets/ops/kernel.c" in names
    assert "lambdanets/reports/published.yaml" in names
    (entry_points,) = site.glob("lambdanets-*.dist-info/entry_points.txt")
    assert "lambdanets = lambdanets.cli:main" in entry_points.read_text()


def test_it_trains_in_an_empty_folder(site, tmp_path):
    done = lambdanets(site, "mixer=lambda", *QUICK, cwd=tmp_path)
    assert "python -m lambdanets job=predict ckpt=outputs/lambda-digits/" in done.stdout
    (run,) = tmp_path.glob("outputs/lambda-digits/*")
    assert (run / "metrics.json").is_file()


def test_published_weights_are_found_in_the_wheel(site, tmp_path):
    folder = site / "lambdanets" / "weights" / "digits" / "conv"
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    export.run(config, folder)
    try:
        done = lambdanets(site, "job=test", "ckpt=digits/conv", cwd=tmp_path)
        assert "test/top1" in done.stdout
        listed = "import lambdanets; print(lambdanets.list_models('digits/*', pretrained=True), lambdanets.__file__)"
        variables = environment() | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-c", listed]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"['digits/conv'] {site}")
    finally:
        shutil.rmtree(folder.parent)


def test_a_mixer_of_the_users_own_is_one_python_file_and_one_yaml(site, tmp_path):
    (tmp_path / "mymixers.py").write_text(
        "from torch import nn\n\n\n"
        "class Depthwise(nn.Conv2d):\n"
        "    def __init__(self, channels, *, stride, feature_size):\n"
        "        super().__init__(channels, channels, 5, stride, padding=2, groups=channels, bias=False)\n"
    )
    own = tmp_path / "configs" / "mixer"
    own.mkdir(parents=True)
    (own / "depthwise.yaml").write_text("_target_: mymixers.Depthwise\n_partial_: true\n")
    lambdanets(site, "mixer=depthwise", "allow_targets=[mymixers]", "job=describe", cwd=tmp_path)
    assert "depthwise" in lambdanets(site, "--help", cwd=tmp_path).stdout
    assert "mixer.Depthwise" not in lambdanets(site, "--cfg", "job", cwd=tmp_path).stdout


def test_the_users_configs_are_on_top(site, tmp_path):
    own = tmp_path / "configs" / "mixer"
    own.mkdir(parents=True)
    (own / "lambda.yaml").write_text("_target_: lambdanets.mixers.LambdaLayer\n_partial_: true\nheads: 2\n")
    assert "heads: 2" in lambdanets(site, "--cfg", "job", "--package", "mixer", cwd=tmp_path).stdout


def test_a_mistake_is_one_sentence_with_the_right_command(site, tmp_path):
    done = lambdanets(site, "experiment=nothing", cwd=tmp_path, code=2)
    assert (
        done.stderr.strip() == "error: experiment=nothing is not known; python -m lambdanets --help lists the choices."
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.skipif(
    not os.access(os.path.join(os.path.dirname(sys.executable), "lambdanets"), os.X_OK),
    reason="lambdanets is not installed in this environment",
)
def test_the_installed_command_is_the_same(tmp_path):
    program = os.path.join(os.path.dirname(sys.executable), "lambdanets")
    done = subprocess.run([program, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert "table3" in done.stdout
