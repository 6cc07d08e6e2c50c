"""A real Slurm: a controller and two nodes, on this machine, in a folder of its own (Debian: slurmctld, slurmd)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
START_SECONDS = 60

# A node is a second slurmd on the same host: everything with a path of its own needs %n in it.
CONFIG = """\
ClusterName=groundup
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def why_not() -> str:
    """Why there can be no Slurm here; "" where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here (Debian: slurmctld, slurmd, slurm-client, munge)"
    return "" if os.geteuid() == 0 else "slurmctld and slurmd run as root only"


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Runs it; yields the environment in which `sbatch` talks to it. `folder` must be short: it holds a socket."""
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], ports=free_ports(3)))
    environment = {"SLURM_CONF": str(config)}
    munge = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    try:
        _run(["munged", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in munge.items())], environment)
        _run(["slurmctld", "-c"], environment)
        for node in ("n1", "n2"):
            (folder / f"spool-{node}").mkdir()
            _run(["slurmd", "-N", node], environment)
        _wait_until_idle(environment)
        yield environment
    finally:
        for file in [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munge.pid"]:
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _run(["sinfo", "--noheader", "--format=%D %t"], environment, check=False).split() == ["2", "idle"]:
            return
        time.sleep(0.3)
    raise TimeoutError(f"the nodes of Slurm did not come up in {START_SECONDS} s")


def _run(command: list[str], environment: dict[str, str], check: bool = True) -> str:
    done = subprocess.run(command, env=os.environ | environment, check=check, capture_output=True, text=True)
    return done.stdout


def free_ports(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
