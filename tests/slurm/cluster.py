"""A real SLURM of two nodes on this machine, for tests: up in a second or two, and gone without a trace.

munged, one slurmctld and two slurmd (n1, n2) run as processes of their own, from Debian's packages. Their
configuration, key, sockets, state, spool and logs lie in one folder and their ports are free ones, so nothing
of a machine's own SLURM is read or written; where one is configured or running, this refuses to start.

    with Cluster(folder) as cluster:
        job = cluster.run("sbatch", "--parsable", "--wrap", "hostname", cwd=folder)
        cluster.wait(job, "COMPLETED")

By hand: `eval "$(python -m tests.slurm.cluster up)"`, then sbatch and squeue as usual, then `... down`.
The settings that make a tiny cluster quick, and what was measured with them, are in README.md beside this.
"""

import argparse
import contextlib
import datetime
import fcntl
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("munge", "slurm-wlm")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
HEADER = "# written by tests/slurm/cluster.py: a test cluster\n"
NODES = ("n1", "n2")
FOLDER = Path(tempfile.gettempdir()) / f"test-slurm-{os.getuid()}"
# daemons live in sbin, which is not on every user's PATH
PATH = os.environ.get("PATH", "") + os.pathsep + os.pathsep.join(["/usr/sbin", "/sbin", "/usr/local/sbin"])
FIELDS = {  # what `jobs` tells of a task, and squeue's name for it
    "id": "JobID",
    "array": "ArrayJobID",
    "task": "ArrayTaskID",
    "name": "Name",
    "partition": "Partition",
    "state": "State",
    "reason": "Reason",
    "restarts": "RestartCnt",
    "nodes": "NodeList",
    "begin": "StartTime",
    "exit": "exit_code",
}


class ClusterError(Exception):
    """The cluster can't be started, or a SLURM command failed; the message says everything."""


def missing() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


def skip_reason() -> str:
    """Why tests may be skipped here: no SLURM, and no way to install it. Empty otherwise,
    and always in CI.
    """
    absent = missing()
    if absent and os.getuid() != 0 and not os.environ.get("CI"):
        return f"no SLURM here (missing: {', '.join(absent)}), and only root can install it"
    return ""


def install() -> None:
    """Debian's SLURM by apt, if it is missing and we are root; raises ClusterError otherwise."""
    if not (absent := missing()):
        return
    advice = f"missing: {', '.join(absent)}; install Debian's packages {' and '.join(PACKAGES)}"
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"{advice} (only root can, with apt-get)")
    # two test processes may come here at once, and apt refuses the second
    with open(Path(tempfile.gettempdir()) / "test-slurm.install", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        get = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
        for command in (["apt-get", "update", "-q"], get):
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise ClusterError(f"{advice}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


# ---- processes: ours are known by their start time or by the log they hold open, never by their name


def started(pid: int) -> str | None:
    """When this process started, in clock ticks: a pid is used again, but the two together are not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def processes() -> Iterator[tuple[int, int]]:
    """(pid, pid of its parent) of all processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            yield int(folder.name), int(parent)


def environment(pid: int) -> dict[str, str]:
    """The environment with which a process was started; empty if it is gone or not ours to see."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)
    return {}


def program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    return ""


def holds(pid: int, logs: Path) -> bool:
    """Whether the process has a file open whose path begins so."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(str(logs)):
                    return True
    return False


def with_descendants(pids: set[int]) -> set[int]:
    tree, found = dict(processes()), set(pids)
    while more := {pid for pid, parent in tree.items() if parent in found} - found:
        found |= more
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_ours(conf: str | Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(conf).read_text(encoding="utf-8").startswith(HEADER)
    return False


def refuse() -> None:
    """Raise ClusterError where the machine has a SLURM that is not a test cluster."""
    conf = os.environ.get("SLURM_CONF")
    if conf and not is_ours(conf):
        raise ClusterError(f"refused: SLURM_CONF={conf} is not a test cluster's; unset it to start one here")
    for path in ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf"):
        if os.path.exists(path):
            raise ClusterError(f"refused: this machine has a SLURM of its own ({path})")
    for pid, parent in processes():
        # its helper slurmscriptd is a slurmctld too, under another title
        if program(pid).startswith("slurmctld") and not program(parent).startswith("slurmctld"):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if not any(is_ours(word) for word in words if word.endswith("slurm.conf")):
                    raise ClusterError(
                        f"refused: a slurmctld that is no test cluster's is running (pid {pid})"
                    )


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses, below the range from which the kernel chooses ports for connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            ports += [port] if port not in ports else []
    return ports


class Cluster:
    """A cluster in `folder`, which must be new, empty or one of ours.

    cpus, memory_mb:  what each node says it has, whatever the machine has
    max_array:        MaxArraySize: the largest array has this many tasks, and their largest index is one less
    requeue_wait:     seconds before a requeued job may start again; SLURM refuses less than 5
    node_timeout:     seconds without an answer after which a node is down (SlurmdTimeout)
    settings:         any other lines of slurm.conf, also in place of those below
    """

    def __init__(
        self,
        folder: str | Path = FOLDER,
        *,
        cpus: int = 4,
        memory_mb: int = 64_000,
        max_array: int = 1001,
        requeue_wait: int = 8,
        node_timeout: int = 6,
        **settings: Any,
    ) -> None:
        self.folder = Path(folder).absolute()
        if len(str(self.folder)) > 80:
            raise ClusterError(f"{self.folder}: too long for the paths of sockets in it (80 characters)")
        self.cpus, self.memory_mb = cpus, memory_mb  # each CPU's share is what a job has without --mem
        self.requeue_wait = requeue_wait
        self.settings = {
            "MaxArraySize": max_array,
            # the only setting that shortens the wait of a requeued job, 120 s + 1 by default
            "AuthInfo": f"socket={self.folder}/munge.socket,cred_expire={requeue_wait}",
            "SlurmdTimeout": node_timeout,
            **settings,
        }
        self.conf = self.folder / "slurm.conf"
        self._ports: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that a process needs to talk to this cluster and to no other."""
        return {"SLURM_CONF": str(self.conf)}

    # ---- up and down

    def __enter__(self) -> "Cluster":
        self.up(guard=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, guard: bool = False) -> None:
        """Start everything and wait until both nodes are idle. guard: the cluster ends when this process
        dies.
        """
        refuse()
        install()
        if self.folder.exists() and any(self.folder.iterdir()):
            if not is_ours(self.conf):
                raise ClusterError(f"{self.folder} holds files that are no test cluster's")
            self.down()
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o755)
        self._ports = free_ports(1 + len(NODES))
        self.write()
        if guard:
            # kill -9 runs no `finally`: this process sees its stdin close then, and takes all down
            command = [sys.executable, os.path.abspath(__file__), "guard", f"--dir={self.folder}"]
            self._guard = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        try:
            (self.folder / "munge.key").touch(0o600)
            (self.folder / "munge.key").write_bytes(os.urandom(128))
            files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "seed")]
            files += [f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munge.pid"]
            # --force: in foreground or not, it refuses folders that others may write, as /tmp's parent
            self._start("munged", "munged", "--foreground", "--force", "--num-threads=2", *files)
            self._until(
                lambda: (self.folder / "munge.socket").exists(), 10, "munged made no socket", "munged"
            )
            self.start_slurmctld()
            for node in NODES:
                self.start_slurmd(node)
            self.wait_idle()
        except BaseException:
            logs = self.logs()
            self.down()
            print(logs, file=sys.stderr)
            raise

    def down(self, keep: bool = False) -> None:
        """Kill whatever is left of the daemons and their jobs, and remove the folder unless `keep`.

        Needs nothing but the folder, so it works after a crash and from another process.
        """
        if not is_ours(self.conf):
            return
        deadline = time.monotonic() + 20
        while left := self.processes():
            # stopped first: what is killed could otherwise be replaced while this goes from one to the next
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            kill(left)
            if time.monotonic() > deadline:
                raise ClusterError(f"these processes do not die: {left}")
            time.sleep(0.02)
        if self._guard:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()
            self._guard = None
        for child in self._children:
            child.wait()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """All processes that run because of this cluster: daemons, the steps they started, jobs and their
        children.
        """
        found = {pid for name in ("munged", "slurmctld", *NODES) if (pid := self._pid(name))}
        found |= self._steps()
        for pid, _ in processes():
            env = environment(pid)
            if env.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in env:
                found.add(pid)
        found = with_descendants(found) - {os.getpid(), self._guard.pid if self._guard else -1}
        return sorted(pid for pid in found if started(pid))

    def _steps(self, node: str = "") -> set[int]:
        """The slurmstepd of the node's jobs: each hides its environment, but keeps its node's log open."""
        logs = self.folder / f"slurmd.{node}"
        return {pid for pid, _ in processes() if program(pid).startswith("slurmstepd") and holds(pid, logs)}

    # ---- daemons

    def start_slurmctld(self) -> None:
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def restart_slurmctld(self, number: int = signal.SIGTERM, wait: float = 0) -> None:
        """End slurmctld (TERM saves its state, KILL does not), wait so many seconds, and start it again."""
        self._end("slurmctld", number)
        time.sleep(wait)
        self.start_slurmctld()
        self._until(
            lambda: self._try("scontrol", "ping").endswith("UP"), 20, "slurmctld is silent", "slurmctld"
        )

    def start_slurmd(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def kill_slurmd(self, node: str) -> None:
        """Send kill -9 only to the node's daemon. Its jobs run on, unseen: a node that is cut off from the
        network.
        """
        self._end(node, signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """Send kill -9 to the node's daemon and to all its jobs: a node that lost power."""
        found = with_descendants(self._steps(node))
        self._end(node, signal.SIGKILL)
        kill(found)

    def configure(self, **settings: Any) -> None:
        """Change lines of slurm.conf and have the daemons read them (not all settings can change so)."""
        self.settings |= settings
        self.write()
        self.run("scontrol", "reconfigure")

    def _start(self, name: str, *command: str) -> None:
        path = shutil.which(command[0], path=PATH)
        with open(self.folder / f"{name}.out", "ab") as out:
            child = subprocess.Popen(
                [path or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=os.environ | self.env | {"PATH": PATH},
                start_new_session=True,
            )
        self._children.append(child)
        (self.folder / f"{name}.process").write_text(f"{child.pid} {started(child.pid)}")

    def _pid(self, name: str) -> int | None:
        """The daemon's pid if it is alive; a pid that another process has now does not count."""
        with contextlib.suppress(OSError, ValueError):
            pid, when = (self.folder / f"{name}.process").read_text().split()
            return int(pid) if started(int(pid)) == when else None
        return None

    def _end(self, name: str, number: int) -> None:
        if pid := self._pid(name):
            os.kill(pid, number)
            self._until(lambda: not self._pid(name), 20, f"{name} does not end")
        self._children = [child for child in self._children if child.poll() is None]

    def write(self) -> None:
        """slurm.conf: it does not depend on the machine's name and processors; everything is at 127.0.0.1."""
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        lines = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": self._ports[0],
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd.%n.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": self.folder / "slurmd.%n.log",
            "PlugStackConfig": self.folder / "plugstack.conf",
            "MailProg": "/bin/true",
            # no cgroups, no accounting, no hardware checks: none of them can be had in a container
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "SlurmdParameters": "config_overrides",
            "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "DefMemPerCPU": self.memory_mb // self.cpus,
            # a job that asked for --mem is killed for using more, as cgroups would
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=1",
            "JobAcctGatherParams": "OverMemoryKill",
            # quick: schedule at once, look again every second, do not wait for what is gone
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1",
            "SlurmctldTimeout": 10,
            "MessageTimeout": 5,
            "TCPTimeout": 2,
            "KillWait": 3,  # from TERM to KILL
            "InactiveLimit": 0,
            "MinJobAge": 3600,  # ended jobs stay in `squeue --states=all`
            "OverTimeLimit": 0,
            "JobRequeue": 1,
            "ReturnToService": 2,
            "EnforcePartLimits": "NO",  # SLURM's own default: a time over the limit is taken and never run
        } | self.settings
        text = HEADER + "".join(f"{name}={value}\n" for name, value in lines.items())
        for node, port in zip(NODES, self._ports[1:]):
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus}"
            text += f" RealMemory={self.memory_mb} State=UNKNOWN\n"
        text += (
            f"PartitionName=cpu Nodes={','.join(NODES)} Default=YES MaxTime=00:10:00 DefaultTime=00:05:00\n"
        )
        text += f"PartitionName=short Nodes={','.join(NODES)} MaxTime=00:01:00\n"
        (self.folder / "plugstack.conf").touch()
        self.conf.write_text(text)

    # ---- what a test asks

    def run(self, *command: str, cwd: str | Path | None = None) -> str:
        """Run a SLURM command; returns its stdout, stripped. Raises ClusterError with its message if it
        fails.
        """
        # what SLURM set for a job around this process would be taken for options of this command
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))}
        env = outer | self.env | {"PATH": PATH}
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
        return done.stdout.strip()

    def _try(self, *command: str) -> str:
        try:
            return self.run(*command)
        except ClusterError as e:
            return str(e)

    def jobs(self, *which: str) -> list[dict[str, Any]]:
        """One row per task that SLURM still knows, ended ones too, with the keys of FIELDS.

        task is None without an array; restarts is an int; `which` are jobs, by default all.
        """
        form = ",".join(f"{name}:|" for name in FIELDS.values())  # "|" stands between the fields
        chosen = [f"--jobs={','.join(which)}"] if which else []
        rows = []
        for line in self.run(
            "squeue", "--noheader", "--array", "--states=all", f"--Format={form}", *chosen
        ).splitlines():
            row: dict[str, Any] = dict(zip(FIELDS, (word.strip() for word in line.split("|"))))
            row["task"] = int(row["task"]) if row["task"].isdigit() else None
            row["restarts"] = int(row["restarts"])
            rows.append(row)
        return sorted(rows, key=lambda row: (int(row["array"]), row["task"] or 0))

    def states(self, *which: str) -> list[str]:
        return [row["state"] for row in self.jobs(*which)]

    def nodes(self) -> dict[str, str]:
        """Node: state, such as idle, mixed, down*."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait(self, job: str, *states: str, within: float = 30) -> list[dict[str, Any]]:
        """Wait until all of the job's tasks are in one of these states; its rows."""
        rows: list[dict[str, Any]] = []

        def there() -> bool:
            rows[:] = self.jobs(job)
            return bool(rows) and all(row["state"] in states for row in rows)

        self._until(there, within, lambda: f"job {job} is {[r['state'] for r in rows]}, not {states}")
        return rows

    def wait_idle(self, within: float = 20) -> None:
        def idle() -> bool:
            try:
                return self.nodes() == dict.fromkeys(NODES, "idle")
            except ClusterError:  # slurmctld does not listen yet
                return False

        self._until(idle, within, lambda: "the nodes are not idle", "munged", "slurmctld", *NODES)

    def release(self, job: str) -> None:
        """A requeued job need not wait for its time to begin.

        It must not start in the second in which it was requeued: its node still refuses it then ("Job
        credential revoked"), and the job is FAILED for good. So this waits for the second after.
        """
        begins = [row["begin"] for row in self.jobs(job) if row["reason"] == "BeginTime"]
        for begin in begins:
            if begin != "N/A":
                requeued = datetime.datetime.fromisoformat(begin).timestamp() - self.requeue_wait - 1
                time.sleep(max(0, requeued + 2 - time.time()))
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def logs(self, lines: int = 30) -> str:
        """The ends of all logs, for the message of a test that failed."""
        lines_of_all = []
        for out in sorted(self.folder.glob("*.out")):
            # what a daemon printed is its log again, but for one that ended before it could open its log
            log = self.folder / (f"slurmd.{out.stem}.log" if out.stem in NODES else f"{out.stem}.log")
            with contextlib.suppress(OSError):
                path = log if log.exists() and log.stat().st_size else out
                text = path.read_text(errors="replace").splitlines()
                kept = [line for line in text if "Unauthorized cred" not in line]
                lines_of_all += [f"== {path.name}", *kept[-lines:]]
        return "\n".join(lines_of_all)

    def _until(
        self, check: Callable[[], bool], within: float, what: str | Callable[[], str], *daemons: str
    ) -> None:
        """Poll until check() holds; ClusterError when the time is over or one of the daemons has ended."""
        deadline = time.monotonic() + within
        while not check():
            gone = [name for name in daemons if not self._pid(name)]
            if gone or time.monotonic() > deadline:
                why = f"{', '.join(gone)} ended" if gone else f"after {within:g} s"
                raise ClusterError(f"{what() if callable(what) else what}: {why}\n{self.logs()}")
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["up", "down", "status", "guard"])
    parser.add_argument("--dir", type=Path, default=FOLDER, help="the cluster's folder (%(default)s)")
    parser.add_argument("--cpus", type=int, default=4, help="of each node (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="down: leave the files, for their logs")
    args = parser.parse_args()
    cluster = Cluster(args.dir, cpus=args.cpus)
    try:
        if args.what == "up":
            cluster.up()
            print(f"export SLURM_CONF={cluster.conf} PATH=$PATH:/usr/sbin")
        elif args.what == "status":
            if not cluster.processes():
                print(f"no cluster runs in {cluster.folder}")
                return 1
            print(cluster.run("sinfo"), cluster.run("squeue"), sep="\n")
        else:
            if args.what == "guard":
                # signals of the terminal are for the test, which then takes all down itself
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                sys.stdin.buffer.read()
            cluster.down(keep=args.keep)
    except ClusterError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
