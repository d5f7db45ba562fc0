"""What goes wrong around a run: the disk is full, W&B fails or was cut off, processes are killed."""

import contextlib
import errno
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from research import bvae_faces
from research.common import commandline
from research.common import folder as files
from research.common.folder import read_json, read_rows, write_json
from research.common.run import Run
from research.common.wandb_mirror import Mirror
from tests import soak_kills
from tests.conftest import abandon, folder_of, results

ROOT = Path(__file__).resolve().parents[1]


def flags_of(cfg: bvae_faces.Config, **changes: Any) -> list[str]:
    return [f"--{k}={v}" for k, v in (vars(cfg) | changes).items()]


# ------------------------------------------------------------------------------------------- a full disk


class SmallDisk:
    """A file system of two megabytes; if none can be mounted, writes that fail after so many bytes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.left = folder, None
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        if not self.mounted:
            patch.setattr(files, "open", self._open, raising=False)

    def _open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        f = open(path, mode, **options)  # noqa: SIM115
        if mode[0] in "wa" and self.left is not None:
            real = f.write

            def write(data: Any) -> int:
                part = data[: self.left]
                self.left -= real(part)
                if len(part) < len(data):
                    f.flush()
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return len(data)

            return Writer(f, write)
        return f

    def fill(self, left: int) -> None:
        """Fill the disk, up to `left` bytes."""
        self.left = left
        if self.mounted:
            with open(self.folder / "ballast", "wb", buffering=0) as f, contextlib.suppress(OSError):
                while f.write(bytes(4096)):
                    pass
            os.truncate(self.folder / "ballast", max(0, (self.folder / "ballast").stat().st_size - left))

    def clear(self) -> None:
        self.left = None
        (self.folder / "ballast").unlink(missing_ok=True)


class Writer:
    def __init__(self, f: Any, write: Callable[[Any], int]):
        self.f, self.write = f, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.f, name)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.f.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", monkeypatch)
    yield disk
    if disk.mounted:
        subprocess.run(["umount", "-l", str(disk.folder)], check=True)


@pytest.mark.usefixtures("dots")
@pytest.mark.parametrize(
    ("step", "left"),
    [
        (None, 0),  # full before anything: not even a lease
        (0, 0),
        (5, 0),  # a row, or the checkpoint of step 7
        (6, 100_000),  # in the middle of that checkpoint
        (8, 0),
        (9, 0),  # the best weights, and a picture
        (13, 100_000),
        (29, 0),  # the last visit
        (29, 120_000),
    ],
)
def test_full_disk(config, straight, disk, monkeypatch, capsys, step, left):
    cfg = config(out=str(disk.folder / "runs"), sample_every=10)
    monkeypatch.setattr(sys, "argv", ["bvae_faces.py", *flags_of(cfg)])
    real, held = Run.log, []

    def log(self: Run, metrics: dict[str, Any], at: int) -> None:
        held.append(self)
        real(self, metrics, at)
        if at == step:
            disk.fill(left)

    if step is None:
        disk.fill(left)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Run, "log", log)
        commandline.main(bvae_faces.Config, bvae_faces.train)
    usual = ("bvae_faces on", "posterior collapse", "step ")
    said = [x for x in capsys.readouterr().err.split("\n") if x and not any(word in x for word in usual)]
    assert stop.value.code == 1 and len(said) == 1, said
    assert said[0].startswith("error: No space left on device (") and "run the same command again" in said[0]
    assert str(disk.folder) in said[0]  # which file
    for path in disk.folder.rglob("*.json"):
        assert read_json(path) is not None, path
    for path in disk.folder.rglob("lease.*"):
        assert read_json(path) is not None, path
    assert not list(disk.folder.rglob("*.tmp"))

    disk.clear()
    if held:
        abandon(held[-1])  # the process has ended
    commandline.main(bvae_faces.Config, bvae_faces.train)
    assert results(folder_of(cfg)) == results(straight)
    assert read_json(folder_of(cfg) / "status.json")["status"] == "finished"


@dataclass(frozen=True)
class Flags:
    """A command's flags."""

    out: str = "runs"
    """where it writes"""


def refused(error: OSError, out: Path, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """The exit code and the one line of a command that this error ends."""

    def run(flags: Flags) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["x.py", f"--out={out}"])
        commandline.main(Flags, run)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")
    return stop.value.code, said.removeprefix("error: ").strip()


def test_what_mends_a_file_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    """Each error has its own remedy. If trying again can't help, the run is refused, so that no sweep tries
    it again.
    """
    me = pwd.getpwuid(os.geteuid()).pw_name
    runs, file = tmp_path / "runs", tmp_path / "runs" / "a" / "status.json"
    file.parent.mkdir(parents=True)
    file.touch(0o440)

    def error(number: int, path: Any = file) -> OSError:
        return OSError(number, os.strerror(number), None if path is None else str(path))

    for number, why in ((errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")):
        code, said = refused(error(number), runs, capsys)
        assert (code, said) == (1, f"{why} ({file}): free some space, then run the same command again")
        code, said = refused(error(number, None), runs, capsys)
        assert (code, said) == (1, f"{why}: free some space, then run the same command again")
        for out, also in (
            (runs, ", or starts from the beginning with another --out"),
            (tmp_path / "elsewhere", ""),
        ):
            monkeypatch.setattr(commandline, "AT_CRASH", [lambda error: None])  # a run has begun
            code, said = refused(error(number), out, capsys)
            assert (code, said) == (
                1,
                f"{why} ({file}): free some space, then run the same command again; it goes on from the last "
                f"checkpoint{also}",
            )
        monkeypatch.setattr(commandline, "AT_CRASH", [])
    code, said = refused(error(errno.EROFS), runs, capsys)
    assert code == 2
    assert said == f"Read-only file system ({file}): nothing can be written there: choose another --out"
    code, said = refused(error(errno.EROFS, "/elsewhere"), runs, capsys)
    assert (code, said.endswith("choose another place")) == (2, True)
    for number in (errno.EACCES, errno.EPERM):
        code, said = refused(error(number), runs, capsys)
        assert code == 2 and "checkpoint" not in said and "space" not in said
        assert said == (
            f"{os.strerror(number)} ({file}): it belongs to {me} (-r--r-----), and you are {me}: change its "
            "owner or its permissions and run the same command again, or choose another --out"
        )
    file.chmod(0o640)  # our own, with every right: then it is the file system, such as /sys
    assert refused(error(errno.EPERM), runs, capsys)[1].endswith(
        "nothing can be written there: choose another --out"
    )
    file.parent.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file.parent)  # the folder keeps us out
    _, said = refused(error(errno.EACCES), runs, capsys)
    assert f": {file.parent} belongs to {me} (dr-x" in said
    monkeypatch.setattr(os, "geteuid", lambda: 987654)  # a container's user, of no name
    _, said = refused(error(errno.EACCES, runs / "not" / "there"), runs, capsys)
    assert f": {runs} belongs to {me} (drwx" in said and "and you are user 987654: change" in said
    for number in (
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    ):  # something else stands in the place of --out
        code, said = refused(error(number), runs, capsys)
        assert (code, said.partition("): ")[2]) == (
            2,
            "no folder can be made there: choose another --out or --name",
        )
    for number in (errno.ENOENT, errno.EEXIST):
        code, said = refused(error(number, runs), runs / "x", capsys)
        assert (code, said.partition("): ")[2]) == (
            2,
            "no folder can be made there: choose another --out or --name",
        )
    for other in (error(errno.EIO), error(errno.EACCES, None), FileNotFoundError(2, "x", "y")):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=str(other.errno)):
            patch.setattr(sys, "argv", ["x.py"])
            commandline.main(Flags, lambda flags, other=other: (_ for _ in ()).throw(other))


def test_a_folder_of_somebody_else_ends_a_training_at_once(config, dots, tmp_path, monkeypatch, capsys):
    """It does not say "free some space", and its exit code keeps a sweep's worker from trying it again."""
    cfg = config(out=str(tmp_path / "runs"))
    real = files.write_bytes

    def write(path: Path, data: bytes) -> None:
        if path.name == "config.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, data)

    monkeypatch.setattr(files, "write_bytes", write)
    monkeypatch.setattr(sys, "argv", ["bvae_faces.py", *flags_of(cfg)])
    with pytest.raises(SystemExit) as stop:
        commandline.main(bvae_faces.Config, bvae_faces.train)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and last.endswith("nothing can be written there: choose another --out"), last
    assert read_json(folder_of(cfg) / "status.json")["status"] == "failed"


def test_a_crash_is_reported(config, dots, monkeypatch, capsys):
    """A crash keeps its traceback; the folder says what happened, and the same command continues."""
    cfg = config()
    monkeypatch.setattr(sys, "argv", ["bvae_faces.py", *flags_of(cfg)])
    with monkeypatch.context() as patch:
        patch.setattr(bvae_faces, "interpolation", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            commandline.main(bvae_faces.Config, bvae_faces.train)
    status = read_json(folder_of(cfg) / "status.json")
    assert (status["status"], status["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert read_json(folder_of(cfg) / "lease.1")["released"] == "failed"
    commandline.main(bvae_faces.Config, bvae_faces.train)
    assert read_json(folder_of(cfg) / "status.json")["status"] == "finished"


def test_picture_that_fails_is_no_silent_loss(config, dots, monkeypatch):
    from research.common.media import File

    monkeypatch.setattr(
        bvae_faces, "interpolation", lambda *_: {"sample/x": File(".png", lambda path: 1 / 0)}
    )
    with pytest.raises(ZeroDivisionError):
        bvae_faces.train(config(steps=1))


# ------------------------------------------------------------------------------------------- W&B

KILLED_AT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
step = int(sys.argv.pop(1))
from research import bvae_faces
from research.common.commandline import main
from research.common.run import Run

real = Run.log
def log(self, metrics, at):
    real(self, metrics, at)
    if at == step:
        self._finish_media()
        until = time.monotonic() + 120
        while self.mirror._next_step <= at and time.monotonic() < until:  # W&B has begun, and has this row
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
Run.log = log
main(bvae_faces.Config, bvae_faces.train)
"""


def inspected(segment: Path) -> list[dict[str, Any]]:
    printed = subprocess.run(
        [wandb_cli(), "leet", "inspect", "--json", str(segment)], capture_output=True, text=True
    )
    assert printed.returncode == 0, printed.stderr
    return [json.loads(line) for line in printed.stdout.splitlines() if line.startswith("{")]


def wandb_cli() -> str:
    return str(Path(sys.executable).with_name("wandb"))


def test_offline_run_after_kill_is_one_clean_run(config, tmp_path):
    """W&B's own file has the same rows as the run's log, although the process was killed in between."""
    cfg = config(wandb="offline", steps=20, sample_every=10, threads=1)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["WANDB_CACHE_DIR"] = str(tmp_path / "cache")
    script = [sys.executable, "-c", KILLED_AT, str(ROOT)]
    flags = [flag for flag in flags_of(cfg) if not flag.endswith("=None")]
    first = subprocess.run([*script, "12", *flags], env=env, capture_output=True, text=True)
    assert first.returncode == -9, first.stderr
    folder = folder_of(cfg)
    kept = read_json(folder / "config.json")["wandb_id"]
    second = subprocess.run([*script, "-1", *flags], env=env, capture_output=True, text=True)
    assert second.returncode == 0 and "continues from step 7" in second.stderr, second.stderr

    (live,) = (folder / "wandb").glob("offline-run-*")
    (old,) = (folder / "wandb-set-aside").glob("offline-run-*")
    assert live.name.endswith(kept) and old.name.endswith(kept) and live != old
    records = inspected(live)
    history = {r["history"]["item"]["_step"]: r["history"]["item"] for r in records if r["type"] == "history"}
    assert len(history) == sum(r["type"] == "history" for r in records)
    rows: dict[int, dict[str, Any]] = {}
    for name in ("metrics.jsonl", "time.jsonl"):
        for row in read_rows(folder / name):
            rows.setdefault(row["step"], {}).update(row)
    assert sorted(rows) == sorted(history) == [0, 3, 6, 9, 10, 12, 15, 18, 20]
    for step, row in rows.items():
        scalars = {k for k in history[step] if k[0] != "_" and "." not in k}
        assert scalars == set(row) - {"step"}
        assert all(history[step][k] == pytest.approx(row[k], rel=1e-12) for k in scalars)
    media = {
        (step, key.removesuffix(".sha256")) for step in history for key in history[step] if ".sha256" in key
    }
    on_disk = {
        (int(p.stem), p.parent.relative_to(folder / "media").as_posix())
        for p in (folder / "media").rglob("*.*")
    }
    assert media == on_disk and {step for step, _ in media} == {0, 10, 20}
    assert (20, "sample/interpolation_video") in media
    (end,) = (r for r in records if r["type"] == "exit")
    assert not end["exit"].get("exit_code")

    sync = subprocess.run(
        [wandb_cli(), "sync", "--dry-run", str(live)], env=env, capture_output=True, text=True
    )
    assert sync.returncode == 0 and live.name in sync.stdout + sync.stderr


def mirror_of(folder: Path, cfg: bvae_faces.Config) -> Mirror:
    folder.mkdir()
    write_json(folder / "config.json", {"wandb_id": "abcd1234"})
    (folder / "wandb" / "offline-run-20260101_000000-abcd1234").mkdir(parents=True)
    return Mirror(folder, cfg, {}, name="n")


@pytest.mark.parametrize("synced", [False, True])
def test_synced_segment_takes_a_new_id(config, tmp_path, capsys, synced):
    mirror = mirror_of(tmp_path / "run", config())
    (segment,) = (tmp_path / "run" / "wandb").iterdir()
    (segment / "run-abcd1234.wandb").touch()
    if synced:
        (segment / "run-abcd1234.wandb.synced").touch()
    new = mirror._wandb_id("offline")
    assert read_json(tmp_path / "run" / "config.json")["wandb_id"] == new
    assert not list((tmp_path / "run" / "wandb").iterdir())
    assert (tmp_path / "run" / "wandb-set-aside" / segment.name).is_dir()
    said = capsys.readouterr().err
    assert (new != "abcd1234", f"from now on its W&B id is {new}" in said) == (synced, synced)
    assert mirror._wandb_id("offline") == new  # once


def test_wandb_that_fails_does_not_hurt(config, straight, dots, monkeypatch, capsys):
    import wandb

    calls = []

    def init(**options: Any) -> None:
        calls.append(options)
        raise RuntimeError("no quota [left]\nsecond line")

    monkeypatch.setattr(wandb, "init", init)
    bvae_faces.train(config(wandb="offline"))
    assert results(folder_of(config())) == results(straight)
    said = capsys.readouterr().err
    assert len(calls) == 1 and said.count("W&B stopped taking this run (no quota [left])") == 1
    assert "second line" not in said


def test_wandb_out_of_reach_goes_on_offline(config, dots, monkeypatch, capsys):
    import wandb

    modes = []

    def init(mode: str, **options: Any) -> None:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route")
        raise RuntimeError("enough for this test")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    bvae_faces.train(config(wandb=None, steps=2))
    assert modes == ["online", "offline"]
    assert "W&B does not take this run now (no route): it is kept offline" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- kill -9


@pytest.mark.soak
def test_a_few_kills(tmp_path):
    """The short form of tests/soak_kills.py, which also demands how many kills land in the training loop."""
    storm = soak_kills.Storm(tmp_path / "soak", seed=1, kills=4, while_running=2, n_seeds=1, steps=1500)
    storm.storm(storm.undisturbed())
    assert len(storm.log) >= 2 and storm.compare("storm") > 100
    assert not storm.differences
