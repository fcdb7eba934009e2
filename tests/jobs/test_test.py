"""job=test where some images can't be decoded."""

import pytest
from omegaconf import OmegaConf
from PIL import Image

from lambdanets.errors import UserError
from lambdanets.jobs.test import score_checkpoint
from tests.checkpoints import CLASSES, SHALLOW, write_checkpoint


@pytest.fixture
def config(tmp_path):
    """Return the config of a test on 20 images, four of them damaged, which two workers load into memory."""
    for index, name in enumerate(CLASSES):
        folder = tmp_path / "images" / "test" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (20 * index, 100 * number, 0)).save(folder / f"{number}.png")
        if index < 4:
            (folder / "1.png").write_bytes(b"damaged")
    data = ("data=imagefolder", f"data.root={tmp_path / 'images'}", "data.image_size=16", "data.memory_gib=1")
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW, *data, "data.num_workers=2", "trainer=cpu"])
    config.trainer.enable_progress_bar = False
    return config


def test_corrupt_images_that_workers_find_are_listed_and_counted(config, tmp_path):
    config.data.max_corrupt = 0.5
    metrics = score_checkpoint(config, tmp_path / "out")
    assert metrics["corrupt_images"] == 4
    listed = (tmp_path / "out" / "corrupt.txt").read_text().splitlines()
    assert sorted(listed) == [str(tmp_path / "images" / "test" / name / "1.png") for name in CLASSES[:4]]


def test_the_limit_is_that_of_all_workers_together(config, tmp_path):
    config.data.max_corrupt = 0.15  # three of twenty
    with pytest.raises(UserError, match=r"4 of 20 images can't be decoded"):
        score_checkpoint(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    OmegaConf.update(config, "data.max_corrupt", 0.2)
    assert score_checkpoint(config, tmp_path / "out")["corrupt_images"] == 4
