"""A SLURM cluster of one node on the loopback address, from Debian's slurm-wlm, as root.

python -m tests.cluster.slurm up|down
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path("/tmp/lambdanets-slurm")
MUNGE = Path("/run/munge")
CONF = f"""
ClusterName=loopback
SlurmctldHost={{host}}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={STATE}/state
SlurmdSpoolDir={STATE}/spool
SlurmctldPidFile={STATE}/slurmctld.pid
SlurmdPidFile={STATE}/slurmd.pid
SlurmctldLogFile={STATE}/slurmctld.log
SlurmdLogFile={STATE}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
ReturnToService=2
KillWait=10
SlurmctldTimeout=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
NodeName={{host}} NodeAddr=127.0.0.1 CPUs={{cpus}} State=UNKNOWN
PartitionName=low Nodes={{host}} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20 OverSubscribe=NO
PartitionName=high Nodes={{host}} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF OverSubscribe=NO
"""


def missing_requirement():
    """Return the reason why this machine cannot run the cluster, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    return f"needs {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else None


def up():
    """Start the cluster and wait until its node is idle."""
    down()
    for folder in ("state", "spool"):
        (STATE / folder).mkdir(parents=True)
    host = os.uname().nodename
    conf = STATE / "slurm.conf"
    conf.write_text(CONF.format(host=host, cpus=os.cpu_count()))
    Path("/etc/slurm").mkdir(exist_ok=True)
    shutil.copy(conf, "/etc/slurm/slurm.conf")
    MUNGE.mkdir(exist_ok=True)
    shutil.chown(MUNGE, "munge", "munge")
    munged = ["munged", "--force", f"--pid-file={MUNGE / 'lambdanets.pid'}"]
    subprocess.run(["runuser", "-u", "munge", "--", *munged], check=True)
    subprocess.run(["slurmctld"], check=True)
    subprocess.run(["slurmd"], check=True)
    states = []
    for _ in range(60):
        states = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split()
        if states and set(states) == {"idle"}:
            return
        time.sleep(0.5)
    raise SystemExit(f"SLURM's node is not idle after 30 s but {states}: see {STATE}/*.log")


def down():
    """Cancel all jobs and stop the daemons that `up` started, also those of an earlier call."""
    if not STATE.is_dir():
        return
    subprocess.run(["scancel", "--full", "-u", "root"], capture_output=True, timeout=20)
    for _ in range(20):  # slurmstepd ends with its job
        if not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip():
            break
        time.sleep(0.5)
    for pid_file, name in (
        (STATE / "slurmd.pid", "slurmd"), (STATE / "slurmctld.pid", "slurmctld"), (MUNGE / "lambdanets.pid", "munged")
    ):  # fmt: skip
        kill_daemon(pid_file, name)
    shutil.rmtree(STATE, ignore_errors=True)


def kill_daemon(pid_file, name):
    """Kill the process of a pid file, if it still has the daemon's name."""
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    command = Path(f"/proc/{pid}/comm")
    if command.is_file() and command.read_text().strip() == name:
        os.kill(pid, signal.SIGKILL)
        while command.is_file():
            time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
