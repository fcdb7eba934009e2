"""The images that job=predict reads."""

import pytest
import torch
from PIL import Image

from lambdanets.data import Digits
from lambdanets.errors import UserError
from lambdanets.jobs.predict import InputImages, image_files


def test_a_folder_gives_its_images_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "deeper/c.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in image_files(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert image_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # a file is taken by its content


def test_an_input_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is a folder without images"):
        image_files(tmp_path)
    with pytest.raises(UserError, match="does not exist: give an image or a folder of images"):
        image_files(tmp_path / "nowhere")


def test_images_are_prepared_as_in_evaluation(tmp_path):
    data, files = Digits(), [tmp_path / "1.png", tmp_path / "2.png"]
    Image.new("RGB", (20, 30), (255, 255, 255)).save(files[0])
    Image.new("L", (8, 8), 0).save(files[1])
    (white, first), (black, second) = InputImages(files, data)
    assert (first, second) == ({"image_id": 1, "size": (30, 20)}, {"image_id": 2, "size": (8, 8)})
    torch.testing.assert_close(
        white, torch.full((1, 8, 8), (1 - 0.305) / 0.376), rtol=0, atol=0.02
    )  # of grey, 254 of 255
    torch.testing.assert_close(black, torch.full((1, 8, 8), -0.305 / 0.376))
