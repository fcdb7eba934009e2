"""Predictions of a loaded model."""

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import lambdanets
from lambdanets.data import Digits
from lambdanets.errors import UserError
from lambdanets.tasks import Detection
from tests.checkpoints import CLASSES, SHALLOW, write_checkpoint


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
        UserError, match=r"preprocess\(\) needs an image \(C, H, W\) uint8, not \(3, 20, 30\) torch.float32"
    ):
        model.preprocess(pixels.float())


def test_a_detector_has_no_class_of_an_image():
    model = lambdanets.TrainedModel(
        lambda images: [], task=Detection, data=Digits(), classes=["box"], config=OmegaConf.create()
    )
    assert model.network is None
    with pytest.raises(UserError, match="this model is a detector"):
        model.predict(torch.zeros(1, 8, 8, dtype=torch.uint8))
