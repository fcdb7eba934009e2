"""job=describe through the command line, in this process."""

import json

import pytest

from tests.in_process import run


def test_the_ten_rows_of_table_3(tmp_path):
    done = run("job=describe", "sweep=table3", "job.batch=2", "hydra.run.dir=out", cwd=tmp_path)
    document = json.loads((tmp_path / "out" / "describe.json").read_text())
    rows = document["Table 3, layers in ResNet-50, described"]["rows"]
    assert len(rows) == 10
    millions = {row["row"]: float(row["M parameters"]) for row in rows}
    for name, expected in (
        ("Conv (He et al. 2016)", 25.557),
        ("Conv + SE (Hu et al. 2018)", 28.088),
        ("Conv + relative self-attention (Bello et al. 2019)", 25.8),
        ("Local self-attention (Ramachandran et al. 2019)", 18.0),
        ("Lambda layer, u = 1", 14.996),
        ("Lambda layer, u = 4", 16.03),
    ):
        assert abs(millions[name] - expected) <= 0.05
        assert name in done.text
    text = (tmp_path / "out" / "describe.md").read_text()
    assert "| Conv (He et al. 2016) | 224² | 25.557 | 25.6 | 8.18 | 8.18 |" in text
    assert (rows[8]["published top-1"], rows[8]["published gain"]) == ("78.4", "+1.5")
    assert "Local self-attention (Hu et al. 2019): 14.58 M counted, 23.3 M published: the published network is" in text
    assert "Lambda layer, u = 1: " not in text  # its count is the published one
    assert "published GB" not in text  # of Table 4 alone
    assert "unconfirmed" not in text
    assert "## Part by part" in text


def test_the_memory_column_of_table_4(tmp_path):
    rows = ",".join(f"table4/{row}" for row in ("attention", "axial", "lambda", "lambda_k8", "lambda_shared"))
    run("job=describe", "sweep=table4", f"sweep.experiments=[{rows}]", "hydra.run.dir=out", cwd=tmp_path)
    document = json.loads((tmp_path / "out" / "describe.json").read_text())
    forms = {row["row"]: row for row in document["Closed forms, batch 128"]["rows"]}
    column = {name: row["GiB"] for name, row in forms.items()}
    assert column["Global self-attention"] == "122.8"
    assert column["Axial self-attention"] == "4.82"
    assert column["Lambda layer"] == "1.92"
    assert column["Lambda layer, k = 8"] == "0.96"
    assert column["Lambda layer, shared embeddings"] == "0.625"
    assert forms["Lambda layer"]["space"] == "Θ(l·k·u·n²)"
    assert forms["Global self-attention"]["published GB"] == "120"
    assert forms["Lambda layer"]["published GB"] == "1.9 (submission: 0.96)"
    final, submission = document["Introduction: 8 heads on images of 64×64"]["rows"]
    assert (final["images"], final["G entries"], final["printed GB"]) == ("128", "17.18", "64")
    assert (final["float32 GB"], final["float32 GiB"], final["bfloat16 GiB"]) == ("68.7", "64", "32")
    assert (submission["float32 GB"], submission["float32 GiB"], submission["printed GB"]) == ("137.4", "128", "32")
    assert "published M" not in (tmp_path / "out" / "describe.md").read_text()


def test_printed_flops_beside_the_counts(tmp_path):
    rows = ",".join(f"ablation/content_position/{row}" for row in ("content", "both"))
    sweep = ("sweep=ablation/content_position", f"sweep.experiments=[{rows}]")
    run("job=describe", *sweep, "job.batch=2", "hydra.run.dir=out", cwd=tmp_path)
    document = json.loads((tmp_path / "out" / "describe.json").read_text())
    content, both = document["Content and position lambdas, described"]["rows"]
    assert (content["published GFLOPs"], both["published GFLOPs"]) == ("5.0", "12.0")
    assert content["GFLOPs, paper's order"] == pytest.approx(5.0, abs=0.05)
    text = (tmp_path / "out" / "describe.md").read_text()
    assert "Content and position: 13.1 GFLOPs counted, 12.0 published: 12.0 comes out if the scope" in text
    # Two FLOPs per multiply-add, 16 · d / 4 multiply-adds per pair, strided layers at the size of their input.
    maps = {56: 3 * 64 + 128, 28: 3 * 128 + 256, 14: 5 * 256 + 512, 7: 2 * 512}
    cut = sum(side**2 * min(side, 23) ** 2 * 4 * channels for side, channels in maps.items()) / 1e9
    assert content["GFLOPs, paper's order"] + 2 * cut == pytest.approx(12.0, abs=0.05)
    pairs = sum(side**4 * 4 * channels for side, channels in maps.items()) / 1e9
    assert content["GFLOPs, paper's order"] + pairs == pytest.approx(19.5, abs=0.05)  # global scope, one FLOP


def test_a_single_config_part_by_part(tmp_path):
    done = run("job=describe", "mixer=conv", "model=resnet50", "data=digits", "hydra.run.dir=out", cwd=tmp_path)
    for part in ("stem", "stage 1", "stage 4", "classifier"):
        assert part in done.text
    document = json.loads((tmp_path / "out" / "describe.json").read_text())
    parts = document["Part by part"]["rows"]
    network = document["conv-digits, described"]["rows"][0]
    for column in ("GFLOPs", "MiB / image"):
        assert sum(row[column] for row in parts) == pytest.approx(network[column])
