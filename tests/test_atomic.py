"""Atomic writing: files are complete or absent."""

import errno
import zipfile

import pytest
import torch

from lambdanets.atomic import atomic_link, atomic_open, atomic_write, corruption, remove_temporary_files, write_archive
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.runs.folders import last_checkpoint, rename_damaged


def write_checkpoint(path, value):
    state = {"weights": torch.full((1000,), float(value))}
    write_archive(path, lambda file: torch.save(state, file))


def read_value(path):
    return torch.load(path, weights_only=True)["weights"][0]


def flip_bit(path, position):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def file_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_archive_has_a_checksum_and_stays_a_plain_zip_file(tmp_path):
    file = tmp_path / "last.ckpt"
    write_checkpoint(file, 1)
    assert corruption(file) is None
    assert read_value(file) == 1
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"lambdanets sha256 ")
    assert file_names(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("position", [10, 0.5, -100])
def test_a_flipped_bit_is_a_checksum_mismatch(position, tmp_path):
    file = tmp_path / "last.ckpt"
    write_checkpoint(file, 1)
    flip_bit(file, int(position * file.stat().st_size) if isinstance(position, float) else position)
    assert corruption(file) == "checksum mismatch"


def test_files_that_are_no_archive_or_have_no_checksum(tmp_path):
    text, plain = tmp_path / "text.ckpt", tmp_path / "plain.ckpt"
    text.write_text("not an archive")
    torch.save({}, plain)
    assert corruption(text) == "not a zip archive"
    assert corruption(plain) is None


def test_a_full_disk_leaves_the_earlier_archive(tmp_path):
    file = tmp_path / "last.ckpt"
    write_checkpoint(file, 1)

    def save(writer):
        writer.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    with pytest.raises(OSError, match="No space left") as caught:
        write_archive(file, save)
    assert "The disk is full" in error_message(caught.value)
    assert read_value(file) == 1
    assert file_names(tmp_path) == ["last.ckpt"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    file = tmp_path / "folder" / "metrics.json"
    atomic_write(file, "Zürich")
    assert file.read_bytes() == "Zürich".encode()
    with atomic_open(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_bytes() == "Zürich".encode()
    assert file.read_bytes() == b"new"
    with pytest.raises(TypeError), atomic_open(file) as stream:
        stream.write("text")
    assert file.read_bytes() == b"new"
    assert file_names(file.parent) == ["metrics.json"]


def test_a_link_keeps_its_content_when_the_source_is_replaced(tmp_path):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    atomic_write(last, "first")
    atomic_link(last, best)
    atomic_write(last, "second")
    assert best.read_text() == "first"
    atomic_link(last, best)
    assert best.read_text() == "second"


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    for name in (".last.ckpt.4711", ".fresh.ckpt", "last.ckpt"):
        (tmp_path / name).write_text("")
    remove_temporary_files(tmp_path)
    assert file_names(tmp_path) == ["last.ckpt"]


def test_a_damaged_checkpoint_is_renamed_and_the_previous_one_used(tmp_path, caplog):
    last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert last_checkpoint(tmp_path) is None
    write_checkpoint(previous, 1)
    write_checkpoint(last, 2)
    assert last_checkpoint(tmp_path) == last
    flip_bit(last, 500)
    assert last_checkpoint(tmp_path) == previous
    assert f"The checkpoint '{last}' (checksum mismatch" in caplog.text
    rename_damaged(last.parent)
    assert "was renamed to last.ckpt.damaged" in caplog.text
    assert file_names(last.parent) == ["last.ckpt.damaged", "previous.ckpt"]
    flip_bit(previous, 500)
    with pytest.raises(UserError, match=r"All checkpoints of the run are damaged or cut off"):
        last_checkpoint(tmp_path)
