"""The test cluster itself, and what SLURM does in the cases for which the launcher must be prepared."""

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm import cluster as module
from tests.slurm.cluster import NODES, Cluster, ClusterError, skip_reason

ROOT = Path(__file__).parents[1]
# lines of `said`: what, SLURMD_NODENAME, task, restarts, pid
SAY = 'say() { echo "$1 $SLURMD_NODENAME ${SLURM_ARRAY_TASK_ID:--} ${SLURM_RESTART_COUNT:-0} $$" >>said; }\n'
RUN = SAY + "trap 'say USR1' USR1\ntrap 'say TERM; exit 1' TERM\nsay start\n"
LOOP = "while :; do sleep 0.1; done\n"

Submit = Callable[..., str]


def said(folder: Path, what: str = "") -> list[list[str]]:
    path = folder / "said"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split() for line in lines if line.startswith(what)]


def until(check: Callable[[], object], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"after {within:g} s"
        time.sleep(0.05)


def submit_in(cluster: Cluster, folder: Path, *options: str, body: str = RUN + LOOP) -> str:
    (folder / "job.sh").write_text("#!/bin/bash\n" + body)
    return cluster.run(
        "sbatch", "--parsable", "--open-mode=append", "--output=%x.%A_%a.out", *options, "job.sh", cwd=folder
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := skip_reason():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm"), max_array=20) as running:
        yield running


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Iterator[Submit]:
    """submit(*options, body=...): the id of a job in tmp_path, cancelled when the test is over."""
    jobs: list[str] = []

    def one(*options: str, body: str = RUN + LOOP) -> str:
        jobs.append(submit_in(cluster, tmp_path, *options, body=body))
        return jobs[-1]

    yield one
    for job in jobs:
        cluster.run("scancel", job)


@pytest.fixture(scope="module", autouse=True)
def at_limit(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Two jobs that reach their time limit while the other tests run, because SLURM checks
    only every 30 s.
    """
    folder = tmp_path_factory.mktemp("limit")
    jobs = {}
    for name, options in {"over": ["--time=1"], "warned": ["--time=1", "--signal=B:USR1@50"]}.items():
        (folder / name).mkdir()
        jobs[name] = submit_in(cluster, folder / name, "--nodelist=n2", *options)
        cluster.wait(jobs[name], "RUNNING")
    # a limit is in whole minutes; its end is not
    cluster.run("scontrol", "update", f"JobId={jobs['over']}", "EndTime=now+1")
    return folder, jobs


def test_a_job_runs_on_each_node(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    jobs = [submit(f"--nodelist={node}", body=SAY + "say ran") for node in NODES]
    for job, node in zip(jobs, NODES):
        (row,) = cluster.wait(job, "COMPLETED")
        assert (row["nodes"], row["task"], row["restarts"]) == (node, None, 0)
    assert sorted(line[1] for line in said(tmp_path)) == ["n1", "n2"]
    assert cluster.nodes()["n1"] in ("idle", "completing")


def test_a_throttled_array_runs_each_task_once(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("--array=0-5%2", body=SAY + "say start\nsleep 0.3\nsay end")
    rows = cluster.wait(job, "COMPLETED")
    assert [row["task"] for row in rows] == [*range(6)]
    assert sorted(line[2] for line in said(tmp_path, "start")) == [*"012345"]
    running = most = 0
    for what, *_ in said(tmp_path):
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert most == 2


@pytest.mark.soak
def test_a_requeued_job_waits_and_counts(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit()
    until(lambda: said(tmp_path, "start"))
    cluster.run("scontrol", "requeue", job)
    (row,) = cluster.wait(job, "PENDING")
    until(lambda: cluster.jobs(job)[0]["reason"] == "BeginTime")
    wait = datetime.datetime.fromisoformat(cluster.jobs(job)[0]["begin"]) - datetime.datetime.now()
    assert 5 < wait.total_seconds() < 10  # requeue_wait + 1
    cluster.release(job)
    (row,) = cluster.wait(job, "RUNNING", within=4)
    assert row["restarts"] == 1
    until(lambda: len(said(tmp_path, "start")) == 2)
    assert [line[3] for line in said(tmp_path, "start")] == ["0", "1"]
    assert said(tmp_path, "TERM")  # KillWait before KILL: time to save


@pytest.mark.soak
def test_a_task_requeues_itself_at_usr1(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    again = 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; say asked; wait; say after'
    body = f"{SAY}trap '{again}' USR1\ntrap 'say TERM; exit 0' TERM\nsay start\nsleep 60 & wait\nsay on\nwait"
    job = submit("--array=3,4", body=body)
    until(lambda: len(said(tmp_path, "start")) == 2)
    cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_3")
    until(lambda: cluster.jobs(f"{job}_3")[0]["reason"] == "BeginTime")
    cluster.release(f"{job}_3")
    until(lambda: len(said(tmp_path, "start")) == 3)
    assert [line[2:4] for line in said(tmp_path, "start")][-1] == ["3", "1"]
    assert not said(tmp_path, "on")  # its own request ends the script: what follows it may not run
    assert cluster.states(f"{job}_4") == ["RUNNING"]


@pytest.mark.soak
def test_usr1_reaches_the_batch_shell_only_when_asked(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    """A plain `scancel --signal` is for steps that srun started, --batch for the shell, --full for all."""
    job = submit()
    until(lambda: said(tmp_path, "start"))
    cluster.run("scancel", "--signal=USR1", job)
    time.sleep(0.5)
    assert not said(tmp_path, "USR1")
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    until(lambda: len(said(tmp_path, "USR1")) == 1)
    cluster.run("scancel", "--full", "--signal=USR1", job)  # to its children too: the trap runs at once
    until(lambda: len(said(tmp_path, "USR1")) == 2)
    assert cluster.states(job) == ["RUNNING"]


@pytest.mark.soak
@pytest.mark.parametrize(
    "options, state", [([], "CANCELLED"), (["--full"], "CANCELLED"), (["--batch"], "FAILED")]
)
def test_kill_by_scancel(
    cluster: Cluster, submit: Submit, tmp_path: Path, options: list[str], state: str
) -> None:
    """A plain KILL is a cancellation, TERM first; --batch is a kill -9 of the shell. None is requeued."""
    job = submit()
    until(lambda: said(tmp_path, "start"))
    cluster.run("scancel", "--signal=KILL", *options, job)
    (row,) = cluster.wait(job, state, within=10)
    assert row["restarts"] == 0
    assert bool(said(tmp_path, "TERM")) == (state == "CANCELLED")


@pytest.mark.soak
def test_a_script_killed_from_within_fails(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """After kill -9 or exit 75: a job that ends by itself is not requeued, whatever its exit code is."""
    killed, left = submit(body="kill -9 $$"), submit(body="exit 75")
    assert cluster.wait(killed, "FAILED")[0]["restarts"] == 0
    assert cluster.wait(left, "FAILED")[0]["restarts"] == 0
    shown = cluster.run("scontrol", "show", "job", killed), cluster.run("scontrol", "show", "job", left)
    assert "ExitCode=0:9" in shown[0]
    assert "ExitCode=75:0" in shown[1]


@pytest.mark.soak
def test_more_memory_than_asked(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """Without cgroups the state is FAILED (JobLaunchFailure), not OUT_OF_MEMORY; the log says why."""
    grow = "import time\nx = b'1' * 10**8\ntime.sleep(20)"
    job = submit("--mem=50", body=f'exec {sys.executable} -c "{grow}"')
    (row,) = cluster.wait(job, "FAILED")
    assert row["reason"] == "JobLaunchFailure"
    (log,) = tmp_path.glob("*.out")
    assert "exceeded memory limit" in log.read_text()


REFUSED = {
    "--partition=none": "error: invalid partition specified: none\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "--array=0-20": "error: Batch job submission failed: Invalid job array specification",
    "--gpus=1": "error: Invalid generic resource (gres) specification",
    "--mem=90G": "error: Memory specification can not be satisfied\n"
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_sbatch_refuses(submit: Submit, option: str) -> None:
    with pytest.raises(ClusterError) as error:
        submit(option)
    assert str(error.value).endswith(f"job.sh: sbatch: {REFUSED[option]}")


@pytest.mark.soak
def test_slurmd_restarted_in_time(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """A job does not notice that its node's daemon died and came back."""
    job = submit("--nodelist=n1", body=SAY + "say start\nsleep 3\nsay end")
    until(lambda: said(tmp_path, "start"))
    cluster.kill_slurmd("n1")
    time.sleep(1)
    cluster.start_slurmd("n1")
    assert cluster.wait(job, "COMPLETED")[0]["restarts"] == 0
    assert [line[0] for line in said(tmp_path)] == ["start", "end"]


# ---- up and down: here, while SLURM has not yet looked at the time limits


def test_nothing_is_left(cluster: Cluster, tmp_path: Path) -> None:
    """It goes down while a job is running, including the job's child in the background;
    twice does no harm.
    """
    other = Cluster(tmp_path / "c")
    with other:
        submit_in(other, tmp_path, body=SAY + "setsid sleep 300 &\nsay start\n" + LOOP)
        until(lambda: said(tmp_path, "start"))
        pids = other.processes()
        assert len(pids) >= 8  # munged, slurmctld and its helper, 2 slurmd, step, shell, sleep
        assert not set(pids) & set(cluster.processes())
    assert not [pid for pid in pids if module.started(pid)]
    assert not other.folder.exists()
    other.down()


@pytest.mark.soak
def test_killed_holder(cluster: Cluster, tmp_path: Path) -> None:
    """After kill -9 of the process that holds a cluster, the whole cluster goes down by itself."""
    held = f"from tests.slurm.cluster import Cluster\nc = Cluster({str(tmp_path / 'c')!r})\n"
    held += "with c:\n    print(*c.processes(), flush=True)\n    input()"
    with subprocess.Popen(
        [sys.executable, "-c", held], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        pids = [int(word) for word in holder.stdout.readline().split()]
        assert len(pids) >= 5
        holder.kill()
    until(lambda: not (tmp_path / "c").exists())
    assert not [pid for pid in pids if module.started(pid)]


@pytest.mark.soak
def test_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    def command(what: str, *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tests.slurm.cluster", what, f"--dir={tmp_path / 'c'}", *options]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ)

    up = command("up", "--cpus=3")
    assert up.stdout.startswith(f"export SLURM_CONF={tmp_path / 'c' / 'slurm.conf'}"), up.stderr
    assert "idle n[1-2]" in command("status").stdout
    assert command("down", "--keep").returncode == 0
    assert (tmp_path / "c" / "slurmctld.log").exists()
    assert (command("status").returncode, command("down").returncode) == (1, 0)
    assert not (tmp_path / "c").exists()


def test_refused_where_a_slurm_is_configured(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=production\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(ClusterError, match=r"^refused: SLURM_CONF=.* is not a test cluster's"):
        Cluster(tmp_path / "c").up()
    monkeypatch.delenv("SLURM_CONF")
    with pytest.raises(ClusterError, match="files that are no test cluster's"):
        Cluster(tmp_path).up()
    assert [path.name for path in tmp_path.iterdir()] == ["slurm.conf"]
    # to one that thinks no cluster is ours, the slurmctld of this module's is a stranger's
    monkeypatch.setattr(module, "HEADER", "# another")
    with pytest.raises(ClusterError, match=r"^refused: a slurmctld .* is running \(pid \d+\)$"):
        Cluster(tmp_path / "c").up()


def test_no_slurm_and_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATH", str(tmp_path))
    monkeypatch.setattr(module.os, "getuid", lambda: 1000)
    with pytest.raises(ClusterError, match="missing: munged, slurmctld, slurmd, sbatch; install Debian's"):
        module.install()
    monkeypatch.setenv("CI", "1")
    assert skip_reason() == ""
    monkeypatch.delenv("CI")
    assert skip_reason().startswith("no SLURM here")


# ---- long: limits, lost nodes, slurmctld gone


@pytest.mark.soak
def test_time_limit(cluster: Cluster, at_limit: tuple[Path, dict[str, str]]) -> None:
    """TERM at the limit, then TIMEOUT, which is not requeued; --signal may come a minute early."""
    folder, jobs = at_limit
    (row,) = cluster.wait(jobs["over"], "TIMEOUT", within=45)
    assert (row["reason"], row["restarts"]) == ("TimeLimit", 0)
    assert [line[0] for line in said(folder / "over")] == ["start", "TERM"]
    until(lambda: said(folder / "warned", "USR1"), within=45)
    cluster.run("scancel", jobs["warned"])


@pytest.mark.soak
def test_slurmd_lost(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """After SlurmdTimeout the job is requeued, while its first copy still runs: both write."""
    job = submit()
    until(lambda: said(tmp_path, "start"))
    _, node, _, _, pid = said(tmp_path, "start")[0]
    first = int(pid)
    cluster.kill_slurmd(node)
    until(lambda: cluster.states(job) == ["PENDING"], within=40)
    assert cluster.nodes()[node] == "down*"
    cluster.release(job)
    until(lambda: len(said(tmp_path, "start")) == 2)
    assert said(tmp_path, "start")[1][1] != node
    assert module.started(first)  # two copies of one job
    cluster.start_slurmd(node)
    until(lambda: not module.started(first))  # the node that is back ends the job it should not have
    assert cluster.states(job) == ["RUNNING"]
    cluster.run("scancel", job)
    until(lambda: cluster.nodes()[node] in ("idle", "mixed"))


@pytest.mark.soak
def test_node_without_power(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """The daemon and its jobs die together: the job is requeued on the other node, without a copy left
    behind.
    """
    job = submit()
    until(lambda: said(tmp_path, "start"))
    _, node, _, _, pid = said(tmp_path, "start")[0]
    cluster.kill_node(node)
    until(lambda: not module.started(int(pid)))
    cluster.wait(job, "PENDING", within=40)
    cluster.release(job)
    assert cluster.wait(job, "RUNNING")[0]["nodes"] != node
    assert not said(tmp_path, "TERM")
    cluster.start_slurmd(node)
    until(lambda: cluster.nodes()[node] in ("idle", "mixed"))


@pytest.mark.soak
def test_a_time_over_the_limit(cluster: Cluster, submit: Submit) -> None:
    """By default such a job is accepted and waits for ever; only with EnforcePartLimits is it refused."""
    job = submit("--partition=short", "--time=2")
    until(lambda: cluster.jobs(job)[0]["reason"] == "PartitionTimeLimit")
    assert submit("--array=0-19", "--hold")  # max_array: 20 tasks
    cluster.configure(EnforcePartLimits="ALL")
    with pytest.raises(ClusterError, match="Requested time limit is invalid"):
        submit("--partition=short", "--time=2")
    cluster.configure(EnforcePartLimits="NO")


@pytest.mark.soak
def test_slurmctld_restarted(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """Jobs run on and end without it, and waiting jobs are not forgotten."""
    job = submit("--array=0-1%1", body=SAY + "say start\nsleep 1.5\nsay end")
    until(lambda: said(tmp_path, "start"))
    cluster.restart_slurmctld(wait=1)
    assert [row["restarts"] for row in cluster.wait(job, "COMPLETED")] == [0, 0]
    assert [line[0] for line in said(tmp_path)] == ["start", "end"] * 2


@pytest.mark.soak
def test_slurmctld_killed(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """After kill -9 it knows what it had saved, at most every 5 s: a start that it had not
    saved is repeated.
    """
    job = submit(body=SAY + "say start\nsleep 16\nsay end")
    until(lambda: said(tmp_path, "start"))
    begun, saved = time.time(), cluster.folder / "state" / "job_state"
    time.sleep(0.2)
    submit("--hold")  # a change, so that there is something to save
    until(lambda: saved.stat().st_mtime > begun + 1)
    time.sleep(6)  # the next submission is saved at once, its start 5 s later
    (tmp_path / "late").mkdir()
    late = submit_in(cluster, tmp_path / "late")
    until(lambda: said(tmp_path / "late", "start"))
    cluster.restart_slurmctld(signal.SIGKILL)
    assert cluster.wait(job, "COMPLETED")[0]["restarts"] == 0
    assert [line[0] for line in said(tmp_path)] == ["start", "end"]
    until(lambda: len(said(tmp_path / "late")) == 2)
    # the first copy is gone without a TERM, and nothing tells the second that there was one
    first, second = said(tmp_path / "late")
    assert not module.started(int(first[4]))
    assert (second[0], second[3]) == ("start", "0")
    cluster.run("scancel", late)
