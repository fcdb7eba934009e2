"""Predictions of a loaded model."""

import io

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import lambdanets
from lambdanets.data import Coco
from lambdanets.errors import UserError
from lambdanets.tasks import Detection
from tests.checkpoints import CLASSES, SHALLOW, write_checkpoint
from tests.images import encode_turned


def test_files_images_and_pixels_have_the_same_predictions(tmp_path):
    config, network, _ = write_checkpoint(tmp_path, ["mixer=lambda", *SHALLOW])
    model = lambdanets.load(config.ckpt)
    assert isinstance(model.network, lambdanets.ResNet)
    assert not model.training
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.save(tmp_path / "photo.png")
    with torch.no_grad():
        expected = network(model.preprocess(pixels)[None]).softmax(-1)[0]
    order = [CLASSES[index] for index in expected.argsort(descending=True)]
    for source in (pixels, image, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        guesses = model.predict(source, top=3)
        assert [name for name, _ in guesses] == order[:3]
        assert [p for _, p in guesses] == pytest.approx(expected.sort(descending=True).values[:3].tolist(), abs=1e-6)
    assert len(model.predict(pixels, top=20)) == len(CLASSES)
    with pytest.raises(
        UserError, match=r"needs the pixels of a tensor as \(3, H, W\) uint8, not \(3, 20, 30\) torch.float32"
    ):
        model.preprocess(pixels.float())


@pytest.mark.parametrize("mixer", ["conv", "lambda"])
def test_images_follow_the_network_to_its_precision(mixer, tmp_path):
    config, _, _ = write_checkpoint(tmp_path, [f"mixer={mixer}", *SHALLOW])
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    expected = lambdanets.load(config.ckpt).predict(pixels)
    found = lambdanets.load(config.ckpt).double().predict(pixels)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config, _, _ = write_checkpoint(folder, ["mixer=conv", *SHALLOW])
    return lambdanets.load(config.ckpt)


def sources(pixels, folder):
    """Return an image in each form that predict() takes."""
    array = pixels.permute(1, 2, 0).numpy()
    image, file = Image.fromarray(array), folder / "photo.png"
    image.save(file)
    opaque = np.concatenate([array, np.full_like(array[..., :1], 255)], 2)
    return [
        *(file, str(file), file.read_bytes(), bytearray(file.read_bytes()), io.BytesIO(file.read_bytes())),
        *(image, Image.open(file), image.convert("RGBA"), array, np.asfortranarray(array), opaque),
        *(pixels, torch.from_numpy(opaque.transpose(2, 0, 1))),
    ]


def test_each_form_of_an_image_has_the_same_prediction_alone_and_in_a_mixed_list(model, tmp_path):
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    expected = model.predict(pixels)
    forms = sources(pixels, tmp_path)
    assert len(expected) == 5
    assert isinstance(expected[0], tuple)
    for form in forms:
        assert model.predict(form) == expected
    assert model.predict(sources(pixels, tmp_path)) == [expected] * len(forms)
    assert model.predict(form for form in (tmp_path / "photo.png", pixels)) == [expected] * 2
    with (tmp_path / "photo.png").open("rb") as file:
        assert model.predict(file) == expected


def test_arrays_and_tensors_of_several_images_are_batches(model):
    pixels = torch.randint(0, 256, (4, 3, 20, 30), dtype=torch.uint8)
    expected = [model.predict(image) for image in pixels]
    assert model.predict(pixels) == expected
    assert model.predict(pixels.permute(0, 2, 3, 1).numpy()) == expected
    assert model.predict([]) == []
    assert len({str(entry) for entry in expected}) == 4


def test_gray_pixels_are_the_same_with_and_without_a_channel(model):
    gray = torch.randint(0, 256, (20, 30), dtype=torch.uint8)
    expected = model.predict(gray)
    for form in (gray[None], gray.numpy(), gray.numpy()[..., None]):
        assert model.predict(form) == expected


def test_a_turned_photo_is_predicted_upright(model, tmp_path):
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    (tmp_path / "turned.png").write_bytes(encode_turned(pixels, 6))
    for source in (
        tmp_path / "turned.png",
        (tmp_path / "turned.png").read_bytes(),
        Image.open(tmp_path / "turned.png"),
    ):
        assert model.predict(source) == model.predict(pixels)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            torch.rand(3, 8, 8),
            r"the pixels of a tensor as \(3, H, W\) uint8, not \(3, 8, 8\) torch.float32: give values",
        ),
        (np.zeros((8, 8, 3)), r"the pixels of an array as \(H, W, 3\) uint8, not \(8, 8, 3\) float64"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\) uint8: permute the axes"),
        (np.zeros((0, 8, 3), np.uint8), r"not \(0, 8, 3\) uint8"),
        (b"text", "The image 'in bytes' can't be decoded"),
        (io.StringIO("text"), "is open for text: open it with"),
        (7, "needs an image, not int"),
        (None, "needs an image, not NoneType"),
        ("nowhere.png", "There is no image 'nowhere.png'"),
        (Image.new("F", (4, 4)), "mode F can't be used: its samples are floats"),
        ([np.zeros((8, 8, 3), np.uint8), 7], "needs an image, not int"),
    ],
)
def test_what_is_no_image_is_refused_by_a_sentence(model, source, message):
    with pytest.raises(UserError, match=message):
        model.predict(source)


def test_a_detector_predicts_named_objects_in_pixels_of_the_image(tmp_path):
    """A stand-in finds a box over the left half of what it is given, and one that is too unlikely."""

    def detect(images):
        (image,) = images
        height, width = image.shape[1:]
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, width / 2, height], [0.0, 0.0, width, height]]),
                "scores": torch.tensor([0.9, 0.3]),
                "labels": torch.tensor([2, 1]),
                "masks": torch.ones(2, 1, 28, 28),
            }
        ]

    data = Coco(root=str(tmp_path), image_size=64)
    model = lambdanets.TrainedModel(
        detect, task=Detection, data=data, classes=["cat", "dog"], config=OmegaConf.create()
    )
    pixels = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    for form in sources(pixels, tmp_path):
        (found,) = model.predict(form)
        assert (found.name, found.score) == ("dog", pytest.approx(0.9))
        assert found.box == pytest.approx((0, 0, 16, 24))
        assert found.mask.shape == (24, 32)
        assert found.mask[2:-2, 2:14].all()
        assert not found.mask[:, 18:].any()
    assert [len(objects) for objects in model.predict([pixels, pixels], threshold=0.2)] == [2, 2]
