"""The list of corrupt images that the processes of a run share."""

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


def test_without_a_file_the_images_are_counted_all_the_same():
    corrupt = CorruptImages(0.1)
    corrupt.add("1.jpg", ERROR, SAMPLES)
    with pytest.raises(UserError, match=r"2 of 10 images can't be decoded; .* it is damaged"):
        corrupt.add("2.jpg", ERROR, SAMPLES)


def test_without_a_permitted_fraction_the_first_one_raises_its_error(tmp_path):
    with pytest.raises(UserError, match="it is damaged"):
        CorruptImages(0.0, tmp_path / "corrupt.txt").add("1.jpg", ERROR, SAMPLES)
    assert not (tmp_path / "corrupt.txt").exists()
