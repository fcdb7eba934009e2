"""SLURM with one node on this machine's loopback, from Debian's slurm-wlm, as root.

python -m tests.cluster.slurm up|down
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

STATE = Path("/tmp/lambdanets-slurm")
CONF = f"""
ClusterName=here
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


def missing():
    """What a machine lacks to be a cluster, or None."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    return f"needs {', '.join(lacking)} (apt-get install slurm-wlm munge)" if lacking else None


def up():
    down()
    for folder in ("state", "spool"):
        (STATE / folder).mkdir(parents=True)
    host = os.uname().nodename
    conf = STATE / "slurm.conf"
    conf.write_text(CONF.format(host=host, cpus=os.cpu_count()))
    Path("/etc/slurm").mkdir(exist_ok=True)
    shutil.copy(conf, "/etc/slurm/slurm.conf")
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True)
    subprocess.run(["slurmctld"], check=True)
    subprocess.run(["slurmd"], check=True)
    for _ in range(60):
        seen = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split()
        if seen and set(seen) == {"idle"}:
            return
        time.sleep(0.5)
    raise SystemExit(f"SLURM's node doesn't come up ({seen}): see {STATE}/*.log")


def down():
    subprocess.run(["scancel", "--full", "-u", "root"], capture_output=True, timeout=20) if STATE.is_dir() else None
    for name in ("slurmd", "slurmstepd", "slurmctld", "munged"):
        subprocess.run(["pkill", "-9", "-x", name], capture_output=True)
    time.sleep(0.5)
    shutil.rmtree(STATE, ignore_errors=True)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
