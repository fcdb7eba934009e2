"""Properties of this machine."""

import contextlib
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SHORTEST_USE = 0.3  # seconds


def processor_name() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its CPU affinity and the CPU quota of its cgroup."""
    affinity = count_cores()
    with contextlib.suppress(OSError):
        quota = cpu_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        return affinity if quota is None else max(1, min(affinity, int(quota)))
    return affinity


def cpu_quota(root: Path, membership: str) -> float | None:
    """Return the CPU quota of a process, in cores, or None without one.

    Args:
        root: where the system has mounted the cgroups, of version 1 or 2.
        membership: the groups of the process, one per line, as in /proc/self/cgroup. A container may see the path of
            its group outside of the container; then the root's quota applies.
    """
    quotas = []
    for line in membership.splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for mount in {root, root / "unified"} if not controllers else {root / "cpu", root / controllers}:
            for folder in (mount / group, *(mount / parent for parent in group.parents)):
                with contextlib.suppress(OSError, ValueError):
                    if controllers:
                        files = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
                        quota, period = (file.read_text(encoding="utf-8") for file in files)
                    else:
                        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
                    if float(quota) > 0:  # "max" in version 2 and -1 in version 1 mean none
                        quotas.append(float(quota) / float(period))
    return min(quotas, default=None)


def available_memory() -> int | None:
    """Return the bytes of memory that new processes can use, or None if the system does not report them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def count_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class CpuUse:
    """Use of the cores that this process may run on, until a point in time.

    Args:
        time: of the point, in seconds.
        others: CPU seconds of all other processes, and those that a hypervisor took; None where the system does not
            report them.
        load: processes that ran or waited for a core, the average of a minute.
    """

    time: float
    others: float | None
    load: float | None

    @staticmethod
    def now() -> "CpuUse":
        load = None
        with contextlib.suppress(OSError):
            load = os.getloadavg()[0]
        busy, own = busy_seconds(), os.times()
        others = None if busy is None else busy - sum(own[:4])
        return CpuUse(time.monotonic(), others, load)

    def others_since(self, earlier: "CpuUse") -> float | None:
        """Return the number of cores that other processes have used on average since an earlier point.

        None is unknown: the system does not report it, or the time is too short for its clock of 10 ms.
        """
        seconds = self.time - earlier.time
        if self.others is None or earlier.others is None or seconds < SHORTEST_USE:
            return None
        return max(0.0, (self.others - earlier.others) / seconds)


def busy_seconds() -> float | None:
    """Return the seconds since its start that the cores of this process were busy, or None if they are not reported."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = 0
        for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
            name, *counts = line.split()
            if name in cores:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")
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
