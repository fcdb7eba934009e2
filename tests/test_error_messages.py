"""User errors on the command line: a one-line message, no traceback, exit code 1 or 2."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lambdanets.error_messages import error_message
from tests.command import ROOT, run
from tests.in_process import invoke


def printed_error(*arguments, cwd):
    """Run a command that fails without a traceback, and return its error message."""
    done = invoke(*arguments, cwd=cwd)
    assert done.code in (1, 2), done.text
    (line,) = [line for line in done.text.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["mixer=lamda"],
            "mixer=lamda is not known; choose one of attention, augmented, axial, conv, lambda, lambda_conv, "
            "lambda_shared, linear_attention, local_attention, local_relation, patchwise, se.",
        ),
        (["experiment=table3/cnv"], "experiment=table3/cnv is not known; python run.py --help lists the choices."),
        (["--multirun", "sweep=tabel3"], "sweep=tabel3 is not known; python run.py --help lists the choices."),
        (
            ["sweep=table3"],
            "sweep=table3 is a grid of runs: start it with --multirun, or describe it with job=describe.",
        ),
        (["mixer.hedas=3"], "mixer.hedas is not a key of the config; did you mean mixer.heads?"),
        (["logger=null"], "logger=null is no choice of a config group; python run.py --help lists the choices."),
        (["mixer.heads=[1,2]"], "The options of model and mixer fit no such object (TypeError: "),
        (["+trainer.overfit_batches=1"], "trainer.overfit_batches replaces the batches of the data "),
        (["logger._partial_=0"], "The options of logger fit no such object (TypeError: "),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches=0 leaves nothing to train on"),
        (["data=imagefolder"], "data.root is required: set data.root=…"),
        (
            ["mixer.heads=3"],
            "heads=3 does not divide the 16 channels of a layer; choose one that divides every stage's width "
            "(here 1, 2, 4, 8, 16) or change model.width.",
        ),
        (
            ["data=imagefolder", "data.root=/nowhere"],
            "There is no folder '/nowhere': data.root must name a folder with images in train/<class>/.",
        ),
        (
            ["trainer.devices=8"],
            "trainer.devices=8 asks for 8 GPUs, but this machine has none: leave it out, or set trainer=ddp "
            "trainer.devices=8 for 8 processes on the CPU.",
        ),
        (["trainer.max_epochs=many"], "trainer.max_epochs=many must be a whole number of at least 1."),
        (
            ["trainer=ddp", "trainer.devices=2", "trainer.num_nodes=2"],
            "trainer.num_nodes=2 needs a launcher on each node: start the command by torchrun ",
        ),
        (
            ["trainer=fsdp", "trainer.devices=1", "recipe.ema_decay=0.9"],
            "trainer=fsdp cannot average weights: set recipe.ema_decay=null, or use trainer=ddp.",
        ),
        (
            ["recipe.optimizer._target_=os.system"],
            "recipe.optimizer._target_=os.system is refused: ",
        ),
        (
            ["job=test", "ckpt=gone.ckpt"],
            "ckpt=gone.ckpt does not exist: give a run's folder, a checkpoint file, or last.",
        ),
        (
            ["ckpt=last"],
            "ckpt=last: there is no run named 'lambda-digits' below 'outputs'. Give its folder, ckpt=<folder>, or "
            "start it.",
        ),
    ],
)
def test_invalid_commands(arguments, expected, tmp_path):
    assert printed_error(*arguments, cwd=tmp_path).startswith(expected)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(IsADirectoryError) as error:
        (tmp_path / "file").replace(tmp_path / "target")
    assert error_message(error.value).startswith(f"'{tmp_path / 'target'}' is a folder where a file is expected")


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = printed_error(f"hydra.run.dir={tmp_path}/file/run", cwd=tmp_path)
    assert message.startswith("The output folder cannot be written")
    assert message.endswith("hydra.run.dir=<folder>.")


def make_images(folder, **classes):
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def test_invalid_image_folders(tmp_path):
    root = tmp_path / "images"
    (root / "train").mkdir(parents=True)
    arguments = ("data=imagefolder", f"data.root={root}", "recipe.batch_size=4")
    assert printed_error(*arguments, cwd=tmp_path) == (
        f"'{root}/train' has no images: it must have one folder of images per class."
    )
    make_images(root / "train", cat=9, dog=9)
    make_images(root / "val", cat=2, bird=2)
    assert printed_error(*arguments, cwd=tmp_path) == (
        f"'{root}/val' has the class folder bird, which is missing in '{root}/train': add training images of the "
        "class, or remove the folder."
    )
    (root / "val" / "bird").rename(root / "val" / "dog")
    broken = root / "train" / "cat" / "5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    for memory in (1, 0):
        message = printed_error(*arguments, f"data.memory_gib={memory}", "trainer.max_epochs=2", cwd=tmp_path)
        assert message.startswith(f"The image '{broken}' can't be decoded")
        assert message.endswith("replace or remove it.")


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("run")
    run("trainer.max_epochs=1", cwd=cwd)
    (file,) = cwd.glob("outputs/*/*/checkpoints/best.ckpt")
    return file


def test_invalid_checkpoints(checkpoint, tmp_path):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(checkpoint.read_bytes()[:100_000])
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    plain, harmful, created = tmp_path / "plain.ckpt", tmp_path / "harmful.ckpt", tmp_path / "harm"
    torch.save({"weight": torch.zeros(3)}, plain)
    torch.save({"state_dict": {}, "payload": Payload(created)}, harmful)
    for file, expected in (
        (cut, f"The checkpoint '{cut}' is damaged or cut off (100000 bytes): use another one of the run, such as "),
        (text, f"The file '{text}' is not a checkpoint; give one that run.py wrote."),
        (plain, f"The file '{plain}' is not a checkpoint of a run; give one that run.py wrote."),
        (harmful, f"The checkpoint '{harmful}' holds objects other than tensors and plain values and was not opened"),
    ):
        assert printed_error("job=test", f"ckpt={file}", cwd=tmp_path).startswith(expected)
    assert not created.exists()
    message = printed_error("job=test", f"ckpt={checkpoint}", "mixer=conv", cwd=tmp_path)
    assert message.startswith(f"The checkpoint '{checkpoint}' does not match the model: model.stages.0.0.mixer.")


def test_help_and_invalid_commands_import_no_torch(tmp_path):
    without_torch = (
        f"import sys, runpy; sys.modules['torch'] = None; runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')"
    )
    for arguments, code in ((["--help"], 0), (["mixer=lamda"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", without_torch, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stderr
    assert list(tmp_path.iterdir()) == []
