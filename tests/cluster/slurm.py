"""A SLURM cluster of one node on the loopback address, beside whatever else runs on this machine.

    python -m tests.cluster.slurm check|up|down

All files are in FOLDER: the configuration, logs, spool, munge's key and socket. Ports are free ones. Only daemons that
were started with these files are stopped. A normal user can run the cluster, too; its jobs are then that user's.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lambdanets.distributed.local_workers import find_free_port

FOLDER = Path(tempfile.gettempdir()) / f"lambdanets-slurm-{os.geteuid()}"
CONF, SOCKET = FOLDER / "slurm.conf", FOLDER / "munge.socket"
DAEMONS = ("slurmd", "slurmctld", "munged")
PROGRAMS = (*DAEMONS, "sbatch", "srun", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge"
# Partition `low` is preempted within a grace time, `low_now` at once. SLURM holds a requeued job back until the
# credentials of its last start have expired (cred_expire, by default two minutes).
CONF_TEXT = """
ClusterName=lambdanets
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=debug
SlurmdDebug=debug
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
JobRequeue=1
ReturnToService=2
KillWait=10
SlurmctldTimeout=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20 OverSubscribe=NO
PartitionName=low_now Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0 OverSubscribe=NO
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF OverSubscribe=NO
"""


def missing_requirement():
    """Return the reason why this machine cannot run the cluster, or None."""
    search_path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=search_path) is None]:
        return f"{', '.join(missing)} not found: apt-get install {PACKAGES}"
    if running := running_daemons("slurmd", "slurmctld"):
        return (
            f"a SLURM runs on this machine already ({', '.join(running)}): the tests could disturb its jobs. Use "
            "another machine; a cluster that a test has left is stopped by python -m tests.cluster.slurm down."
        )
    return None


def up():
    """Start the cluster and wait until its node is idle. Commands of SLURM then talk to it, by SLURM_CONF."""
    down()
    if reason := missing_requirement():
        raise SystemExit(f"error: SLURM's tests cannot run: {reason}")
    FOLDER.mkdir()
    for name in ("state", "spool"):
        (FOLDER / name).mkdir()
    host = os.uname().nodename
    ports = {"controller_port": find_free_port(), "node_port": find_free_port()}
    CONF.write_text(
        CONF_TEXT.format(folder=FOLDER, socket=SOCKET, user=user_name(), host=host, cpus=os.cpu_count(), **ports)
    )
    key = FOLDER / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"socket": SOCKET, "key-file": key}
    files |= {name: FOLDER / f"munged.{name.partition('-')[0]}" for name in ("pid-file", "log-file", "seed-file")}
    os.environ["SLURM_CONF"] = str(CONF)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    start_daemon("munged", "--num-threads=2", *(f"--{name}={path}" for name, path in files.items()))
    start_daemon("slurmctld", "-f", str(CONF))
    start_daemon("slurmd", "-f", str(CONF))
    states = []
    for _ in range(60):
        states = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split()
        if states and set(states) == {"idle"}:
            return
        time.sleep(0.5)
    raise SystemExit(f"SLURM's node is not idle after 30 s but {states}: see {FOLDER}/*.log")


def start_daemon(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def down():
    """Cancel all jobs and stop the daemons that `up` started, also those of an earlier call."""
    if not FOLDER.is_dir():
        return
    environment = os.environ | {"SLURM_CONF": str(CONF)}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if own_daemon("slurmctld") and own_daemon("munged"):
            subprocess.run(["scancel", "--full", f"--user={user_name()}"], env=environment, timeout=20)
            for _ in range(60):  # a job's processes end within KillWait
                squeue = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, timeout=20)
                if not squeue.stdout.strip():
                    break
                time.sleep(0.5)
    for name in DAEMONS:
        if pid := own_daemon(name):
            os.kill(pid, signal.SIGKILL)
            while own_daemon(name):
                time.sleep(0.05)
    for pid in job_processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(FOLDER, ignore_errors=True)


def user_name():
    return pwd.getpwuid(os.geteuid()).pw_name


def job_processes():
    """Return the ids of the processes of this cluster's jobs."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if f"SLURM_CONF={CONF}".encode() in variables and any(v.startswith(b"SLURM_JOB_ID=") for v in variables):
                processes.append(int(folder.name))
    return processes


def own_daemon(name):
    """Return the process id of a daemon, if the process in its pid file was started with a file of this cluster."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((FOLDER / f"{name}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        if Path(command.partition("\0")[0]).name == name and f"{FOLDER}/" in command:
            return pid
    return None


def running_daemons(*names):
    """Return the daemons of these names on this machine, as "slurmd, process 12", without those of this cluster."""
    own = {own_daemon(name) for name in names}
    running = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (folder / "comm").read_text().strip()
            is_zombie = not (folder / "cmdline").read_text()
            if name in names and not is_zombie and int(folder.name) not in own:
                running.append(f"{name}, process {folder.name}")
    return running


def check():
    """Exit with a sentence if this machine cannot run the cluster."""
    if reason := missing_requirement():
        raise SystemExit(f"error: SLURM's tests cannot run: {reason}")


if __name__ == "__main__":
    {"check": check, "up": up, "down": down}[sys.argv[1]]()
