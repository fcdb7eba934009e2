"""Properties of this machine."""

import contextlib
import platform
import subprocess
from pathlib import Path


def processor_name() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Return the bytes of memory that new processes can use, or None if the system does not report them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def describe_gpu() -> dict[str, str | None] | None:
    """Return the name of the first GPU, its driver's version and that of CUDA, or None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {"name": torch.cuda.get_device_name(), "driver": query_gpu("driver_version"), "CUDA": torch.version.cuda}


def query_gpu(field: str) -> str | None:
    """Return a field of the first GPU from nvidia-smi, or None if that does not answer."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    return None
