"""The model card."""

from lambdanets.config.build import build_data
from lambdanets.export.model_card import model_card
from lambdanets.tasks import Classification, Detection
from tests.checkpoints import SHALLOW, write_checkpoint

ORIGIN = {"command": "run.py job=export", "git": None, "date": "2025-01-02T03:04:05", "packages": {"torch": "2.9"}}


def card(tmp_path, task, classes, **metrics):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=lambda", "mixer.scope=5", *SHALLOW])
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(3 * 2**20))
    options = {"classes": classes, "metrics": metrics, "origin": ORIGIN, "files": [file]}
    return model_card(config, build_data(config), task=task, **options)


def test_it_names_the_model_its_images_scores_and_origin(tmp_path):
    text = card(tmp_path, Classification, ["ant", "bee"], top1=0.98765432)
    assert text.startswith("---\nlibrary_name: lambdanets\npipeline_tag: image-classification\n")
    assert "ResNet with the mixer LambdaLayer (scope 5, " in text
    assert "8 × 8 pixels, one grey channel" in text
    assert "2: `ant`, `bee`\n" in text
    assert "- `model.safetensors`, 3.0 MiB" in text
    assert "| top1 | 0.987654 |" in text
    assert "`run.py job=export`, commit unknown, 2025-01-02; torch 2.9." in text


def test_a_task_has_the_tag_of_the_hub_and_long_lists_are_cut(tmp_path):
    text = card(tmp_path, Detection, [f"class {index}" for index in range(80)])
    assert "pipeline_tag: object-detection\n" in text
    assert "`class 19` and 60 more\n" in text
    assert "`class 20`" not in text
