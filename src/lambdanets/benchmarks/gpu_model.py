"""benchmark=gpu_predicted: the time of lambda layers on GPUs by a model on paper, before any measurement."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.triton_variants import Build, Variant, case_shapes, describe_shape, shape_launches
from lambdanets.errors import UserError
from lambdanets.ops import Shape
from lambdanets.ops.cost import COUNTERS, OpCounts, partition_product
from lambdanets.ops.kernel import visible_pairs
from lambdanets.ops.triton_kernel import Launch
from lambdanets.ops.triton_partition import Partition
from lambdanets.table import TableRow

WARP = 32  # threads
WARPS = 64  # per multiprocessor, at most
SCHEDULERS = 4  # per multiprocessor; each issues one instruction per cycle
REGISTERS = 2**16  # per multiprocessor
SHARED_RATE = 128  # bytes per cycle and multiprocessor
RESERVED_SHARED = 2**10  # bytes per instance
WARPGROUP_ROWS = 64  # of a matrix instruction on sm_90, whose four warps read its factors from shared memory
PYTORCH_METHODS = ("lambdas", "convolution", "scores", "tiles", "fourier")


@dataclass(frozen=True)
class Gpu:
    """Limits of a GPU.

    Args:
        architecture: compute capability without the dot.
        processors: multiprocessors.
        clock: Hz.
        peak: FLOPs per second on tensor cores in bf16, by the data sheet.
        matrix_share: part of the peak that a large matrix product reaches.
        convolution_share: part of the peak that a 3×3 convolution reaches.
        bandwidth: bytes per second that a large copy reaches.
        cache_bandwidth: bytes per second of the L2 cache.
        shared: bytes of shared memory per multiprocessor.
        wait: cycles until a load from L2 arrives.
        launch: seconds between two kernels.
    """

    architecture: int
    processors: int
    clock: float
    peak: float
    matrix_share: float
    convolution_share: float
    bandwidth: float
    cache_bandwidth: float
    shared: int
    wait: float
    launch: float

    @property
    def matrix_rate(self) -> float:
        """FLOPs per second of a large matrix product."""
        return self.peak * self.matrix_share

    @property
    def pytorch_rates(self) -> OpCounts:
        """Seconds per operation of PyTorch's operators in bf16; of transforms and lambda convolutions a guess."""
        return OpCounts(
            products=2 / self.matrix_rate, moved=2 / self.bandwidth, butterflies=1e-12, taps=2e-13, calls=self.launch
        )


class Sum(NamedTuple):
    """The matrix products of a launch: steps of (rows × depth) times (depth × columns)."""

    steps: int
    rows: int
    columns: int
    depth: int

    @property
    def flops(self) -> int:
        return 2 * self.steps * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class Work:
    """Work of one launch or several on a GPU.

    Args:
        flops: on tensor cores, of whole tiles and steps.
        slots: instructions issued by all warps.
        shared: bytes written to and read from shared memory.
        cache: bytes loaded by all programs, from L2 at best.
        memory: bytes of the launch's tensors, each once.
        latency: cycles that the longest row of programs on one multiprocessor takes, if each ran alone.
        launches: of kernels.
    """

    flops: float = 0
    slots: float = 0
    shared: float = 0
    cache: float = 0
    memory: float = 0
    latency: float = 0
    launches: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def seconds(self, gpu: Gpu) -> dict[str, float]:
        """Return the seconds that each resource needs for its part."""
        cycles = gpu.processors * gpu.clock
        return {
            "tensor cores": self.flops / gpu.matrix_rate,
            "issue slots": self.slots / (SCHEDULERS * cycles),
            "shared memory": self.shared / (SHARED_RATE * cycles),
            "L2": self.cache / gpu.cache_bandwidth,
            "memory": self.memory / gpu.bandwidth,
            "latency": self.latency / gpu.clock,
        }


def find_sum(launch: Launch, partition: Partition) -> Sum:
    """Return the matrix products of a launch; no steps for a program without."""
    rows, columns = partition.tiling.rows, partition.tiling.columns
    batch = next(argument for argument in launch.arguments if isinstance(argument, int))
    match launch.program:
        case "apply_lambdas" | "differentiate_queries":
            return Sum(partition.lambdas_steps(), rows, columns, partition.step)
        case "differentiate_values":
            return Sum(partition.values_steps(batch), prod(partition.values_patch), columns, partition.values_step)
        case "differentiate_windows":
            return Sum(partition.windows_steps(batch), prod(partition.windows_patch), rows, partition.windows_step)
    return Sum(0, rows, columns, 0)


def read_fragments(rows: int, columns: int, depth: int, warps: int, architecture: int) -> int:
    """Count the elements that matrix instructions of one step read from shared memory.

    Each warp (on sm_90 each group of four) computes its own part of the tile, and reads both factors of that part.
    """
    if architecture >= 90:
        groups = warps // 4
        parts = min(groups, ceil(rows / WARPGROUP_ROWS))
        return depth * groups * (rows // parts + columns * parts // groups)
    splits = [1 << power for power in range(warps.bit_length())]
    return depth * warps * min(rows // split + columns // (warps // split) for split in splits)


def count_work(launch: Launch, build: Build, partition: Partition, gpu: Gpu) -> Work:
    """Count the work of a launch.

    Args:
        launch: of a product.
        build: its program, compiled for the GPU.
        partition: of the product.
        gpu: where it runs.
    """
    programs = prod(launch.grid)
    summed = find_sum(launch, partition)
    tensors = [argument for argument in launch.arguments if isinstance(argument, Tensor)]
    element = tensors[0].element_size()
    heads = launch.constants.get("HEADS", 0)
    loaded = (summed.rows + summed.columns) * summed.depth * element
    fragments = read_fragments(*summed[1:], launch.warps, gpu.architecture) * element
    once = build.instructions - build.step - build.head
    slots_per_step, slots_per_program = launch.warps * build.step, launch.warps * (once + heads * build.head)
    cycles_per_step = max(
        summed.flops / max(summed.steps, 1) * gpu.processors * gpu.clock / gpu.matrix_rate,
        slots_per_step / SCHEDULERS,
        (loaded + fragments) / SHARED_RATE,
    )
    # The first loads of the sum, the content, and a load per head follow each other.
    waits = (2 if summed.steps else 0) + max(heads, 1)
    cycles = summed.steps / programs * cycles_per_step + slots_per_program / SCHEDULERS + waits * gpu.wait
    resident = min(
        REGISTERS // (ceil(build.registers / 8) * 8 * WARP * launch.warps),
        gpu.shared // (build.shared + RESERVED_SHARED),
        WARPS // launch.warps,
    )
    memory = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Work(
        flops=summed.flops,
        slots=summed.steps * slots_per_step + programs * slots_per_program,
        shared=summed.steps * (loaded + fragments),
        cache=max(summed.steps * loaded, memory),
        memory=memory,
        latency=ceil(programs / (gpu.processors * resident)) * cycles,
        launches=1,
    )


class Pass(NamedTuple):
    """Predicted forward pass, or forward and backward pass, by the programs in Triton.

    Args:
        work: of all launches.
        seconds: predicted.
        shares: seconds of the launches that each resource limits.
    """

    work: Work
    seconds: float
    shares: dict[str, float]

    @property
    def bottleneck(self) -> str:
        name = max(self.shares, key=self.shares.__getitem__)
        return f"{name} {self.shares[name] / self.seconds:.0%}"


def predict_pass(shape: Shape, builds: Mapping[str, Mapping[int, Build]], gpu: Gpu) -> Pass:
    """Predict a pass: each launch takes as long as the resource that it needs longest.

    Args:
        shape: of the product.
        builds: by the variant's key and the architecture.
        gpu: where it runs.

    Raises:
        UserError: a variant is not among the builds.
    """
    partition = partition_product(shape)
    works = []
    for launch in shape_launches(shape, gpu.processors):
        build = builds.get(Variant.of(launch).key, {}).get(gpu.architecture)
        if build is None:
            raise UserError(
                f"benchmark.builds lacks {launch.program} of {describe_shape(shape)} for sm_{gpu.architecture}: "
                "run job=benchmark benchmark=triton_variants, and name its JSON."
            )
        works.append(count_work(launch, build, partition, gpu))
        if launch.program == "differentiate_windows":
            works.append(pass_over(3 * launch.arguments[2].numel() * 4))  # sums of the parts and chunks
    if shape.training:
        depths = shape.key_depth + shape.value_depth
        works.append(pass_over(2 * shape.batch * shape.queries * shape.heads * depths))  # the content's gradient
    shares: dict[str, float] = defaultdict(float)
    for work in works:
        name, seconds = max(work.seconds(gpu).items(), key=lambda item: item[1])
        shares[name] += seconds
        shares["launches"] += gpu.launch * work.launches
    return Pass(sum(works, Work()), sum(shares.values()), dict(shares))


def pass_over(memory: float) -> Work:
    """Return the work of an operator of PyTorch that reads or writes some bytes."""
    return Work(memory=memory, launches=1)


def floor_seconds(shape: Shape, gpu: Gpu) -> float:
    """Return the least seconds of the paper's order: its arithmetic, or its inputs and outputs, at reachable rates."""
    return max(2 * needed_multiply_adds(shape) / gpu.matrix_rate, compulsory_bytes(shape) / gpu.bandwidth)


def needed_multiply_adds(shape: Shape) -> float:
    """Count the multiply-adds of the paper's order, without pairs outside of map or scope.

    The backward pass sums up the lambdas, and the gradients of values and embeddings.
    """
    pairs = visible_pairs(shape.height, shape.context[0], shape.scope[0])
    pairs *= visible_pairs(shape.width, shape.context[1], shape.scope[1])
    entries = shape.key_depth * shape.value_depth
    summed = shape.batch * pairs * shape.intra_depth * entries
    applied = shape.batch * shape.queries * shape.heads * entries
    return 4 * (summed + applied) if shape.training else summed + applied


def compulsory_bytes(shape: Shape) -> float:
    """Count the bytes of all inputs and outputs in bf16: in training those of both passes."""
    query = shape.batch * shape.queries * shape.heads * shape.key_depth
    values = shape.batch * prod(shape.context) * shape.intra_depth * shape.value_depth
    table = shape.key_depth * shape.intra_depth * prod(shape.scope)
    content = shape.batch * shape.key_depth * shape.value_depth
    output = shape.batch * shape.queries * shape.heads * shape.value_depth
    inputs = query + values + table + content
    return 2.0 * (inputs + output + (2 * inputs + output if shape.training else 0))


def convolution_seconds(shape: Shape, gpu: Gpu, share: float) -> float:
    """Return the seconds of a 3×3 convolution of the same map at some share of the peak."""
    channels = shape.heads * shape.value_depth
    passes, maps, launches = (3, 5, 3) if shape.training else (1, 2, 1)
    flops = passes * 2 * shape.batch * shape.queries * 9 * channels**2
    memory = 2 * maps * shape.batch * shape.queries * channels
    overhead = launches * gpu.launch if share < gpu.matrix_share else 0
    return max(flops / (gpu.peak * share), memory / gpu.bandwidth) + overhead


def predict_pytorch(shape: Shape, gpu: Gpu) -> tuple[str, float]:
    """Return the fastest method of PyTorch's operators, and its predicted seconds."""
    seconds = {
        name: sum(a * b for a, b in zip(astuple(gpu.pytorch_rates), astuple(COUNTERS[name](shape)), strict=True))
        for name in PYTORCH_METHODS
    }
    return min(seconds.items(), key=lambda item: item[1])


def read_builds(file: Path) -> dict[str, dict[int, Build]]:
    """Read the builds of benchmark=triton_variants, by the variant's key and the architecture.

    Raises:
        UserError: the file is not the JSON of that benchmark.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        names = [field.name for field in fields(Build)]
        return {
            row["variant"]: {
                int(key[3:-10]): Build(**{name: row[f"{key[:-10]} {name}"] for name in names})
                for key in row
                if key.startswith("sm_") and key.endswith(" registers")
            }
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{file}' is not the JSON of benchmark=triton_variants ({error!r}): set benchmark.builds to one."
        ) from error


def predict_gpu_times(setting: Setting, *, builds: str, gpus: Mapping[str, Gpu], case: dict[str, Any]) -> Result:
    """Predict the times of lambda layers in bf16 on GPUs.

    Args:
        setting: conditions of measurements; nothing is measured here.
        builds: JSON of benchmark=triton_variants.
        gpus: by name.
        case: arguments of `case_shapes`.

    Returns:
        One row per GPU, shape and pass.

    Raises:
        UserError: the JSON is missing, or lacks a variant.
    """
    compiled = read_builds(Path(builds))
    columns = ["GPU", "shape", "pass", "needed GFLOP", "issued GFLOP", "memory MB", "L2 GB", "shared GB", "G slots"]
    columns += ["launches", "predicted µs", "bottleneck", "floor µs", "conv predicted µs", "conv floor µs"]
    columns += ["PyTorch", "PyTorch µs"]
    result = Result("Lambda layers on GPUs: predicted, not measured", columns, setting=setting)
    for name, gpu in gpus.items():
        for shape in case_shapes(**case):
            for training in (False, True):
                result.rows.append(predict_row(name, gpu, shape._replace(training=training), compiled))
    result.notes += describe_assumptions(gpus)
    return result


def predict_row(name: str, gpu: Gpu, shape: Shape, builds: Mapping[str, Mapping[int, Build]]) -> TableRow:
    predicted = predict_pass(shape, builds, gpu)
    method, pytorch_seconds = predict_pytorch(shape, gpu)
    work = predicted.work
    row: TableRow = {
        "GPU": name,
        "shape": describe_shape(shape),
        "pass": "forward, backward" if shape.training else "forward",
        "needed GFLOP": 2e-9 * needed_multiply_adds(shape),
        "issued GFLOP": 1e-9 * work.flops,
        "memory MB": 1e-6 * work.memory,
        "L2 GB": 1e-9 * work.cache,
        "shared GB": 1e-9 * work.shared,
        "G slots": 1e-9 * work.slots,
        "launches": str(round(work.launches)),
        "predicted µs": 1e6 * predicted.seconds,
        "bottleneck": predicted.bottleneck,
        "floor µs": 1e6 * floor_seconds(shape, gpu),
        "conv predicted µs": 1e6 * convolution_seconds(shape, gpu, gpu.convolution_share),
        "conv floor µs": 1e6 * convolution_seconds(shape, gpu, gpu.matrix_share),
        "PyTorch": method,
        "PyTorch µs": 1e6 * pytorch_seconds,
    }
    return row | {f"{resource} µs": 1e6 * seconds for resource, seconds in predicted.shares.items()}


def describe_assumptions(gpus: Mapping[str, Gpu]) -> list[str]:
    limits = "; ".join(
        f"{name}: {gpu.peak / 1e12:.0f} TFLOP/s, of which a large matrix product reaches {gpu.matrix_share:.0%} and a "
        f"convolution {gpu.convolution_share:.0%}, {gpu.bandwidth / 1e12:g} TB/s from memory and "
        f"{gpu.cache_bandwidth / 1e12:g} TB/s from L2, {gpu.processors} multiprocessors at {gpu.clock / 1e9:g} GHz, "
        f"{gpu.wait:.0f} cycles for a load, {1e6 * gpu.launch:g} µs between kernels"
        for name, gpu in gpus.items()
    )
    return [
        "Predicted, not measured. Needed: the paper's order, without pairs of query and position outside of map or "
        "scope. Issued: whole tiles and steps, exactly as the programs count them. Memory: each tensor of a launch "
        "once. L2: all loads of the sums. Shared: what loads write there and matrix instructions read. Slots: "
        "instructions per warp of the compiled programs.",
        "A launch takes as long as the resource that it needs longest; latency is the time of the programs that follow "
        "each other on one multiprocessor, each as if alone, with a wait at its start, for the content, and per head. "
        "The bottleneck limits the launches with the largest part of the time.",
        f"Assumed: {limits}. Nothing else is lost: warps always have an instruction to issue, loads of a sum are "
        "hidden, L2 holds what neighboring programs share, and the CPU launches ahead of the GPU.",
        "Floor: needed FLOPs at the rate of a large matrix product, or inputs and outputs at the bandwidth. Scores "
        "first would need h·(k + v) instead of k·v multiply-adds per pair. Convolution: 3×3, of the same map and "
        "channels. PyTorch: its fastest method by the cost model with these rates.",
        "A measurement refutes the model where the order of two shapes or the limiting resource (by a profiler) is "
        "another, or where a time is less than the largest of its resources.",
    ]
