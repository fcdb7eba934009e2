"""Files that are whole or not there."""

import errno
import zipfile

import pytest
import torch

from lambdanets.atomic import corruption, write_archive
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.runs.folders import last_checkpoint


def write(path, number):
    state = {"weights": torch.full((1000,), float(number))}
    write_archive(path, lambda file: torch.save(state, file))


def test_an_archive_carries_its_checksum_and_is_read_by_everyone(tmp_path):
    file = tmp_path / "last.ckpt"
    write(file, 1)
    assert corruption(file) is None
    assert torch.load(file, weights_only=True)["weights"][0] == 1
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"lambdanets sha256 ")
    raw = bytearray(file.read_bytes())
    for place in (10, len(raw) // 2, len(raw) - 100):
        broken = raw.copy()
        broken[place] ^= 1
        file.write_bytes(broken)
        assert corruption(file) == "checksum mismatch"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path):
    file = tmp_path / "last.ckpt"
    write(file, 1)

    def fail(sink):
        sink.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    with pytest.raises(OSError, match="No space left") as caught:
        write_archive(file, fail)
    assert "The disk is full" in error_message(caught.value)
    assert torch.load(file, weights_only=True)["weights"][0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_of_two_checkpoints_the_newest_that_is_not_damaged_is_used(tmp_path, caplog):
    last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert last_checkpoint(tmp_path) is None
    write(previous, 1)
    write(last, 2)
    assert last_checkpoint(tmp_path) == last
    last.write_bytes(last.read_bytes()[:-200] + bytes(200))
    torch.save({}, tmp_path / "other")
    raw = bytearray(previous.read_bytes())
    last.write_bytes(raw[:500] + b"?" + raw[501:])
    assert last_checkpoint(tmp_path) == previous
    assert "is damaged, and kept as last.ckpt.damaged; the one before it is used." in caplog.text
    previous.write_bytes(raw[:500] + b"?" + raw[501:])
    with pytest.raises(UserError, match=r"has no checkpoint that isn't damaged or cut off"):
        last_checkpoint(tmp_path)
