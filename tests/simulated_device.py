"""A simulated accelerator: tensors that claim to be on a device and are computed on the CPU, and a count of what waits.

Counted are the operators that make the host wait for a GPU: those that read a value or whose output's size depends on
values, and copies between host and device that are not asynchronous. A process of its own imports this file, since
PyTorch has one such backend per process, which then counts as its accelerator.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "sim"
ROOT = Path(__file__).resolve().parent.parent
aten = torch.ops.aten
# Operators whose output's size depends on values, which the host must read.
DATA_DEPENDENT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
    aten.bincount.default,
}
ASSIGNMENTS = {aten.index_put.default, aten.index_put_.default}
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, *ASSIGNMENTS}


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
# torch.tensor(…, device=NAME) then makes a tensor of the host and moves it, so that the copy is seen.
torch._C._set_only_lift_cpu_tensors(True)


class DeviceTensor(torch.Tensor):
    """A tensor that claims to be on the simulated device; `host` has its values."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return SimulatedDevice.run(operator, args, kwargs or {})


class SimulatedDevice(TorchDispatchMode):
    """Context in which tensors can be created on and moved to the device "sim"."""

    waits: Counter | None = None

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return self.run(operator, args, kwargs or {})

    @classmethod
    def run(cls, operator, args, kwargs):
        leaves = tree_leaves((args, kwargs))
        from_device = any(isinstance(leaf, DeviceTensor) for leaf in leaves)
        device = kwargs.get("device")
        to_device = from_device if device is None else torch.device(device).type == NAME
        if (reason := wait_reason(operator, args, kwargs, from_device, to_device)) and cls.waits is not None:
            cls.waits[(reason, *callers())] += 1
        result = operator(*tree_map(to_host, args), **tree_map(to_host, kwargs))
        if to_device:
            result = tree_map_only(torch.Tensor, DeviceTensor, result)
        return return_and_correct_aliasing(operator, args, kwargs, result)

    @classmethod
    @contextmanager
    def record(cls) -> Iterator[Counter]:
        """Count the waits by (reason, callers)."""
        cls.waits = Counter()
        try:
            yield cls.waits
        finally:
            cls.waits = None


def to_host(value):
    if isinstance(value, DeviceTensor):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def wait_reason(operator, args, kwargs, from_device, to_device):
    """Return why the host waits for the device in this call, or None."""
    if operator is aten._to_copy.default and from_device != to_device and not kwargs.get("non_blocking"):
        return "copy to the device" if to_device else "copy to the host"
    if operator is aten.copy_.default and isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        return f"{operator}" if blocking and args[1].ndim else None
    if not from_device:
        return None
    if operator in DATA_DEPENDENT:
        return f"{operator}"
    if operator in ASSIGNMENTS and args[2].ndim == 0:
        return None  # to a mask; CUDA fills it on the device
    if operator in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        return "indexing by a mask"
    return None


def callers(count=4):
    """Return the innermost lines of this call's stack outside of PyTorch's core and of this file."""
    frames = [
        f"{Path(frame.filename).as_posix().split('site-packages/')[-1].removeprefix(f'{ROOT.as_posix()}/')}:{frame.name}"
        for frame in traceback.extract_stack()
        if "/torch/" not in frame.filename and frame.filename != __file__
    ]
    return tuple(frames[-count:])
