"""The programs in Triton, compiled without a GPU: nothing spills, all fit, and the committed table is complete."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from lambdanets.benchmarks import compile_variants
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.triton_variants import Variant, case_shapes, find_variants, read_build
from lambdanets.config.build import build_model, image_spec
from lambdanets.costs.count import count_costs
from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import triton_kernel
from lambdanets.ops.triton_kernel import Launch
from tests.command import ROOT
from tests.configs import FOLDER, experiment
from tests.methods import needs_triton

SHARED_BYTES = 163 * 2**10  # of a thread block on sm_80
STAGES = {"batch": 128, "maps": [[56, 56, 64], [28, 28, 128], [14, 14, 256], [7, 7, 512]], "scopes": [23]}
FIRST, LAST = ({**STAGES, "maps": [STAGES["maps"][index]]} for index in (0, -1))
COMPILED = [
    (80, STAGES),
    (90, FIRST),
    (90, LAST),
    (100, {**LAST, "scopes": ["global"]}),
    (80, {**LAST, "dtypes": ["float32"]}),
    (80, {"batch": 1, "maps": [[1, 9, 16]], "scopes": [3]}),  # Triton compiles sizes of one into a program
]
COMPILE = """
import dataclasses, json, sys
from lambdanets.benchmarks.triton_variants import compile_variant, find_variants

rows = []
for architecture, case in json.loads(sys.argv[1]):
    for variant in find_variants({"": case}):
        build = dataclasses.asdict(compile_variant(variant, architecture))
        rows.append(build | {"program": variant.program, "dtype": variant.dtype, "architecture": architecture})
print(json.dumps(rows))
"""


def committed_cases():
    return yaml.safe_load((FOLDER / "benchmark" / "triton_variants.yaml").read_text())["cases"]


@pytest.fixture(scope="module")
def builds():
    """Compile some variants in a process with Triton's compiler; its interpreter stands in for it in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, json.dumps(COMPILED)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_triton
def test_nothing_spills_and_all_fit(builds):
    assert {build["program"] for build in builds} == {
        "expand_table",
        "apply_lambdas",
        "differentiate_queries",
        "differentiate_lambdas",
        "differentiate_values",
        "differentiate_windows",
    }
    for build in builds:
        assert build["spills"] == 0, build
        assert build["registers"] <= 255
        assert build["shared"] <= SHARED_BYTES, build


@needs_triton
def test_half_precision_is_summed_on_tensor_cores(builds):
    sums = [build for build in builds if build["program"] not in ("expand_table", "differentiate_lambdas")]
    assert len({(build["program"], build["architecture"]) for build in sums}) == 4 * 3
    for build in sums:
        assert (build["tensor_core"] > 0) == (build["dtype"] == "bf16"), build
        assert 0 < build["step"] < build["instructions"], build


@needs_triton
def test_the_committed_table_has_every_variant():
    document = json.loads((ROOT / "results" / "triton_variants.json").read_text())
    rows = {row["variant"]: row for row in document["rows"]}
    variants = find_variants(committed_cases())
    missing = {variant.key for variant in variants} ^ set(rows)
    assert not missing, f"run job=benchmark benchmark=triton_variants again: {sorted(missing)[:3]}"
    for variant in variants:
        row = rows[variant.key]
        for architecture in (80, 90, 100):
            build = {
                name.split(" ", 1)[1]: value for name, value in row.items() if name.startswith(f"sm_{architecture} ")
            }
            assert build["spills"] == 0, row
            assert build["shared"] <= SHARED_BYTES, row
            assert (build["tensor_core"] > 0) == (variant.has_sum and "fp32" not in variant.dtype), row


def used_shapes(name, *overrides):
    """Return the shapes of the products in a network, for one image."""
    config = experiment(name, *overrides)
    images = image_spec(config)
    shapes = set()

    def make():
        model = build_model(config, images)
        for module in model.modules():
            if isinstance(module, LambdaLayer):
                module.register_forward_pre_hook(lambda layer, inputs: shapes.add(layer.product_shape(*2 * inputs)))
        return model

    count_costs(make, channels=images.channels, image_size=images.size, batch=1)
    return {plain_shape(shape) for shape in shapes}


def plain_shape(shape):
    return shape._replace(batch=1, device="cuda", training=True, dtype=torch.bfloat16)


@needs_triton
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("lambda_resnet/350_320", ["model=lambda_resnet50"]),
        ("coco/lambda_resnet101", []),
        ("lambda_resnet/350_320", ["model=lambda_resnet26t", "recipe.image_size=256"]),
    ],
)
def test_the_networks_layers_are_among_the_cases(name, overrides):
    listed = {plain_shape(shape) for case in committed_cases().values() for shape in case_shapes(**case)}
    used = used_shapes(name, *overrides)
    assert used
    assert used <= listed


@needs_triton
def test_a_variant_depends_on_what_is_compiled_into_it():
    launch = Launch(
        "expand_table",
        (1,),
        (torch.empty(8, dtype=torch.bfloat16, device="meta"), torch.empty(9, device="meta")[1:], 48),
        {"K": 4, "U": 1, "R": 3, "C": 3, "QUERIES": 1, "KEYS": 4, "BLOCK": 1024},
        warps=4,
        stages=3,
    )
    variant = Variant.of(launch)
    assert variant.types == ("*bf16:16", "*fp32", "i32:16", *"=======")
    for size, kind in ((49, "i32"), (1, "1"), (2**31, "i64:16"), (2**31 + 1, "i64")):
        arguments = (*launch.arguments[:2], size)
        assert Variant.of(launch._replace(arguments=arguments)).types[2] == kind
    assert Variant.of(launch._replace(grid=(5,))) == variant
    assert Variant.of(launch._replace(warps=8)).key != variant.key


ASSEMBLY = """
.text.program:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   STL [R1], R2 ;
.L_x_0:
        /*0020*/                   LDSM.16.M88.4 R4, [R3] ;
        /*0030*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0040*/              @!P0 HMMA.16816.F32.BF16 R8, R4, R8, R8 ;
        /*0050*/               @P1 BRA `(.L_x_3) ;
.L_x_2:
        /*0060*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0070*/                   FMUL R4, R4, R5 ;
        /*0080*/                   SHFL.BFLY PT, R5, R4, 0x4, 0x1f ;
        /*0090*/              @!P2 BRA `(.L_x_1) ;
        /*00a0*/                   EXIT ;
.L_x_3:
        /*00b0*/                   NOP ;
        /*00c0*/                   BRA `(.L_x_2) ;
"""


def test_loops_are_found_in_machine_code():
    build = read_build(ASSEMBLY, has_sum=True, registers=9, stack=8, shared=16)
    assert (build.tensor_core, build.spills, build.instructions) == (2, 1, 12)
    assert (build.step, build.head, build.shuffles) == (5, 3, 1)
    assert (build.registers, build.stack, build.shared) == (9, 8, 16)


def test_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr("lambdanets.benchmarks.triton_variants.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Triton, which is missing"):
        compile_variants(Setting(device="cpu"), cases={}, architectures=[80])
    monkeypatch.undo()
    monkeypatch.setattr("lambdanets.benchmarks.triton_variants.find_spec", lambda name: "here")
    monkeypatch.setattr(triton_kernel, "is_interpreted", lambda: True)
    with pytest.raises(UserError, match="unset it for"):
        compile_variants(Setting(device="cpu"), cases={}, architectures=[80])
