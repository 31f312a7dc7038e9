"""A real SLURM on one host: a controller, which is also the login node, and two or more nodes.

Each has its own network, host name and /etc/hosts, hence its own ports and a name that resolves. It needs root and
Debian's packages slurmctld, slurmd, slurm-client, munge and iproute2; neither systemd nor cgroups.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOGIN = "login"
PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client", "munged": "munge", "ip": "iproute2"}

_NUMBERS = itertools.count()  # numbers of the clusters of this process

_CONF = """\
ClusterName=house
SlurmctldHost=login({net}.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
# Like cgroups on a real node, this also finds the children of a killed task.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# More processors than exist, so that tests can request them.
SlurmdParameters=config_overrides
SchedulerParameters=requeue_setup_env_fail,batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=1
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=300
KillWait=5
JobRequeue=1
MinJobAge=3600
NodeName=node[1-{nodes}] NodeAddr={net}.[1-{nodes}] CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""
# Mounts and host name are private to the process; the network is the node's.
_ENTER = 'mount --make-rprivate / && mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


def why_not() -> str:
    """Return why a cluster cannot be started here; an empty string if it can."""
    if os.geteuid() != 0:
        return "a SLURM of its own needs root"
    if absent := [package for program, package in PACKAGES.items() if shutil.which(program) is None]:
        return f"a SLURM of its own needs Debian's packages: apt-get install {' '.join(absent)}"
    return ""


class SlurmCluster:
    """A cluster, as a context manager.

    Parameters
    ----------
    folder : Path
        For its state and its logs; nothing else is left behind.
    cpus : int
        Processors that each node says it has.
    nodes : int
        They are called node1, node2 and so on.
    """

    def __init__(self, folder: Path, cpus: int = 4, nodes: int = 2) -> None:
        self.folder = folder
        self.cpus = cpus
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        number = next(_NUMBERS)
        self._net = f"10.{77 + number % 100}.{os.getpid() % 250 + 1}"
        self._prefix = f"house{os.getpid()}x{number}"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the cluster, and wait until all nodes are idle."""
        for name in ("state", "log", "spool"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(
            _CONF.format(folder=self.folder, net=self._net, cpus=self.cpus, nodes=len(self.nodes))
        )
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        hosts = ["127.0.0.1 localhost", f"{self._net}.254 {LOGIN}"]
        hosts += [f"{self._net}.{number} {node}" for number, node in enumerate(self.nodes, 1)]
        (self.folder / "hosts").write_text("\n".join([*hosts, ""]))
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self._lay_cables()
        self._start_munge(key)
        self._daemon("slurmctld", self.on(LOGIN, "slurmctld", "-D", "-f", self.folder / "slurm.conf"))
        for node in self.nodes:
            self.start_node(node)
        self.wait_for(self._idle, "all nodes are idle", 60)

    def stop(self) -> None:
        """End the jobs and daemons, and remove the network."""
        if self._daemons.get("slurmctld") and self._daemons["slurmctld"].poll() is None:
            self.run("scancel", "--signal=KILL", "--full", "--user=root", timeout=10, check=False)
            self.run("scancel", "--user=root", timeout=10, check=False)
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline and self.run("squeue", "-h", timeout=10, check=False).stdout.strip():
                time.sleep(0.1)
        for name in reversed(list(self._daemons)):
            self.end_daemon(name, signal.SIGTERM)
        for name in (LOGIN, *self.nodes):
            subprocess.run(["ip", "netns", "del", f"{self._prefix}-{name}"], capture_output=True, check=False)

    def on(self, node: str, *command: str | Path) -> list[str]:
        """Return the command that runs a command on a node or on `login`."""
        return [
            *("nsenter", f"--net=/run/netns/{self._prefix}-{node}", "unshare", "-m", "-u"),
            *("bash", "-c", _ENTER, "enter", str(self.folder / "hosts"), node),
            *map(str, command),
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """Environment for commands, without variables of another SLURM."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "PYTHON"))}
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf")} | more

    def run(
        self, *command: str | Path, timeout: float = 120, check: bool = True, cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on the login node."""
        return subprocess.run(
            self.on(LOGIN, *command), env=self.environment(**(env or {})), cwd=cwd or self.folder,
            capture_output=True, text=True, timeout=timeout, check=check,
        )  # fmt: skip

    def submit(self, script: Path, *options: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """Submit a script, and return the job's id."""
        return self.run("sbatch", "--parsable", *options, script, cwd=cwd, env=env).stdout.strip().partition(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """Return what the controller says about a job, such as JobState, ExitCode and Restarts."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for_job(self, job_id: str, *states: str, patience_s: float = 300) -> dict[str, str]:
        """Wait until a job is in one of the states, by default until it has ended."""
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        # Each query starts several processes: five per second would take a tenth of a processor.
        self.wait_for(
            lambda: self.job(job_id)["JobState"] in wanted, f"job {job_id} is {' or '.join(wanted)}", patience_s, 2
        )
        return self.job(job_id)

    def wait_for(
        self, condition: Callable[[], Any], what: str, patience_s: float, longest_pause_s: float = 0.2
    ) -> None:
        """Wait until a condition is true; raise a TimeoutError with the daemons' last log lines otherwise."""
        deadline, pause = time.monotonic() + patience_s, 0.1
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("log/*"))
                raise TimeoutError(f"not within {patience_s:.0f} s: {what}\n{logs}")
            time.sleep(pause)
            pause = min(1.2 * pause, longest_pause_s)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon(node, self.on(node, "slurmd", "-D", "-f", self.folder / "slurm.conf", "-N", node))

    def end_daemon(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon: `node1`, `node2`, `slurmctld`, `munged`."""
        process = self._daemons.pop(name)
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _idle(self) -> bool:
        if dead := [name for name, process in self._daemons.items() if process.poll() is not None]:
            raise RuntimeError(f"{dead} ended: {(self.folder / 'log' / f'{dead[0]}.out').read_text()[-2000:]}")
        try:
            said = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", timeout=10, check=False).stdout
        except subprocess.TimeoutExpired:
            return False
        return set(said.split()) == set(self.nodes)

    def _lay_cables(self) -> None:
        def ip(*arguments: str) -> None:
            subprocess.run(["ip", *arguments], check=True, capture_output=True)

        prefix = self._prefix
        ip("netns", "add", f"{prefix}-{LOGIN}")
        inside = ("-n", f"{prefix}-{LOGIN}")
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "link", "add", "br0", "type", "bridge")
        ip(*inside, "addr", "add", f"{self._net}.254/24", "dev", "br0")
        ip(*inside, "link", "set", "br0", "up")
        for number, node in enumerate(self.nodes, 1):
            ip("netns", "add", f"{prefix}-{node}")
            there = ("-n", f"{prefix}-{node}")
            ip(*there, "link", "set", "lo", "up")
            ip(
                *there,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                f"v{number}",
                "netns",
                f"{prefix}-{LOGIN}",
            )
            ip(*there, "addr", "add", f"{self._net}.{number}/24", "dev", "eth0")
            ip(*there, "link", "set", "eth0", "up")
            ip(*inside, "link", "set", f"v{number}", "master", "br0")
            ip(*inside, "link", "set", f"v{number}", "up")

    def _start_munge(self, key: Path) -> None:
        socket = self.folder / "munge.sock"
        self._daemon(
            "munged",
            [
                *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket}"),
                *(f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/log/munged.log"),
                f"--seed-file={self.folder}/munged.seed",
            ],
        )
        self.wait_for(
            lambda: subprocess.run(["munge", "-S", socket, "-n"], capture_output=True, check=False).returncode == 0,
            "munge answers", 20,
        )  # fmt: skip

    def _daemon(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
