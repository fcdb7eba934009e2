"""benchmark=input on a few images."""

import pytest
import torch
from PIL import Image

from lambdanets.benchmarks import measure_input_pipeline
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.input_pipeline import FILES, IMAGE_FOLDER, PACKED, write_photographs
from lambdanets.benchmarks.measure import Setting
from lambdanets.errors import UserError

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_three_pipelines_read_the_same_images(tmp_path):
    for index in range(6):
        folder = tmp_path / "images" / "train" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (40 * index, 0, 0)).save(folder / f"{index}.jpg")
    result = measure_input_pipeline(
        QUICK, root=str(tmp_path / "images"), shards=str(tmp_path / "shards"), image_size=16, batch=4, workers=2,
        networks={"small": NetworkSpec(lambda: torch.nn.Conv2d(3, 2, 3), 3, (16, 16))},
    )  # fmt: skip
    assert [row["input"] for row in result.rows[:3]] == [IMAGE_FOLDER, FILES, PACKED]
    for row in result.rows:
        assert row["worker img/s"] > 0
        for column in ("device img/s", "loader img/s"):
            assert (row[column] is None) == (row["input"] == IMAGE_FOLDER)
    for row in result.rows[1:3]:
        one_core = 1 / (1 / row["worker img/s"] + 1 / row["device img/s"])
        assert row["one core img/s"] == pytest.approx(one_core)
        assert row["one core ratio"] == pytest.approx(one_core / result.rows[0]["worker img/s"])
    assert "is the limit" in result.notes[-1]
    with pytest.raises(UserError, match="has no class folders with images"):
        measure_input_pipeline(QUICK, root=str(tmp_path / "none"), shards="", image_size=16, batch=4, workers=2)


def test_generated_photographs_have_two_classes_and_the_usual_size(tmp_path):
    write_photographs(tmp_path / "images", 4)
    files = sorted((tmp_path / "images").glob("*/*.jpg"))
    assert [file.parent.name for file in files] == ["class-0", "class-0", "class-1", "class-1"]
    for file in files:
        assert Image.open(file).size == (500, 375)
        assert 20_000 < file.stat().st_size < 150_000  # ImageNet's have some 110 kB
