"""If a part of one run can't be read, as after root or a container wrote it, its row says so and hides no
other.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch import slurm, upload
from launch.results import read, wandb_runs
from launch.results.wandb_runs import There
from launch.sweep.agent import Runs
from launch.sweep.progress import Progress
from launch.sweep.queue import Queue
from research.common import lease as leases
from research.common.commandline import parse
from research.common.folder import read_json, write_json
from tests.test_report import PICTURES, call, data_of, make_run, texts_of

ROOT = Path(__file__).resolve().parents[1]
YAML = "program: research/x.py\nmethod: grid\nparameters: {beta: {values: [0, 1, 2]}, seed: {value: 0}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of three finished runs."""
    folder = tmp_path / "runs" / "vae"
    for i in range(3):
        make_run(folder / f"key{i}", i, 0, project="p", entity="e")
        config = json.loads((folder / f"key{i}/config.json").read_text()) | {"wandb_id": f"id-{i}"}
        (folder / f"key{i}/config.json").write_text(json.dumps(config))
        write_json(folder / f"key{i}/lease.1", leases._identity("train") | {"released": "finished"})
        Queue(folder).add({"beta": i, "seed": 0}, f"key{i}")
    (folder / "sweep.yaml").write_text(YAML)
    return folder


def instead(path: Path, what: str) -> None:
    """Something that nobody, not even root, can read as a file or as a folder, put in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a file":
        path.write_bytes(b"no folder")
    elif what == "a broken link":
        path.symlink_to(path.with_name("nowhere"))
    else:
        path.write_bytes(what.encode())


# what stands where; what the report says of it; of the run's status; and what --status says
FAULTS = [
    ("config.json", "a folder", "config.json cannot be read (Is a directory)", "finished", ""),
    ("config.json", "{", "config.json cannot be read (", "finished", ""),
    ("config.json", '{"headline": [1], "flags": {}}', "its headline is damaged", "finished", ""),
    (
        "status.json",
        "a folder",
        "status.json cannot be read (Is a directory)",
        "unreadable",
        "Is a directory",
    ),
    ("status.json", "{", "status.json cannot be read (", "unreadable", "status.json is no JSON"),
    ("status.json", '{"status": [1]}', "its status is damaged", "unreadable", "says no status"),
    ("status.json", '{"status": "finished", "segments": 3}', "its segments is damaged", "unreadable", ""),
    ("metrics.jsonl", "a folder", "metrics.jsonl cannot be read (Is a directory)", "finished", ""),
    (".", "a file", "the folder cannot be read (Not a directory)", "unreadable", "Not a directory"),
    (
        ".",
        "a broken link",
        "the folder cannot be read (a broken link)",
        "unreadable",
        "a broken link",
    ),
    ("media", "a file", "media cannot be read (Not a directory)", "finished", ""),
    (f"media/{PICTURES[0]}/00000050.png", "a broken link", "00000050.png cannot be read (", "finished", ""),
    ("lease.1", "a folder", "", "finished", ""),
    ("lease.1", "{}", "", "finished", ""),
]


@pytest.mark.parametrize(("name", "what", "problem", "status", "said"), FAULTS)
def test_a_fault_that_stops_root_too(folder, tmp_path, monkeypatch, capfd, name, what, problem, status, said):
    instead(folder / "key1" / name, what)
    assert call(folder, f"--csv={tmp_path / 'x.csv'}") == 0
    df = read.table(read.read_sweep(folder)).set_index("key")
    assert list(df.index) == ["key0", "key1", "key2"]
    assert df["status"]["key1"] == status and problem in df["reason"]["key1"]
    assert set(df["status"][["key0", "key2"]]) == {"finished"}
    data = data_of(folder / "report.html")
    assert problem in texts_of(folder / "report.html")
    assert sum(run["state"] == "finished" for run in data["runs"]) >= 2
    assert len((tmp_path / "x.csv").read_text().splitlines()) == (4 if status == "finished" else 3)

    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    capfd.readouterr()
    slurm.run(parse(slurm.Flags, [str(folder), "--status"], positional="sweep"))
    first, *lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:3:2]] == [
        ["0000", "beta=0", "finished"],
        ["0002", "beta=2", "finished"],
    ]
    shown = lines[1].split()[2]
    assert lines[1].split()[:2] == ["0001", "beta=1"] and (shown == "unreadable") == bool(said)
    if said:
        assert "2 finished" in first and "1 unreadable" in first
        assert [line for line in lines if line.startswith("0001 unreadable: ") and said in line]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("a folder", "Is a directory"),
        ("{", "it is damaged"),
        ('{"flags": {}}', "it is damaged"),
        ("a broken link", "No such"),
    ],
)
def test_a_trial_that_cannot_be_read(folder, monkeypatch, capfd, what, why):
    instead(folder / "trials" / "0001.json", what)
    assert call(folder) == 0
    sweep = read.read_sweep(folder)
    assert "trials/0001.json cannot be read (" in sweep.problem
    assert sorted(run.folder.name for run in sweep.runs) == ["key0", "key1", "key2"]  # the run is there
    monkeypatch.setenv("PATH", "/nowhere")
    capfd.readouterr()
    slurm.run(parse(slurm.Flags, [str(folder), "--status"], positional="sweep"))
    first, *lines = capfd.readouterr().out.splitlines()
    assert "2 finished" in first and "1 unreadable" in first and "0 pending" in first
    assert [line.split()[0] for line in lines[:2]] == ["0000", "0002"]
    assert [line for line in lines if line.startswith("trials/0001.json cannot be read (") and why in line]


def test_trials_that_are_no_folder(folder, capfd):
    instead(folder / "trials", "a file")
    assert call(folder) == 0
    assert "trials cannot be read (Not a directory)" in texts_of(folder / "report.html")
    queue = Queue(folder)
    assert queue.trials() == [] and queue.problems == ["trials cannot be read (Not a directory)"]


def test_a_yaml_that_cannot_be_read(folder):
    for text, said in (
        ("parameters: [1]", "its parameters are damaged"),
        ("a: [", "sweep.yaml cannot be read ("),
    ):
        (folder / "sweep.yaml").write_text(text)
        assert said in read.read_sweep(folder).problem and call(folder) == 0
        with pytest.raises(slurm.UserError, match=r"sweep\.yaml"):
            slurm.run(parse(slurm.Flags, [str(folder), "--status"], positional="sweep"))


def test_runs_of_a_sweep_that_wandb_directs(folder):
    shutil.rmtree(folder / "trials")
    write_json(folder / "wandb-sweep.json", {"id": "s"})
    instead(folder / "key1" / "config.json", "a folder")
    queue = Runs(folder, {"beta": {}})
    rows = {row.trial.key: row for row in Progress(queue, {"beta": {"values": [0, 1, 2]}}).rows()}
    assert sorted(rows) == ["key0", "key1", "key2"] and queue.problems == []
    assert [rows[f"key{i}"].trial.flags for i in range(3)] == [{"beta": 0.0}, {}, {"beta": 2.0}]


def test_the_last_lines_of_a_log_that_cannot_be_read(folder):
    instead(folder / "key1" / "output.log", "a folder")
    row = Progress(Queue(folder), {}).rows()[1]
    assert row.last_lines() == ["output.log cannot be read (Is a directory)"]


# ------------------------------------------------------------------------------------- rights


def without_roots_rights() -> None:
    """A child process in which root may not read what the mode forbids (Linux; elsewhere tests don't run as
    root).
    """
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, from this child's exec on
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def run(*command: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PATH": "/nowhere", "COLUMNS": "200"}
    words = [sys.executable, *command]
    return subprocess.run(
        words, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=without_roots_rights
    )


@contextlib.contextmanager
def closed(*paths: Path):
    """Files and folders of mode 000."""
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes):
            path.chmod(mode)


def test_what_is_closed_to_us_is_told_and_hides_nothing(folder):
    for i in range(3, 7):
        make_run(folder / f"key{i}", i, 0)
        Queue(folder).add({"beta": i, "seed": 0}, f"key{i}")
    with closed(
        folder / "key1",
        folder / "key2" / "status.json",
        folder / "key3" / "media" / PICTURES[0],
        folder / "key4" / "media" / PICTURES[0] / "00000200.png",
        folder / "key5" / "metrics.jsonl",
        folder / "trials" / "0006.json",
    ):
        made, status = run("launch/report.py", str(folder)), run("launch/slurm.py", str(folder), "--status")
        whole = run("launch/upload.py", str(folder.parent / "nobody"))
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
    page = texts_of(folder / "report.html")
    for said in (
        "the folder cannot be read (Permission denied)",
        "status.json cannot be read (Permission denied)",
        f"media/{PICTURES[0]} cannot be read (Permission denied)",
        f"1 cannot be read, the first of them vae/key4/media/{PICTURES[0]}/00000200.png.",
        "metrics.jsonl cannot be read (Permission denied)",
        "trials/0006.json cannot be read (Permission denied)",
    ):
        assert said in page, said
    assert "5 finished, 2 unreadable" in page
    assert status.returncode == 0, status.stderr
    assert "4 finished" in status.stdout and "3 unreadable" in status.stdout
    for said in (
        "0001 unreadable: status.json cannot be read (Permission denied)",
        "0002 unreadable: status.json cannot be read (Permission denied)",
        "trials/0006.json cannot be read (Permission denied)",
    ):
        assert said in status.stdout.splitlines(), status.stdout
    assert whole.returncode == 2 and "no such folder" in whole.stderr


def test_a_plain_folder_says_what_it_could_not_look_into(folder):
    (folder / "sweep.yaml").unlink()
    shutil.rmtree(folder / "trials")
    with closed(folder / "key1"):
        assert run("launch/report.py", str(folder)).returncode == 0
    assert "the folder cannot be read (Permission denied)" in texts_of(folder / "report.html")
    with closed(folder):
        done = run("launch/report.py", str(folder), f"--out={folder.parent / 'x.html'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Permission denied" in done.stderr


# ------------------------------------------------------------------------------------- upload


@pytest.fixture
def wandb_has_it_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let W&B confirm every row that is asked for; nothing is sent."""
    rows = {f"id-{i}": There(5, "finished", f"https://w/e/p/runs/id-{i}") for i in range(3)}
    monkeypatch.setattr(wandb_runs, "ask", lambda entity, project, ids: {i: rows[i] for i in ids})
    monkeypatch.setattr(wandb_runs, "alone", lambda folder: None)
    monkeypatch.setattr(wandb_runs, "set_environment", lambda: None)


@pytest.mark.usefixtures("wandb_has_it_all")
@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("key1", "a file", "unreadable: the folder cannot be read (Not a directory)"),
        ("key1", "a broken link", "unreadable: the folder cannot be read (a broken link)"),
        ("key1/config.json", "a folder", "unreadable: config.json cannot be read (Is a directory)"),
        ("key1/metrics.jsonl", "a folder", "unreadable: metrics.jsonl cannot be read (Is a directory)"),
        ("key1/media", "a file", "unreadable: media cannot be read (Not a directory)"),
    ],
)
def test_upload_goes_on_with_the_others(folder, capfd, name, what, said):
    for path in ("trials/0000.json", "sweep.yaml"):  # else it would be made a sweep on W&B
        (folder / path).unlink()
    instead(folder / name, what)
    for flag, code in (("--dry_run", 1), ("--dry_run=False", 1)):
        assert call(folder, flag, command=upload) == code
        text = capfd.readouterr().err
        assert (
            said in text
            if flag.endswith("False")
            else said.removeprefix("unreadable: ") in " ".join(text.split())
        )
    assert "2 uploaded" in text and "1 unreadable" in text
    assert [bool(read_json(folder / f"key{i}" / "uploaded.json")) for i in (0, 2)] == [True, True]


@pytest.mark.usefixtures("wandb_has_it_all")
def test_upload_of_a_run_whose_folder_may_not_be_written(folder, monkeypatch, capfd):
    (folder / "sweep.yaml").unlink()
    real = leases.acquire

    def acquire(run, watch, role="train"):
        if run.name == "key1":
            raise PermissionError(13, "Permission denied", str(run / ".lease.tmp"))
        return real(run, watch, role)

    monkeypatch.setattr(leases, "acquire", acquire)
    assert call(folder, command=upload) == 1
    text = capfd.readouterr().err
    assert f"key1  failed: {folder}/key1/.lease.tmp: Permission denied" in text
    assert "2 uploaded, 1 failed" in text


@pytest.mark.usefixtures("wandb_has_it_all")
def test_an_error_that_is_no_files_is_not_swallowed(folder, monkeypatch):
    (folder / "sweep.yaml").unlink()

    def acquire(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(leases, "acquire", acquire)
    with pytest.raises(BrokenPipeError):
        upload.Upload(upload.Flags(folder=str(folder)), read.read_sweep(folder)).run()
