"""benchmark=inference and mobilenet on small networks and made-up runtimes."""

import json
import time
from dataclasses import replace
from functools import partial

import pytest

from lambdanets.benchmarks import compare_runtimes, plots
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.resumable import ResumableResult
from lambdanets.benchmarks.runtimes import RUNTIMES, Runtime
from lambdanets.errors import UserError
from lambdanets.measured import Measured
from lambdanets.mixers import Conv, LambdaConv
from lambdanets.models import MobileNet, ResNet

QUICK = Setting(device="cpu", threads=1, repeats=3, seconds=0.001, passes=1)
ORIGIN = {"packages": {"torch": "2.0"}, "python": "3.12", "date": "2026-01-01", "command": "run.py"}
SMALL = partial(ResNet, Conv, depth=[1], layout="C", strides=[1], width=0.25, stem="small", num_classes=4)
NETWORK = NetworkSpec(partial(SMALL, image_size=(16, 16)), 3, (16, 16))
WIDE = NetworkSpec(partial(SMALL, image_size=(16, 16), width=0.5), 3, (16, 16))


@pytest.fixture
def compare(tmp_path):
    def measure(networks, runtimes=("eager", "optimized"), *, setting=QUICK, **options):
        file = ResumableResult(tmp_path, "inference", identity={"code": "a"}, origin=ORIGIN, setting=setting)
        defaults = {"title": "Inference", "batches": [1], "threads": [1], "pairs": [], "plot": True}
        result = compare_runtimes(setting, networks=networks, runtimes=runtimes, file=file, **(defaults | options))
        return result, file

    return measure


@pytest.fixture
def pretend(monkeypatch):
    """Add a runtime to RUNTIMES that changes the logits, or fails."""

    def add(name, prepare, *, is_exact=True):
        monkeypatch.setitem(RUNTIMES, name, Runtime(name, name, prepare, is_exact))

    return add


@pytest.fixture
def seconds(monkeypatch):
    """Replace measurements by the seconds of each runtime and number of images."""

    def use(times):
        def measure_times(self, steps):
            return {
                key: Measured([times[key] * step.args[0].shape[-1] * len(step.args[0])] * 3)
                for key, step in steps.items()
            }

        monkeypatch.setattr(Setting, "measure_times", measure_times)

    return use


def test_the_page_names_the_threads_that_were_measured(compare, seconds):
    seconds({"eager": 0.002, "optimized": 0.001})
    result, _ = compare({"resnet/50": NETWORK}, setting=replace(QUICK, threads=2))
    assert result.setting.threads == 1


def test_each_network_has_its_times_and_the_fastest_runtime(compare, seconds):
    seconds({"eager": 4e-4, "optimized": 2e-4})
    networks = {"lambda_resnet/420_320": NETWORK, "efficientnet/b7": NETWORK}
    result, file = compare(networks, batches=[1, 4], threads=[1, 2], pairs=[tuple(networks)])
    assert not file.failures
    assert [(row["row"], row["threads"]) for row in result.rows] == [
        ("LambdaResNet-420, 320²", "1"), ("LambdaResNet-420, 320²", "2"),
        ("EfficientNet-B7", "1"), ("EfficientNet-B7", "2"),
    ]  # fmt: skip
    row = result.rows[0]
    assert (row["image"], row["published top-1"], row["against EfficientNets"]) == ("16²", "84.85", "more accurate")
    assert row["M parameters"] == f"{sum(p.numel() for p in NETWORK.make().parameters()) / 1e6:.3f}"
    assert (row["eager ms"], row["optimized ms"]) == (pytest.approx(6.4), pytest.approx(3.2))
    assert (row["eager img/s"], row["optimized img/s"]) == (pytest.approx(156.25), pytest.approx(312.5))
    assert (row["fastest"], row["speedup"]) == ("optimized", 2)
    assert set(result.columns) <= set(row)
    assert 0 <= float(row["difference"]) < 1e-5
    text = " ".join(result.notes)
    assert (
        "With 2 threads, LambdaResNet-420, 320² takes the time of EfficientNet-B7 1.00 times in eager, 1.00 times in "
        "optimized, 1.00 times in the fastest runtime of each." in text
    )
    assert "With 1 thread, LambdaResNets are this many times as fast as in eager: 2.00 in optimized." in text
    assert "With 1 thread, 1 of 1 LambdaResNets lie above the curve of EfficientNets." in text
    page = (file.folder / "inference.md").read_text()
    assert "1 thread of" not in page
    assert "| threads |" in page


def test_measurements_keep_their_spread_and_load(compare):
    result, _ = compare({"lambda_resnet/50_128": NETWORK, "table3/conv": WIDE}, runtimes=["optimized", "eager"])
    for row in result.rows:
        assert len(row["eager ms"].samples) >= 2
        times = {key: float(row[f"{key} ms"]) for key in ("eager", "optimized")}
        assert row["fastest"] == min(times, key=times.get)
        assert row["speedup"] == pytest.approx(times["optimized"] / min(times.values()))
    assert result.rows[1]["row"] == "ResNet-50, 224²"
    assert result.machine_load["cores"] >= 1


def test_another_call_measures_the_networks_that_are_left(compare):
    def refuse():
        raise AssertionError("measured again")

    first, _ = compare({"efficientnet/b0": NETWORK})
    done = NetworkSpec(refuse, 3, (16, 16))
    second, file = compare({"efficientnet/b0": done, "efficientnet/b1": WIDE})
    assert not file.failures
    assert [row["experiment"] for row in second.rows] == ["efficientnet/b0", "efficientnet/b1"]
    assert float(second.rows[0]["eager ms"]) == float(first.rows[0]["eager ms"])
    points = second.plot["panels"][0]["points"]
    assert [point["top1"] for point in points] == [77.1, 79.1]


def test_a_runtime_that_fails_or_hangs_is_noted_and_the_others_are_measured(compare, pretend):
    def fail(model, images, folder):
        raise RuntimeError("no\ncompiler")

    def hang(model, images, folder):
        time.sleep(60)

    pretend("broken", fail)
    pretend("slow", hang)
    result, file = compare({"table3/conv": NETWORK}, ["eager", "broken", "slow"], prepare_seconds=0.2)
    assert not file.failures
    (row,) = result.rows
    assert row["fastest"] == "eager"
    assert row.get("broken ms") is None
    assert "ResNet-50, 224²: not measured in broken (RuntimeError: no compiler)." in result.notes
    assert any(note.startswith("ResNet-50, 224²: not measured in slow (Preparation") for note in result.notes)


def test_wrong_logits_are_an_error_but_for_quantized_networks(compare, pretend):
    def shift(model, images, folder):
        return lambda x: 1.01 * model(x)

    pretend("wrong", shift)
    pretend("quantized", shift, is_exact=False)
    result, file = compare({"table3/conv": NETWORK}, ["eager", "wrong"])
    assert not result.rows
    assert (
        "table3/conv: failed: UserError: The logits in wrong differ from those of eager PyTorch by" in file.failures[0]
    )
    result, file = compare({"table3/conv": NETWORK}, ["eager", "quantized"])
    assert not file.failures
    (row,) = result.rows
    assert row["fastest"] == "eager"
    assert float(row["quantized difference"]) == pytest.approx(0.01, rel=0.05)
    assert row["quantized ms"] > 0


def test_a_batch_that_needs_too_much_memory_is_smaller(compare, seconds):
    seconds({"eager": 1e-4})
    # The first map of the network: 16 channels of 16² positions in float32 are 16 KiB per image, and no map is larger.
    setting = Setting(device="cpu", threads=1, repeats=2, memory_gib=2**-10)
    result, _ = compare({"table3/conv": NETWORK}, ["eager"], setting=setting, batches=[1, 64])
    (note,) = (note for note in result.notes if "measured at batch" in note)
    batch = int(note.split("measured at batch ")[1].split(",")[0])
    assert 2**20 / (2 * 16 * 2**14) <= batch < 64
    assert result.rows[0]["eager img/s"] == pytest.approx(1 / 16e-4)


def test_unknown_runtimes_are_refused(compare):
    with pytest.raises(UserError, match="has 'tflite', which is not known: choose among eager, optimized"):
        compare({}, ["tflite"])
    with pytest.raises(UserError, match="need a value each"):
        compare({}, [])


def test_networks_of_timm_are_measured_on_their_own_layers(compare):
    pytest.importorskip("timm")
    result, file = compare({}, ["eager"], timm=["timm/lambda_resnet26t"])
    assert not file.failures
    (row,) = result.rows
    assert row["row"] == "timm lambda_resnet26t, timm's layers"
    assert row["published top-1"] == "79.088"
    assert round(float(row["M parameters"]), 2) == 10.96  # as timm prints
    assert not result.plot, "ours is in the plot"


def test_sizes_of_mobilenets_beside_the_published_ones(compare):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    size, layer = (64, 64), partial(LambdaConv, scope=5, key_depth=8)
    light = partial(MobileNet, layer, blocks=[10, 16], expansion=1, width=0.25, image_size=size)
    networks = {"mobilenet/v2": NETWORK, "mobilenet/lambda_v2": NetworkSpec(light, 3, size)}
    pairs = [("mobilenet/lambda_v2", "mobilenet/v2")]
    result, file = compare(networks, ["eager", "onnx"], pairs=pairs, sizes=True, plot=False)
    assert not file.failures
    plain, lambdas = result.rows
    assert plain["published MFLOPs"] == "603"
    assert lambdas["published M"] == "3.21"
    ratios = [lambdas[f"{runtime} ms"] / plain[f"{runtime} ms"] for runtime in ("eager", "ONNX")]
    ratio_note = f"of MobileNet-v2 {ratios[0]:.2f} times in eager, {ratios[1]:.2f} times in ONNX"
    assert any(ratio_note in note for note in result.notes)


def test_the_plot_is_redrawn_from_the_json(compare, tmp_path):
    result, _ = compare({"efficientnet/b0": NETWORK, "lambda_resnet/50_128": NETWORK}, ["eager"])
    plots.save_plot(result, tmp_path / "first.png")
    plots.save_plot(Result.load(tmp_path / "inference.json"), tmp_path / "again.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert json.loads((tmp_path / "inference.json").read_text())["plot"]["kind"] == plots.PARETO
