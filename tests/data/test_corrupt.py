"""The list of corrupt images that the processes of a run share."""

import os

import pytest

from lambdanets.data.corrupt import CorruptImages, count_corrupt_images
from lambdanets.errors import UserError

SAMPLES = [(f"{index}.jpg", 0) for index in range(10)]
ERROR = UserError("it is damaged")


def test_two_processes_list_an_image_once_and_count_together(tmp_path):
    file = tmp_path / "corrupt.txt"
    assert count_corrupt_images(file) == 0
    first, second = CorruptImages(0.2, file), CorruptImages(0.2, file)
    first.add("1.jpg", ERROR, SAMPLES)
    second.add("1.jpg", ERROR, SAMPLES)
    second.add("2.jpg", ERROR, SAMPLES)
    first.add("of another split.jpg", ERROR, SAMPLES)
    assert file.read_text().splitlines() == ["1.jpg", "2.jpg", "of another split.jpg"]
    assert count_corrupt_images(file) == 3
    with pytest.raises(
        UserError,
        match=r"3 of 10 images can't be decoded, see '.*corrupt\.txt'; that is more than data\.max_corrupt=0\.2",
    ):
        first.add("3.jpg", ERROR, SAMPLES)


def test_an_image_that_is_known_is_not_counted_again(tmp_path):
    corrupt = CorruptImages(0.2, tmp_path / "corrupt.txt")
    corrupt.add("1.jpg", ERROR, SAMPLES)
    corrupt.add("1.jpg", ERROR, None)  # an epoch later; the split isn't searched


def test_without_a_file_the_images_are_counted_all_the_same():
    corrupt = CorruptImages(0.1)
    corrupt.add("1.jpg", ERROR, SAMPLES)
    with pytest.raises(UserError, match=r"2 of 10 images can't be decoded; .* it is damaged"):
        corrupt.add("2.jpg", ERROR, SAMPLES)


def test_without_a_permitted_fraction_the_first_one_raises_its_error(tmp_path):
    with pytest.raises(UserError, match="it is damaged"):
        CorruptImages(0.0, tmp_path / "corrupt.txt").add("1.jpg", ERROR, SAMPLES)
    assert not (tmp_path / "corrupt.txt").exists()


def test_names_of_any_bytes_are_one_line_of_utf_8_each(tmp_path):
    names = ["photo[red].jpg", os.fsdecode(b"not-utf8-\xff.jpg"), "new\nline.jpg", "line\u2028separator.jpg"]
    samples = [(name, 0) for name in names]
    corrupt = CorruptImages(1.0, tmp_path / "corrupt.txt")
    for name in names * 2:
        corrupt.add(name, ERROR, samples)
    lines = (tmp_path / "corrupt.txt").read_bytes().decode().splitlines()
    assert lines == ["photo[red].jpg", "not-utf8-\\udcff.jpg", "new\\nline.jpg", "line\\u2028separator.jpg"]
    assert count_corrupt_images(tmp_path / "corrupt.txt") == 4
