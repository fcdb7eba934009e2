"""job=benchmark through the command line, in this process: what it prints and writes, not how fast anything is."""

import json

import pytest

from tests.in_process import refusal_of, run


def test_the_job_prints_and_writes_its_table(tmp_path):
    shapes = "benchmark.shapes=[[1,4,16,3]]"
    done = run(
        "job=benchmark", "benchmark=methods", "benchmark.setting.repeats=2", shapes, "hydra.run.dir=out", cwd=tmp_path
    )
    assert "Exact methods" in done.text
    document = json.loads((tmp_path / "out/methods.json").read_text())
    assert {row["method"] for row in document["rows"]} >= {"scores", "tiles"}
    assert "benchmark=methods" in document["origin"]["command"]
    text = (tmp_path / "out/methods.md").read_text()
    assert "| map | context | method |" in text
    assert "torch " in text
    assert "needs a benchmark" in refusal_of("job=benchmark", cwd=tmp_path)


def test_the_job_measures_experiments(tmp_path):
    done = run(
        "job=benchmark", "benchmark=table4", "benchmark.setting.repeats=2", "benchmark.batch=2", "data=digits",
        "recipe=digits", "model=tiny", "benchmark.experiments=[table4/axial,table4/lambda,table4/lambda_shared]",
        "+benchmark.variants={baseline: ['mixer=conv']}", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    document = json.loads((tmp_path / "out/table4.json").read_text())
    assert [row["row"] for row in document["rows"]][2:] == ["Lambda layer, shared embeddings", "baseline"]
    assert "Lambda layer, shared embeddings" in done.text
    assert document["rows"][0]["published img/s"] == "960"


def test_figure_2_is_drawn_and_redrawn(tmp_path):
    figure2 = ["job=benchmark", "benchmark=figure2"]
    run(
        *figure2, "benchmark.experiments=[lambda_resnet/50_128,resnet/50,efficientnet/b0]", "benchmark.pairs=[]",
        "benchmark.setting.repeats=2", "data=digits", "recipe=digits", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    page = (tmp_path / "out/figure2.md").read_text()
    assert "| LambdaResNet-50, 128² | 8² | 2 |" in page
    assert "| 0.053 (unconfirmed) |" in page
    redraw = [*figure2, "job.redraw=out/figure2.json"]
    run(*redraw, "hydra.run.dir=again", cwd=tmp_path)
    run(*redraw, "benchmark.normalize_to=lambda_resnet/50_128", "hydra.run.dir=other", cwd=tmp_path)
    first, again, other = ((tmp_path / folder / "figure2.png").read_bytes() for folder in ("out", "again", "other"))
    assert first == again != other


def test_inference_continues_where_it_stopped_and_is_plotted(tmp_path):
    options = [
        "job=benchmark", "benchmark=inference", "benchmark.runtimes=[eager,optimized]", "benchmark.batches=[1,2]",
        "benchmark.setting.repeats=3", "benchmark.setting.passes=1", "~benchmark.variants", "benchmark.timm=[]",
        "data=random", "data.image_size=64", "recipe=digits", "hydra.run.dir=out",
    ]  # fmt: skip
    run(*options, "benchmark.experiments=[efficientnet/b0]", cwd=tmp_path)
    first = json.loads((tmp_path / "out/inference.json").read_text())
    run(*options, "benchmark.experiments=[efficientnet/b0,lambda_resnet/50_128]", cwd=tmp_path)
    document = json.loads((tmp_path / "out/inference.json").read_text())
    assert document["cases"] == {"efficientnet/b0": "measured", "lambda_resnet/50_128": "measured"}
    assert document["rows"][0] == first["rows"][0], "measured by the first call"
    assert (tmp_path / "out/inference.png").stat().st_size > 10_000
    page = (tmp_path / "out/inference.md").read_text()
    assert "| row | image | published top-1 | M parameters | eager ms | optimized ms | eager img/s |" in page
    assert "| LambdaResNet-50, 128² | 64² | 77.42 (unconfirmed) |" in page


def test_the_training_loop_beside_a_bare_one(tmp_path):
    trainings = 'benchmark.trainings=[["mixer=conv","data=random","data.size=256"]]'
    done = run(
        "job=benchmark",
        "benchmark=loop",
        "benchmark.setting.repeats=1",
        "benchmark.setting.threads=1",
        trainings,
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    (row,) = json.loads((tmp_path / "out/loop.json").read_text())["rows"]
    assert row["bare ms/step"] > 0
    assert "overhead %" in done.text


@pytest.mark.parametrize("option", ["trainer.limit_train_batches=2", "trainer.gradient_clip_val=1.0"])
def test_a_training_that_the_bare_loop_would_do_otherwise_is_refused(option, tmp_path):
    trainings = f'benchmark.trainings=[["mixer=conv","{option}"]]'
    options = ("job=benchmark", "benchmark=loop", "benchmark.setting.repeats=1", trainings)
    assert f"{option} can't be compared" in refusal_of(*options, cwd=tmp_path)


def test_cost_of_visualizations(tmp_path):
    options = ["mixer=lambda", "data=random", "data.size=256", "data.image_size=16", "trainer.max_epochs=1"]
    trainings = f"benchmark.trainings=[{json.dumps(options)}]"
    run(
        "job=benchmark",
        "benchmark=callbacks",
        "benchmark.setting.repeats=1",
        "benchmark.setting.threads=1",
        trainings,
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    (row,) = json.loads((tmp_path / "out/callbacks.json").read_text())["rows"]
    assert 0 < row["visualizations, s"] < row["default, s"]
    rest = row["default, s"] - row["visualizations, s"]
    assert row["visualizations %"] == pytest.approx(100 * row["visualizations, s"] / rest, rel=0.02)
