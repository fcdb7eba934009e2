"""The images that job=predict reads."""

import json
import os

import pytest
import torch
from PIL import Image

from lambdanets.data import Digits
from lambdanets.errors import UserError
from lambdanets.jobs.predict import InputImages, image_files, summarize_errors
from tests.checkpoints import SHALLOW, write_checkpoint
from tests.command import run
from tests.images import encode_jpeg
from tests.in_process import refusal_of


def test_a_folder_gives_its_images_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "deeper/c.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in image_files(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert image_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # a file is taken by its content


def test_the_files_of_a_folder_that_are_no_images_are_named_in_one_warning(tmp_path, caplog):
    for name in ("a.jpg", "b.heic", "deeper/c.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files(tmp_path) == [tmp_path / "a.jpg"]
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"2 files or folders in '{tmp_path}' are not used: 'b.heic', 'deeper/c.txt'. Images are ")
    assert "Images are files whose names end in .jpg, .jpeg," in message


def test_a_folder_without_any_image_is_described(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.heic").touch()
    with pytest.raises(UserError, match=r"images: it holds '0.heic', .*, '4.heic', and 2 more\. Images are .* \.jpg"):
        image_files(tmp_path)


def test_an_input_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is a folder without images: it holds no files"):
        image_files(tmp_path)
    with pytest.raises(UserError, match="does not exist: give an image or a folder of images"):
        image_files(tmp_path / "nowhere")


def test_images_are_prepared_as_in_evaluation(tmp_path):
    data, files = Digits(), [tmp_path / "1.png", tmp_path / "2.png"]
    Image.new("RGB", (20, 30), (255, 255, 255)).save(files[0])
    Image.new("L", (8, 8), 0).save(files[1])
    images = InputImages(files, data)
    (white, first), (black, second) = images
    assert (images.read, images.errors) == (files, [])
    assert (first, second) == ({"image_id": 1, "size": (30, 20)}, {"image_id": 2, "size": (8, 8)})
    torch.testing.assert_close(
        white, torch.full((1, 8, 8), (1 - 0.305) / 0.376), rtol=0, atol=0.02
    )  # of grey, 254 of 255
    torch.testing.assert_close(black, torch.full((1, 8, 8), -0.305 / 0.376))


def test_hidden_files_and_folders_with_image_names_are_no_input(tmp_path):
    for name in (".ipynb_checkpoints/a.jpg", "._b.jpg", "@eaDir/c.jpg", "folder.jpg/d.JFIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files(tmp_path) == [tmp_path / "folder.jpg" / "d.JFIF"]


def test_each_image_that_cannot_be_read_is_named(tmp_path):
    whole = encode_jpeg(20, 30)
    for name, raw in {"a.jpg": whole, "b.jpg": whole[:300], "c.png": b"", "d.gif": b"text"}.items():
        (tmp_path / name).write_bytes(raw)
    os.symlink("nowhere", tmp_path / "e.jpg")
    files = [*image_files(tmp_path), tmp_path / "vanished.jpg"]
    images = InputImages(files, Digits())
    assert [target["image_id"] for _, target in images] == [1]
    assert images.read == files[:1]
    message = summarize_errors(images, tmp_path).splitlines()
    assert message[0].startswith("5 of 6 images can't be read; the predictions of the others are in")
    reasons = [
        "the file is truncated",
        "the file is empty",
        "not an image of a known",
        "a link to nothing",
        "check the path",
    ]
    for line, file, reason in zip(message[1:], files[1:], reasons, strict=True):
        assert str(file) in line
        assert reason in line


def test_one_unreadable_picture_of_any_name_does_not_lose_the_other_predictions(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    photos = tmp_path / "photos"
    (photos / "x[").mkdir(parents=True)
    names = ["photo[red].png", "x[/b].png", ":cat:.jpg", "new\nline.jpg", os.fsdecode(b"not-utf8-\xff.jpg")]
    for name in names:
        (photos / name).write_bytes(encode_jpeg(20, 30))
    (photos / os.fsdecode(b"bad\xff[i].jpg")).write_bytes(encode_jpeg(20, 30)[:300])
    done = run("job=predict", f"ckpt={config.ckpt}", "input=photos", "job.top=1", cwd=tmp_path, code=1)
    assert "1 of 6 images can't be read" in done.stderr
    assert "photos/bad\\udcff[i].jpg' can't be decoded (the file is truncated)" in done.stderr
    assert "Traceback" not in done.stderr
    for shown in ("photo[red].png", "x[/b].png", ":cat:.jpg", "new\\nline.jpg", "not-utf8-\\udcff.jpg"):
        assert f"photos/{shown}\n" in done.stdout
    (file,) = tmp_path.rglob("predictions.json")
    assert sorted(entry["file"] for entry in json.loads(file.read_text())) == sorted(f"photos/{n}" for n in names)


def test_a_terminal_that_lacks_a_character_shows_its_escape(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    (tmp_path / "東京.jpg").write_bytes(encode_jpeg(20, 30))
    command = ["job=predict", f"ckpt={config.ckpt}", "input=東京.jpg"]
    assert "\\u6771\\u4eac.jpg\n" in run(*command, cwd=tmp_path, PYTHONIOENCODING="ascii").stdout


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("job.top=-1", "job.top=-1 is not a number of classes: set 1 or more."),
        ("job.top=0", "job.top=0 is not"),
        ("job.top=abc", "job.top=abc is not"),
        ("job.top=2.5", "job.top=2.5 is not"),
        ("job.top=null", "job.top=None is not"),
        ("input=[a.png,b.png]", "is not a path: give one image or one folder of images."),
        ("input={a:b}", "is not a path"),
    ],
)
def test_mistakes_are_named_before_anything_is_predicted(option, message, tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    (tmp_path / "a.png").write_bytes(encode_jpeg(20, 30))
    options = [option] if option.startswith("input") else [option, "input=a.png"]
    assert message in refusal_of("job=predict", f"ckpt={config.ckpt}", *options, cwd=tmp_path)
    assert not [*tmp_path.rglob("predictions.json")]
