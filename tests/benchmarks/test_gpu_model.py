"""The model on paper against numbers by hand, on an invented GPU."""

from dataclasses import replace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lambdanets.benchmarks.gpu_model import (
    Gpu,
    Work,
    compulsory_bytes,
    convolution_seconds,
    floor_seconds,
    needed_multiply_adds,
    predict_gpu_times,
    read_builds,
    read_fragments,
)
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.triton_variants import case_shapes
from lambdanets.errors import UserError
from tests.command import ROOT
from tests.configs import FOLDER
from tests.methods import needs_triton

GPU = Gpu(80, 10, 1e9, 1e14, 0.5, 0.25, 1e12, 2e12, 2**17, 500, 1e-6)
(SHAPE,) = case_shapes(batch=2, maps=[(5, 4, 8)], scopes=[3], heads=2, key_depth=3)


def brute_force_pairs(shape):
    positions = [(y, x) for y in range(shape.height) for x in range(shape.width)]
    reach = shape.scope[0] // 2
    return sum(abs(a[0] - b[0]) <= reach and abs(a[1] - b[1]) <= reach for a in positions for b in positions)


def test_needed_work_is_that_of_the_definition():
    inference = SHAPE._replace(training=False)
    entries = 3 * 4
    assert needed_multiply_adds(inference) == 2 * entries * (brute_force_pairs(SHAPE) + 20 * 2)
    assert needed_multiply_adds(SHAPE) == 4 * needed_multiply_adds(inference)
    query, values, table, content, output = 2 * 20 * 2 * 3, 2 * 20 * 4, 3 * 9, 2 * 3 * 4, 2 * 20 * 2 * 4
    assert compulsory_bytes(inference) == 2 * (query + values + table + content + output)
    assert floor_seconds(SHAPE, replace(GPU, bandwidth=1e30)) == 2 * needed_multiply_adds(SHAPE) / 5e13
    assert floor_seconds(inference, replace(GPU, peak=1e30)) == compulsory_bytes(inference) / 1e12


def test_a_convolution_by_hand():
    flops = 2 * 2 * 20 * 9 * 8 * 8
    slow = replace(GPU, bandwidth=1e30, launch=0)
    assert convolution_seconds(SHAPE._replace(training=False), slow, 0.25) == pytest.approx(flops / 2.5e13)
    assert convolution_seconds(SHAPE, slow, 0.25) == pytest.approx(3 * flops / 2.5e13)


@pytest.mark.parametrize(
    ("sizes", "elements"),
    [
        ((128, 128, 64, 8, 80), 64 * 8 * (32 + 64)),  # 24 loads of 512 bytes per warp, as in the compiled program
        ((64, 128, 64, 8, 80), 64 * 8 * (32 + 32)),
        ((128, 128, 64, 8, 90), 64 * 2 * (64 + 128)),
        ((64, 128, 64, 8, 90), 64 * 2 * (64 + 64)),
    ],
)
def test_matrix_instructions_read_the_factors_of_their_part(sizes, elements):
    assert read_fragments(*sizes) == elements


def test_resources_by_hand():
    work = Work(flops=1e12, slots=4e9, shared=1.28e12, cache=1e12, memory=5e11, latency=1e6)
    assert work.seconds(GPU) == {
        "tensor cores": 0.02,
        "issue slots": 0.1,
        "shared memory": 1.0,
        "L2": 0.5,
        "memory": 0.5,
        "latency": 0.001,
    }
    assert (work + work).seconds(GPU)["issue slots"] == 0.2


@needs_triton
def test_no_prediction_is_below_its_floor():
    """The committed page is what the committed variants give, and no time is less than what the work needs."""
    config = OmegaConf.load(FOLDER / "benchmark" / "gpu_predicted.yaml")
    gpus = {name: instantiate(gpu) for name, gpu in config.gpus.items()}
    result = predict_gpu_times(
        Setting(device="cpu"),
        builds=str(ROOT / config.builds),
        gpus=gpus,
        case=OmegaConf.to_container(config.case),
    )
    assert len(result.rows) == 2 * 4 * 3 * 2
    for row in result.rows:
        assert row["predicted µs"] > row["floor µs"]
        assert row["conv predicted µs"] > row["conv floor µs"]
        assert row["issued GFLOP"] > 0.95 * row["needed GFLOP"]
    page = (ROOT / "results" / "gpu-predicted.md").read_text()
    assert result.to_markdown().splitlines()[4] in page
    assert "predicted, not measured" in page


@needs_triton
def test_files_without_the_variants_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not the JSON of benchmark=triton_variants"):
        read_builds(tmp_path / "missing.json")
    (tmp_path / "empty.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="benchmark.builds lacks expand_table of 1×7²×64 3×3 for sm_80"):
        predict_gpu_times(
            Setting(device="cpu"),
            builds=str(tmp_path / "empty.json"),
            gpus={"invented": GPU},
            case={"batch": 1, "maps": [[7, 7, 64]], "scopes": [3]},
        )
