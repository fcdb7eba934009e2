"""Checkpoints are read safely, once, and compared with the model before they are used."""

import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lambdanets.atomic import write_archive
from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.runs.checkpoints import check_state_dict, pack_weights, read_checkpoint, round_weights
from tests.command import ROOT, environment

FIXTURE = ROOT / "tests" / "fixtures" / "version-0.1.0" / "run"
COUNTED = """
import sys
import torch
from lambdanets import atomic
from lambdanets.cli import main

load, paths = torch.load, []
torch.load = lambda file, *args, **options: (paths.append(str(file)), load(file, *args, **options))[1]
code = main()
print("read:", *paths)
print("hashed:", atomic.find_corruption.cache_info().misses)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "reads", "hashes"),
    [
        # The earlier and the new best one are hashed, and the latter is read for the test split.
        (["ckpt=old", "trainer.max_epochs=3"], {"last.ckpt": 1, "best.ckpt": 1}, 3),
        (["job=test", "ckpt=old"], {"best.ckpt": 1}, 1),
        (["job=test", "ckpt=alone.ckpt"], {"alone.ckpt": 1}, 1),
    ],
)
def test_a_command_hashes_and_reads_a_checkpoint_once(arguments, reads, hashes, tmp_path):
    run = shutil.copytree(FIXTURE, tmp_path / "old")
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    command = [sys.executable, "-c", COUNTED, *arguments, "trainer.enable_progress_bar=false"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (paths,) = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("read:")]
    assert Counter(path.rsplit("/", 1)[-1] for path in paths) == reads
    assert f"hashed: {hashes}" in done.stdout


def save(path, content):
    write_archive(path, lambda file: torch.save(content, file))
    return path


def test_a_kept_checkpoint_is_read_once_more_after_its_reader():
    file = FIXTURE / "checkpoints" / "last.ckpt"
    first = read_checkpoint(file, keep=True)
    assert read_checkpoint(file) is first
    assert read_checkpoint(file) is not first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "is not a checkpoint"),
        ({"state_dict": {}}, "is not a checkpoint of a run"),
        ({"state_dict": {}, "config": sys.exit, "classes": []}, "holds objects other than tensors and plain values"),
        (None, "There is no checkpoint"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    file = tmp_path / "file.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save(file, content)
    with pytest.raises(UserError) as error:
        read_checkpoint(file)
    assert message in str(error.value)


def test_a_changed_byte_is_noticed(tmp_path):
    file = save(tmp_path / "file.ckpt", {"state_dict": {"w": torch.zeros(1000)}, "config": {}, "classes": []})
    read_checkpoint(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged or cut off \\(checksum mismatch"):
        read_checkpoint(file)


def test_exported_weights_come_back_with_config_and_classes(tmp_path):
    weight = torch.randn(2, 3)
    checkpoint = {
        "state_dict": {"model.a": weight, "model.b": weight},
        "config": {"seed": 1},
        "labels": {"classes": ["x", "y"]},
    }
    file = tmp_path / "model.safetensors"
    file.write_bytes(pack_weights(checkpoint))
    restored = read_checkpoint(file)
    assert torch.equal(restored["state_dict"]["model.a"], weight)
    assert torch.equal(restored["state_dict"]["model.b"], weight)
    assert (restored["config"], restored["labels"]) == ({"seed": 1}, {"classes": ["x", "y"]})


def test_half_precision_rounds_matrices_and_nothing_else(tmp_path):
    state = {"model.a": torch.randn(20, 30), "model.b": torch.randn(7), "model.c": torch.arange(6).view(2, 3)}
    rounded = round_weights(state, torch.float16)
    # The nearest number with 11 significant bits: the error is at most half of the last one.
    assert not torch.equal(rounded["model.a"], state["model.a"])
    torch.testing.assert_close(rounded["model.a"], state["model.a"], rtol=2**-11, atol=2**-25)
    assert all(torch.equal(rounded[name], state[name]) for name in ("model.b", "model.c"))
    sizes = {}
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(pack_weights({"state_dict": state, "config": {}, "labels": {}}, dtype=dtype))
        sizes[name] = file.stat().st_size
        restored = read_checkpoint(file)["state_dict"]
        expected = rounded if name == "half" else state
        for key, tensor in expected.items():
            assert restored[key].dtype == tensor.dtype
            assert torch.equal(restored[key], tensor)
    assert 0 <= sizes["whole"] - sizes["half"] - 2 * 600 < 16  # the rest is the length of the header


def test_a_weight_beyond_half_precision_is_refused():
    state = {"model.a": torch.tensor([[1.0, -7e4]]), "model.b": torch.tensor([1e9])}
    with pytest.raises(UserError, match=r"model\.a has weights up to 7e\+04, and torch.float16 ends at 65504"):
        round_weights(state, torch.float16)
    not_finite = {"model.a": torch.tensor([[torch.nan, torch.inf]])}
    assert torch.equal(round_weights(not_finite, torch.float16)["model.a"].isinf(), torch.tensor([[False, True]]))


def test_the_bytes_of_a_file_do_not_depend_on_the_process(tmp_path):
    write = (
        "import sys; from pathlib import Path; import torch; from lambdanets.runs.checkpoints import pack_weights; "
        "content = pack_weights({'state_dict': {'model.a': torch.ones(3, 1)}, 'config': {}, 'labels': {}}); "
        "Path(sys.argv[1]).write_bytes(content)"
    )
    contents = set()
    for index in range(3):  # the library itself orders three entries of metadata at random
        file = tmp_path / f"{index}.safetensors"
        subprocess.run([sys.executable, "-c", write, str(file)], env=environment(), check=True)
        contents.add(file.read_bytes())
    assert len(contents) == 1
    assert torch.equal(load_file(file)["a"], torch.ones(3, 1))


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        (lambda state: state.pop("bias"), "bias is missing from the checkpoint"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is missing from the model"),
        (lambda state: state.update(bias=torch.zeros(3)), "bias is [3] in the checkpoint and [2] in the model"),
    ],
)
def test_weights_of_another_model_are_named(change, mismatch):
    module = nn.Linear(2, 2)
    state = dict(module.state_dict())
    check_state_dict(module, state, "a.ckpt")
    change(state)
    with pytest.raises(UserError) as error:
        check_state_dict(module, state, "a.ckpt")
    assert str(error.value).startswith(f"The checkpoint 'a.ckpt' does not match the model: {mismatch}. ")


def test_only_tables_of_global_layers_may_be_of_another_size():
    small, large = (LambdaLayer(8, scope="global", feature_size=(side, side), heads=2, key_depth=4) for side in (3, 5))
    check_state_dict(large, small.state_dict(), "a.ckpt", resize=True)
    with pytest.raises(UserError, match="table is"):
        check_state_dict(large, small.state_dict(), "a.ckpt")
    local = [LambdaLayer(8, scope=scope, heads=2, key_depth=4) for scope in (3, 5)]
    with pytest.raises(UserError, match="table is"):
        check_state_dict(local[1], local[0].state_dict(), "a.ckpt", resize=True)
