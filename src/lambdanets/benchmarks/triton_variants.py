"""benchmark=triton_variants: the GPU programs of the lambda layer, compiled for several GPUs without one."""

import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.errors import UserError
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.ops import Shape, triton_kernel
from lambdanets.ops.triton_kernel import Launch, list_launches
from lambdanets.progress import progress_bar
from lambdanets.table import Cell, TableRow

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
ALIGNMENT = 16  # in bytes of pointers, and of sizes: Triton compiles another program for those that are divisible
MAX_INT32 = 2**31 - 1
LABEL = re.compile(r"(\.L_\w+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(.*?);")
TENSOR_CORE = re.compile(r"(H|HG|UTC\w*)MMA")
FLOAT32_FMA = ("FFMA", "FFMA2")
FLOAT32_MULTIPLY = (*FLOAT32_FMA, "FMUL", "FMUL2")
SPILL = ("STL", "LDL")


class Variant(NamedTuple):
    """A program with everything that is compiled into it.

    Args:
        program: its name in `triton_programs.py`.
        types: of the arguments in order: "*bf16:16" for a pointer and "i32:16" for a size that are divisible by 16,
            "1" for a size that is one, "=" for a constant.
        constants: by name.
        warps: per instance.
        stages: steps of a sum whose loads are under way at a time.
    """

    program: str
    types: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    warps: int
    stages: int

    @staticmethod
    def of(launch: Launch) -> "Variant":
        """Return the variant that Triton compiles for a launch."""
        arguments = iter(launch.arguments)
        names = getattr(triton_kernel.load_programs(), launch.program).arg_names
        types = tuple("=" if name in launch.constants else describe_argument(next(arguments)) for name in names)
        return Variant(launch.program, types, tuple(sorted(launch.constants.items())), launch.warps, launch.stages)

    @property
    def key(self) -> str:
        """The variant in one line."""
        constants = " ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.program}({', '.join(self.types)}) {constants} warps={self.warps} stages={self.stages}"

    @property
    def has_sum(self) -> bool:
        """True if the program sums matrix products."""
        return "PRECISION" in dict(self.constants)

    @property
    def dtype(self) -> str:
        """The type of the inputs, float32 with the precision of its products."""
        kind = self.types[0].strip("*").split(":")[0]
        return f"{kind} {dict(self.constants)['PRECISION']}" if kind == "fp32" and self.has_sum else kind


def describe_argument(argument: Any) -> str:
    if isinstance(argument, Tensor):
        offset = int(argument.storage_offset()) * argument.element_size()
        return f"*{TYPES[argument.dtype]}" + (":16" if offset % ALIGNMENT == 0 else "")
    if argument == 1:
        return "1"
    return ("i32" if argument <= MAX_INT32 else "i64") + (":16" if argument % ALIGNMENT == 0 else "")


@dataclass(frozen=True)
class Build:
    """A variant compiled for one architecture.

    Args:
        registers: per thread.
        stack: bytes of a thread's frame; the compiler may reserve some that nothing uses.
        spills: instructions that store registers there or load them.
        shared: bytes of shared memory per instance.
        tensor_core: matrix instructions.
        instructions: of the whole program, per warp, those of loops once.
        step: instructions of one step of the sum over the context, tiles or columns; 0 without one.
        head: instructions of the loop over heads; 0 if it is unrolled.
        shuffles: those of them, or of the whole program if it is unrolled, that exchange registers within a warp.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    tensor_core: int
    instructions: int
    step: int
    head: int
    shuffles: int


def compile_variant(variant: Variant, architecture: int) -> Build:
    """Compile a variant, which needs no GPU, and read its machine code with the tools of Triton's package.

    Args:
        variant: to compile.
        architecture: compute capability without the dot: 80 for A100, 90 for H100, 100 for B200.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    program = getattr(triton_kernel.load_programs(), variant.program)
    signature, attributes, constants = {}, {}, {}
    for index, (name, kind) in enumerate(zip(program.arg_names, variant.types, strict=True)):
        constant = kind in ("=", "1")
        signature[name] = "constexpr" if constant else kind.split(":")[0]
        if constant:
            constants[(index,)] = dict(variant.constants)[name] if kind == "=" else 1
        elif kind.endswith(":16"):
            attributes[(index,)] = [["tt.divisibility", ALIGNMENT]]
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    tools = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run_tool(tools.cuobjdump.path, "--dump-resource-usage", file.name)
        code = run_tool(tools.nvdisasm.path, file.name)
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0]
    return read_build(
        code,
        has_sum=variant.has_sum,
        registers=int(registers),
        stack=int(stack),
        shared=compiled.metadata.shared,
    )


def run_tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_build(code: str, *, has_sum: bool, registers: int, stack: int, shared: int) -> Build:
    """Count the instructions of a program and of its loops.

    Args:
        code: assembly as nvdisasm prints it.
        has_sum: whether the program has a loop of matrix products.
        registers: per thread.
        stack: bytes per thread.
        shared: bytes of shared memory.
    """
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[tuple[int, int]] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(names)
        elif instruction := INSTRUCTION.match(line):
            names.append(instruction[1])
            target = re.search(r"`\((\.L_\w+)\)", instruction[2]) if instruction[1] == "BRA" else None
            if target and labels.get(target[1], len(names)) < len(names) - 1:
                loops.append((labels[target[1]], len(names)))
    counts = Counter(names)
    step = (0, 0)
    if has_sum:
        # The sum's loop has the matrix instructions. Blocks out of line jump back into it, so that it is the shortest.
        multiplies = [*filter(TENSOR_CORE.fullmatch, counts)] or FLOAT32_FMA
        most = max(count_names(names, loop, multiplies) for loop in loops)
        step = min((loop for loop in loops if count_names(names, loop, multiplies) == most), key=length)
    others = [loop for loop in loops if loop[0] >= step[1] or loop[1] <= step[0]]
    head = max(others, key=lambda loop: (count_names(names, loop, FLOAT32_MULTIPLY), -length(loop)), default=(0, 0))
    if not count_names(names, head, FLOAT32_MULTIPLY):
        head = (0, 0)
    return Build(
        registers=registers,
        stack=stack,
        spills=sum(counts[name] for name in SPILL),
        shared=shared,
        tensor_core=sum(map(counts.__getitem__, filter(TENSOR_CORE.fullmatch, counts))),
        instructions=len(names) - counts["NOP"],
        step=length(step),
        head=length(head),
        shuffles=count_names(names, head if length(head) else (0, len(names)), ["SHFL"]),
    )


def length(loop: tuple[int, int]) -> int:
    return loop[1] - loop[0]


def count_names(names: Sequence[str], loop: tuple[int, int], wanted: Iterable[str]) -> int:
    counts = Counter(names[slice(*loop)])
    return sum(counts[name] for name in wanted)


def shape_launches(shape: Shape, processors: int = 108) -> list[Launch]:
    """List the launches for a product of this shape."""
    sizes = [
        (shape.batch, shape.height, shape.width, shape.heads, shape.key_depth),
        (shape.batch, *shape.context, shape.intra_depth, shape.value_depth),
        (shape.key_depth, shape.intra_depth, *shape.scope),
        (shape.batch, shape.key_depth, shape.value_depth),
    ]
    tensors = [torch.empty(size, dtype=shape.dtype, device="meta") for size in sizes]
    return list_launches(*tensors, training=shape.training, processors=processors)


def case_shapes(
    *,
    batch: int,
    maps: Sequence[Sequence[int]],
    scopes: Sequence[Scope],
    dtypes: Sequence[str] = ("bfloat16",),
    heads: int = 4,
    key_depth: int = 16,
    intra_depth: int = 1,
    training: bool = True,
) -> list[Shape]:
    """Return the shapes of a case: of each map (H, W, channels), with each scope and type."""
    shapes = []
    for height, width, channels in maps:
        for scope in scopes:
            sides = (2 * height - 1, 2 * width - 1) if scope == "global" else (int(scope),) * 2  # type: ignore[arg-type]
            shape = Shape(
                batch,
                height,
                width,
                (height, width),
                heads,
                key_depth,
                channels // heads,
                intra_depth,
                (sides[0], sides[1]),
                device="cuda",
                training=training,
            )
            shapes += [shape._replace(dtype=getattr(torch, dtype)) for dtype in dtypes]
    return shapes


def describe_shape(shape: Shape) -> str:
    side = f"{shape.height}²" if shape.height == shape.width else f"{shape.height}×{shape.width}"
    full = shape.scope == (2 * shape.height - 1, 2 * shape.width - 1)
    scope = "global" if full else f"{shape.scope[0]}×{shape.scope[1]}"
    return f"{shape.batch}×{side}×{shape.heads * shape.value_depth} {scope}"


def find_variants(cases: dict[str, dict[str, Any]]) -> dict[Variant, list[str]]:
    """Return the variants that some cases need, each with the shapes that need it.

    Args:
        cases: arguments of `case_shapes` by the case's name.
    """
    variants: dict[Variant, list[str]] = {}
    for name, case in cases.items():
        for shape in case_shapes(**case):
            for launch in shape_launches(shape):
                needed = variants.setdefault(Variant.of(launch), [])
                label = f"{name}: {describe_shape(shape)}"
                needed += [label] * (label not in needed)
    return variants


def check_compiler() -> None:
    """Raise a UserError if programs can't be compiled here."""
    if find_spec("triton") is None:
        raise UserError("benchmark=triton_variants needs Triton, which is missing: run it on Linux, or install triton.")
    if triton_kernel.is_interpreted():
        raise UserError("TRITON_INTERPRET=1 replaces Triton's compiler: unset it for benchmark=triton_variants.")


def compile_variants(setting: Setting, *, cases: dict[str, dict[str, Any]], architectures: Sequence[int]) -> Result:
    """Compile all variants of the programs in Triton that some shapes need.

    Args:
        setting: conditions of measurements; only the time to compile is measured.
        cases: arguments of `case_shapes` by the case's name.
        architectures: compute capabilities without the dot.

    Returns:
        One row per variant; its numbers by architecture are in the JSON.

    Raises:
        UserError: Triton is missing, or TRITON_INTERPRET replaces its compiler.
    """
    check_compiler()
    import triton

    variants = find_variants(cases)
    units = {"registers": 1, "shared KiB": 2**10, "tensor_core": 1, "step": 1, "head": 1, "shuffles": 1}
    columns = ["program", "type", "needed by", *(name.replace("_", "-") for name in units), "stack, spills"]
    result = Result("Variants of the programs in Triton", columns, setting=setting)
    seconds = 0.0
    for variant, needed in progress_bar([*variants.items()], "variants"):
        row: TableRow = {"program": variant.program, "type": variant.dtype, "needed by": summarize(needed)}
        row |= {"variant": variant.key, "shapes": "; ".join(needed)}
        builds = []
        for architecture in architectures:
            start = time.perf_counter()
            build = compile_variant(variant, architecture)
            seconds += time.perf_counter() - start
            builds.append(build)
            row |= {f"sm_{architecture} {name}": value for name, value in asdict(build).items()}
        row |= {
            name.replace("_", "-"): join(getattr(build, name.split()[0]) // unit for build in builds)
            for name, unit in units.items()
        }
        row["stack, spills"] = join(f"{build.stack}, {build.spills}" for build in builds)
        result.rows.append(row)
    names = " / ".join(f"sm_{architecture}" for architecture in architectures)
    result.notes += [
        f"Cells with slashes: {names}. Triton {triton.__version__}; {len(variants)} variants for {len(architectures)} "
        f"architectures compiled in {seconds:.0f} s in one process, less what Triton's cache had.",
        "A variant is a program with its constants, the types of its arguments, and which of them are divisible by 16. "
        "Needed by: batch × map × channels and scope; the JSON has all shapes of a variant, and its constants.",
        "Registers are per thread, shared memory per instance of the program; one on sm_80 has at most 163 KiB. "
        "Tensor-core: matrix instructions in the program. Step: instructions per warp of a step of its sum. Head: "
        "instructions of its loop over heads, 0 if that is unrolled, and shuffles among them. Stack: bytes of a "
        "thread's frame, and the instructions that spill registers to it; without such, nothing uses the frame.",
    ]
    return result


def summarize(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return labels[0] + more


def join(values: Iterable[Cell]) -> str:
    """Return the values of all architectures in one cell, a value that all share once."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)
