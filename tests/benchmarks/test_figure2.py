"""benchmark=figure2 with made-up measurements, and on small networks."""

import json
from functools import partial

import pytest

from lambdanets.benchmarks import compare_speed_and_accuracy, figure2, plots
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.errors import UserError
from lambdanets.mixers import Conv
from lambdanets.models import ResNet

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)
PAIR = ("lambda_resnet/420_320", "efficientnet/b7")
# Images per second in training and in inference.
SPEEDS = {
    "lambda_resnet/152_256": (4.0, 8.0),
    "lambda_resnet/270_256": (1.0, 4.0),
    "lambda_resnet/350_320": (0.5, 0.8),
    "resnet/152": (6.0, 9.0),
    "efficientnet/b0": (10.0, 20.0),
    "efficientnet/b6": (0.4, 1.0),
    "efficientnet/b7": (0.25, 0.5),
}


@pytest.fixture
def compare(monkeypatch):
    def measure(setting, *, title, networks, **_):
        rows = [
            {"experiment": name, "row": name, "train img/s": SPEEDS[name][0], "infer img/s": SPEEDS[name][1]}
            for name in networks
        ]
        return Result(title, ["row", "train img/s", "infer img/s"], rows, setting=setting)

    monkeypatch.setattr(figure2, "compare_experiments", measure)
    return partial(
        compare_speed_and_accuracy, QUICK, title="Figure 2", networks=dict.fromkeys(SPEEDS), batch=2, pairs=[]
    )


def test_times_are_relative_and_arrows_have_their_ratios(compare):
    result = compare(normalize_to="efficientnet/b0")
    rows = {row["experiment"]: row for row in result.rows}
    b7 = rows["efficientnet/b7"]
    assert (b7["published s"], b7["published top-1"]) == ("6.034", "84.7 (Tan and Le 2019: 84.3)")
    assert b7["published time"] == pytest.approx(6.034 / 0.089)
    assert (b7["train time"], b7["infer time"]) == (40, 40)
    assert rows["efficientnet/b0"]["train time"] == 1
    assert rows["resnet/152"]["published time"] is None
    large, equal = result.notes[-2:]
    assert large == (
        "LambdaResNet-350, 320² against EfficientNet-B7: 3.16 times as fast by the published seconds (3.2 as printed), "
        "2.00 times in training here, 1.60 times in inference."
    )
    # 84.0 % is 25/49 of the way from 83.75 to 84.24 %, on a logarithmic scale of the seconds per image.
    share = 25 / 49
    published, training, inference = 3.026 / (0.48 ** (1 - share) * 0.906**share), 2.5 * 4 / 4**share, 8 / 2**share
    assert equal == (
        "LambdaResNets against EfficientNet-B6 at its published top-1 of 84.0 %, interpolated between "
        "LambdaResNet-152, 256² and LambdaResNet-270, 256² (the logarithm of the time is linear in the published "
        f"top-1): {published:.2f} times as fast by the published seconds (4.4 as printed), {training:.2f} times in "
        f"training here, {inference:.2f} times in inference."
    )


def test_the_plot_is_redrawn_from_the_json(compare, tmp_path):
    result = compare(normalize_to="efficientnet/b0")
    result.save(tmp_path, "figure2", {"packages": {}, "python": "3", "date": "2026-01-01", "command": "run.py"})
    plots.save_plot(result, tmp_path / "first.png")
    again = Result.load(tmp_path / "figure2.json")
    plots.save_plot(again, tmp_path / "again.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    again.plot["normalize_to"] = "resnet/152"
    plots.save_plot(again, tmp_path / "other.png")
    assert (tmp_path / "first.png").read_bytes() != (tmp_path / "other.png").read_bytes()
    _, measured = again.plot["panels"]
    points = {point["experiment"]: point for point in measured["points"]}
    assert set(points) == set(SPEEDS) - {"resnet/152"}, "no accuracy is published for it"
    assert points["efficientnet/b7"]["time"] == 4


def test_a_file_without_plot_is_refused(tmp_path):
    file = tmp_path / "table4.json"
    with pytest.raises(UserError, match="is not the JSON of a benchmark"):
        Result.load(file)
    for plot in ({}, {"plot": {}}):
        file.write_text(json.dumps({"title": "", "rows": [], "notes": []} | plot))
        with pytest.raises(UserError, match="has no plot"):
            Result.load(file)


def test_the_reference_must_be_measured(compare):
    with pytest.raises(UserError, match="benchmark.normalize_to=resnet/50 is not measured"):
        compare(normalize_to="resnet/50")


def test_small_networks_are_measured():
    options = {"depth": [1], "layout": "C", "strides": [1], "width": 0.25, "stem": "small", "num_classes": 4}
    network = NetworkSpec(partial(ResNet, Conv, image_size=(16, 16), **options), 3, (16, 16))
    result = compare_speed_and_accuracy(
        QUICK, title="Figure 2", networks=dict.fromkeys(PAIR, network), batch=2, pairs=[PAIR], normalize_to=PAIR[1]
    )
    ours, theirs = result.rows
    assert ours["train time"] == pytest.approx(theirs["train img/s"] / ours["train img/s"])
    assert [row["published s"] for row in result.rows] == ["2.25", "6.034"]
    assert any(note.startswith("LambdaResNet-420, 320² against EfficientNet-B7") for note in result.notes)
    assert set(result.columns) <= {*ours, *theirs}
