"""`python launch/upload.py` with the real client against the loopback server: every row comes once.

Trainers and uploads run in forks of this process, which has imported what takes seconds.
"""

import contextlib
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from launch import upload
from launch.results import read, wandb_runs
from research import bvae_faces
from research.common import lease as leases
from research.common.commandline import main
from research.common.folder import UPLOADED, WANDB_SWEEP, media_by_step, read_json, read_rows, write_json
from research.common.media import File
from research.common.run import Run
from research.common.task import Task
from tests.conftest import write_dot
from tests.forks import fork
from tests.online import lost_rows, until
from tests.wandb_server import Server

RETRY = {"MAX": "1", "WAIT_MIN_SECONDS": "0.1", "WAIT_MAX_SECONDS": "0.1"}


class Fork:
    """A fork of this process that calls `what` as a client of `server`."""

    def __init__(self, server: Server, home: Path, what: Callable[[], Any], **env: str):
        self.log = home / f"log-{time.monotonic_ns()}"
        known = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | server.env(home)
        wandb.teardown()  # a client that an earlier test of this process left would not work in the fork

        def alone() -> None:
            os.setsid()
            upload.SETTLE_S = 1.0
            try:
                what()
            finally:
                wandb.teardown()

        env = known | {"COLUMNS": "200", "TMPDIR": str(home)} | env
        self.pid, self.code = fork(alone, self.log, self.log, env), None

    def ended(self) -> tuple[int, str]:
        if self.code is None:
            try:
                _, status = until(lambda: (got := os.waitpid(self.pid, os.WNOHANG))[0] and got, every_s=0.01)
            except AssertionError:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"goes on after 90 s:\n{self.log.read_text()}") from None
            self.code = os.waitstatus_to_exitcode(status)
        return self.code, self.log.read_text()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.ended()[0] == -signal.SIGKILL


class Place:
    """A folder of runs, and the server to which they are uploaded."""

    def __init__(self, server: Server, home: Path, tiny: dict[str, Any]):
        self.server, self.home, self.tiny, self.runs = server, home, tiny, home / "runs" / "dots"
        self.runs.mkdir(parents=True)

    def fork(self, what: Callable[[], Any], **env: str) -> Fork:
        return Fork(self.server, self.home, what, **env)

    def upload(self, *args: str, folder: Path | None = None, **env: str) -> Fork:
        """Start an upload of the sweep, or of `folder`."""

        def what() -> None:
            sys.argv = ["upload.py", str(folder or self.runs), *args]
            main(upload.Flags, upload.run, positional="folder")

        return self.fork(what, **env)

    def train(self, name: str, send: tuple[str, int, int] | None = None, **flags: Any) -> None:
        """Train a run, in this process. send: (method of Run, step after which, signal to send ourselves)."""
        sent, real = [], Run.log

        def log(run: Run, metrics: dict[str, Any], step: int) -> None:
            real(run, metrics, step)
            if send and step == send[1] and not sent:
                sent.append(step)
                run._finish_media()
                if send[0] == "seen":
                    until(lambda: run.mirror._next_step > step)
                if send[0] == "seen" and run.cfg.wandb == "online":
                    time.sleep(1.5)  # the client sends once a second here
                os.kill(os.getpid(), send[2])

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(Run, "log", log)
            bvae_faces.train(self.config(name, **flags))

    def config(self, name: str, **flags: Any) -> bvae_faces.Config:
        more = {"out": str(self.runs), "name": name, "wandb": "offline", "steps": 20, "sample_every": 10}
        return bvae_faces.Config(**self.tiny | more | flags)

    def id(self, name: str) -> str:
        return read_json(self.runs / name / "config.json")["wandb_id"]

    def on_server(self, name: str) -> Any:
        return self.server.run(self.id(name))

    def complete(self, name: str, state: str = "finished") -> None:
        """The server has the run: every row once and equal, every picture, the model and its data set."""
        run, folder = self.on_server(name), self.runs / name
        assert lost_rows(run, folder) == 0
        media = media_by_step(folder)
        steps = {row["step"] for row in read_rows(folder / "metrics.jsonl")} | media.keys()
        assert [row["_step"] for row in run.rows] == sorted(steps)
        for row in run.rows:
            for key, path in media.get(row["_step"], {}).items():
                shown = row[key]
                if path.suffix != ".html":  # the client wraps that
                    assert run.files[shown["path"]] == path.read_bytes()
                kinds = {".png": "image-file", ".gif": "video-file", ".html": "html-file"}
                assert shown["_type"] == kinds[path.suffix] and shown["path"] in run.files
        assert (run.state, run.jobType) == (state, "train") and run.tags == ["bvae_faces", "faces"]
        assert run.settings["seed"] == read_json(folder / "config.json")["flags"]["seed"]
        assert "result_flags" not in run.settings  # as of a run that was online
        mark = read_json(folder / UPLOADED)
        status = read_json(folder / "status.json")["status"]
        assert (mark["wandb_id"], mark["rows"], mark["status"]) == (run.name, len(steps), status)
        assert mark["url"].endswith(f"/{mark['entity']}/{mark['project']}/runs/{run.name}")
        if status == "finished":
            (best,) = (folder / "checkpoints").glob("best_*.pt")
            (model,) = [a for a in run.logged if a.artifactSequence.name == f"bvae_faces-{run.name}"]
            assert model.content[best.name] == best.read_bytes()
            assert [a.artifactSequence.kind for a in run.used] == ["dataset"]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file but the client's logs, which its service process may still be closing."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("debug")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def pictures(*_: Any) -> dict[str, File]:
    def write_text(path: Path) -> None:
        path.write_text("<b>81+24</b>", encoding="utf-8")

    def write_gif(path: Path) -> None:
        write_dot(path)

    return {
        "sample/random": File(".png", write_dot),
        "sample/text": File(".html", write_text),
        "sample/video": File(".gif", write_gif),
    }


@pytest.fixture(scope="module")
def patched() -> Any:
    """Small pictures of each kind, and a figure that is not a number."""
    evaluate = bvae_faces.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bvae_faces, "training_pictures", pictures)
        patch.setattr(bvae_faces, "interpolation", lambda *_: {})
        patch.setattr(bvae_faces, "evaluate", lambda *a: evaluate(*a) | {"val/odd": math.nan})
        yield


@pytest.fixture(scope="module")
def place(server, patched, tiny, tmp_path_factory) -> Place:
    """A sweep of four runs trained offline: straight, preempted, killed; one whose W&B file is torn."""
    place = Place(server, tmp_path_factory.mktemp("upload"), tiny)

    def train() -> None:
        place.train("straight", seed=0)
        place.train("preempted", ("log", 12, signal.SIGUSR1), seed=1)
        place.train("preempted", seed=1)
        place.train("torn", seed=3)
        checkpoint = str(place.runs / "straight")
        cfg = place.config("straight", task="generate", checkpoint=checkpoint)
        best = next((place.runs / "straight" / "checkpoints").glob("best_*"))
        config = read_json(place.runs / "straight" / "config.json")
        task = Task(cfg, place.runs / "straight" / "generate", None, best, config, {})
        task.folder.mkdir()
        task._wrote("dots", place.runs / "straight/media/sample/random/00000000.png")
        task.numbers({"n": 5})
        task.finish()

    killed = place.fork(lambda: place.train("killed", ("seen", 12, signal.SIGKILL), seed=2))
    code, text = place.fork(train).ended()
    assert code == 0, text
    assert killed.ended()[0] == -signal.SIGKILL
    code, text = place.fork(lambda: place.train("killed", seed=2)).ended()
    assert code == 0 and "continues from step 7" in text, text
    (segment,) = (place.runs / "torn" / "wandb").glob("offline-run-*")
    os.truncate(next(segment.glob("*.wandb")), 7)
    (file,) = (place.runs / "straight" / "wandb").glob("offline-run-*/*.wandb")  # tried once, elsewhere
    file.with_name(f"{file.name}.syncstate").write_text('{"starting_step": 31, "starting_runtime": 9}')
    (place.runs / "trials").mkdir()
    for i, name in enumerate(("straight", "preempted", "killed", "torn")):
        write_json(place.runs / "trials" / f"{i:04d}.json", {"flags": {"seed": i}, "key": name})
    (place.runs / "sweep.yaml").write_text(
        "# Question: one row each?\nprogram: research/bvae_faces.py\nmethod: grid\n"
        "parameters:\n  seed: {values: [0, 1, 2, 3, 4]}\n"
    )
    return place


def test_a_sweep_is_brought_once(place):
    server, names = place.server, ("straight", "preempted", "killed", "torn")
    assert {read_json(place.runs / name / "status.json")["status"] for name in names} == {"finished"}

    before = everything(place.runs)
    code, text = place.upload("--dry_run").ended()
    assert code == 0 and text.count("synced, 9 rows") == 4 and "task generate synced" in text, text
    assert everything(place.runs) == before and not server.runs
    assert not server.requests.keys() - {"Viewer", "GetDefaultEntity", "Runs"}

    code, text = place.upload().ended()
    assert code == 0 and "4 uploaded" in text, text
    for name in names:
        place.complete(name)
        assert f"{name}  " in text and place.on_server(name).displayName.startswith(name)
    assert "torn  synced, 9 rows sent" in text and "wandb:" not in text, text
    for name in names[:3]:  # by its segment: what only that has
        assert {"wandb-metadata.json", "requirements.txt"} <= place.on_server(name).files.keys()
        assert place.on_server(name).eventsLineCount > 0
    assert "requirements.txt" in place.on_server("torn").files  # saved beside the torn file
    (task,) = [run for run in server.runs.values() if run.jobType == "generate"]
    assert (task.state, [row["generate/n"] for row in task.rows]) == ("finished", [5])
    assert any(name.endswith(".png") for name in task.files)

    (sweep,) = server.sweeps.values()
    assert sweep.prior == [place.id(name) for name in names] and sweep.displayName is None
    kept = read_json(place.runs / WANDB_SWEEP)
    url = f"{server.url}/tester/letters-and-latents/sweeps/{sweep.name}"
    assert kept == {
        "id": sweep.name,
        "entity": "tester",
        "project": "letters-and-latents",
        "url": url,
        "runs": sweep.prior,
    }
    assert kept["url"] in text

    before, asked = everything(place.runs), Counter(server.requests)
    code, text = place.upload().ended()
    assert code == 0 and "4 up to date" in text and kept["url"] in text, text
    assert server.requests == asked and everything(place.runs) == before


def test_a_sweep_grows(place):
    """Needs what the test before has uploaded. A run that is being trained waits, and so does a half-made
    sweep.
    """
    server = place.server
    if not (place.runs / WANDB_SWEEP).exists():
        assert place.upload().ended()[0] == 0
    place.fork(lambda: place.train("late", ("log", 12, signal.SIGUSR1), seed=4)).ended()
    kept, before = read_json(place.runs / WANDB_SWEEP), Counter(server.requests)

    lease = leases.acquire(place.runs / "late", leases.Watch())
    code, text = place.upload().ended()
    lease.release("preempted")
    assert code == 0 and "late  is being trained: skipped" in text and "4 up to date" in text, text
    assert server.requests == before

    # interrupted: W&B has what there is, and the same run gets the rest
    code, text = place.upload().ended()
    assert code == 0 and "late  6 rows sent" in text, text
    place.complete("late", "preempted")
    assert read_json(place.runs / WANDB_SWEEP)["runs"] == [*kept["runs"], place.id("late")]
    (sweep,) = server.sweeps.values()
    assert sweep.prior == [*kept["runs"], place.id("late")]
    wandb_id = place.id("late")
    place.fork(lambda: place.train("late", seed=4)).ended()
    code, text = place.upload().ended()
    assert code == 0 and "late  3 rows sent" in text and place.id("late") == wandb_id, text
    place.complete("late")

    # killed between W&B's answer and the file: no second sweep
    write_json(place.runs / WANDB_SWEEP, kept | {"id": None, "url": None, "runs": []})
    code, text = place.upload().ended()
    assert code == 0 and len(server.sweeps) == 1, text
    assert read_json(place.runs / WANDB_SWEEP)["id"] == kept["id"]

    # an agent has begun with it: W&B takes no more, which is said
    write_json(place.runs / WANDB_SWEEP, kept)
    sweep.agents["a"] = None
    refused, fault = list(server.refused), server.fault
    code, text = place.upload().ended()
    server.fault, server.refused[:] = fault, refused  # that refusal is meant
    assert code == 0 and f"on W&B, but not in its sweep {kept['id']}: {wandb_id}" in text, text
    assert len(server.sweeps) == 1 and read_json(place.runs / WANDB_SWEEP)["runs"] == kept["runs"]


@pytest.fixture(scope="module")
def plain(server, patched, tiny, tmp_path_factory) -> Place:
    """Runs outside of a sweep; "cut" was killed online and continued without W&B."""
    plain = Place(server, tmp_path_factory.mktemp("plain"), tiny)
    cut = plain.fork(lambda: plain.train("cut", ("seen", 12, signal.SIGKILL), wandb="online", seed=10))

    def train() -> None:
        for seed, name in enumerate("ab", 11):
            plain.train(name, seed=seed)

    code, text = plain.fork(train).ended()
    assert code == 0, text
    assert cut.ended()[0] == -signal.SIGKILL
    plain.fork(lambda: plain.train("cut", wandb="disabled", seed=10)).ended()
    return plain


def test_what_w_and_b_missed_of_an_online_run(plain):
    """Its first rows are there already: only the rest is sent, and pictures that were lost."""
    assert read_json(plain.runs / "cut" / "status.json")["status"] == "finished"
    run = plain.on_server("cut")
    had = len(run.rows)
    assert 0 < had < 9 and run.state == "running"
    code, text = plain.upload(folder=plain.runs / "cut").ended()
    assert code == 0 and f"cut  {9 - had} rows sent" in text, text
    plain.complete("cut")


def test_killed_at_any_time(plain):
    """An upload is killed right after its first run, and another while it syncs the next."""
    markers = lambda: set(plain.runs.glob(f"*/{UPLOADED}"))  # noqa: E731
    known = markers()
    begun = {name for name in "ab" if plain.runs / name / UPLOADED not in known}
    started = plain.upload()
    (first,) = until(lambda: markers() - known, every_s=0.002)
    started.kill()
    plain.complete(first.parent.name)

    ids = {plain.id(name) for name in begun}
    started = plain.upload()  # of the next, which the one before may have begun
    until(lambda: ids <= {run.name for run in list(plain.server.runs.values())}, every_s=0.002)
    started.kill()  # the client's processes still work on it

    code, text = plain.upload().ended()
    assert code == 0 and "up to date" in text, text
    for name in "ab":
        plain.complete(name)
        assert plain.on_server(name).group is None


def test_what_cannot_be_brought(plain):
    """A damaged run is named and the others are uploaded; another project; each mistake in one line."""
    folder = plain.home / "runs" / "mixed"
    folder.mkdir()
    for name, source in zip("abc", "abb"):
        shutil.copytree(plain.runs / source, folder / name, symlinks=True)
        (folder / name / UPLOADED).unlink(missing_ok=True)
    (folder / "b" / "config.json").write_text('{"family": "bvae')
    (folder / "begun").mkdir()
    (folder / "begun" / "status.json").write_text('{"status": "failed"}')
    config = read_json(folder / "c" / "config.json")
    config["project"] = config["flags"]["project"] = "other"
    write_json(folder / "c" / "config.json", config)
    (folder / "sweep.yaml").write_text("program: x\nmethod: grid\nparameters: {seed: {values: [1]}}\n")

    for args, env, code, parts in [
        ((), {}, 2, ["letters-and-latents, other", "give --project"]),
        (("--projekt=x",), {}, 2, ["did you mean --project?"]),
        (("--project=x",), {"WANDB_API_KEY": ""}, 1, ["not logged in to W&B: run `wandb login`"]),
        (("--project=x",), {"WANDB_API_KEY": "x" * 40}, 1, ["refuses this login"]),
    ]:
        got, text = plain.upload(*args, folder=folder, **env).ended()
        assert got == code and all(part in text for part in parts), text
        assert sum("error:" in line for line in text.splitlines()) == 1 and len(text.splitlines()) <= 2, text

    plain.server.fault = lambda what: 403 if what == "UpsertBucket" else None
    code, text = plain.upload("--project=x", folder=folder).ended()
    plain.server.fault = lambda what: None
    assert code == 1 and "W&B refuses this login (permission denied)" in text, text

    code, text = plain.upload("--project=x", folder=folder).ended()
    assert code == 1 and "2 uploaded, 1 unreadable, 1 without rows" in text, text
    assert "b  unreadable: config.json cannot be read" in text and "begun  has not begun" in text
    assert ("x", plain.id("a")) in plain.server.runs and not plain.server.runs["x", plain.id("a")].logged[1:]
    moved = plain.server.runs["x", plain.id("a")]
    assert lost_rows(moved, folder / "a") == 0 and moved.logged[0].artifactSequence.project.name == "x"
    assert len(read_json(folder / WANDB_SWEEP)["runs"]) == 2


def test_the_server_goes_away(server, plain):
    """In the middle of a run: a line says so, the exit code is 1, and the same command continues."""
    folder = plain.home / "runs" / "again"
    shutil.copytree(plain.runs / "a", folder, symlinks=True)
    (folder / UPLOADED).unlink(missing_ok=True)
    for path in folder.rglob("*.sync*"):
        path.unlink()
    names = [f"WANDB_X_{what}_RETRY" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")]
    quick = {f"{n}_{k}": v for n in names for k, v in RETRY.items()}
    with Server() as other:
        there = Place(other, plain.home / "other", plain.tiny)
        gone = ("file_stream", "Runs")
        other.fault = lambda what: 503 if what in gone and other.requests["file_stream"] else None
        code, text = there.upload(folder=folder, **quick).ended()
        assert code == 1 and "again  was not uploaded" in text and "W&B does not answer" in text, text
        assert not (folder / UPLOADED).exists() and text.count("\n") == 2, text
        other.fault = lambda what: None
        code, text = there.upload(folder=folder).ended()
        assert code == 0 and "again  synced, completed" in text, text
        (run,) = other.runs.values()
        assert lost_rows(run, folder) == 0 and run.state == "finished" and other.refused == []
    (folder / UPLOADED).unlink()
    code, text = there.upload(folder=folder, **quick).ended()
    assert code == 1 and "W&B does not answer" in text, text


def test_local_files_of_a_name_come_from_the_newest_segment(tmp_path):
    saved = {}

    class Recorder:
        def save(self, path: Path, base_path: Path, policy: str) -> None:
            saved[str(Path(path).relative_to(base_path))] = Path(path).read_text(encoding="utf-8")

    for i, name in enumerate(("offline-run-1-x", "run-2-x")):
        files = tmp_path / name / "files"
        (files / "media").mkdir(parents=True)
        (files / "requirements.txt").write_text(f"v{i}")
        (files / "media" / f"{i}.png").write_text("p")
        (files / "config.yaml").write_text("c")
        (files / "output.log").touch()
    wandb_runs.save_files(Recorder(), tmp_path / "offline-run-1-x", tmp_path / "run-2-x")
    assert saved == {"requirements.txt": "v1", "media/0.png": "p", "media/1.png": "p"}


def test_a_holder_on_another_machine_is_watched(tmp_path, monkeypatch):
    """Gone: the run can be brought. Beating: left alone. Here: left alone at once."""
    monkeypatch.setitem(leases.PATIENCE_S, "train", 0.5)
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    held = []
    for name in ("gone", "beating", "here"):
        lease = leases.acquire(tmp_path / name, leases.Watch())
        if name != "here":
            lease.update(host="elsewhere")
        if name == "beating":
            lease.start_beating()
        held.append(read.Run(tmp_path / name))
    work = upload.Upload(upload.Flags(folder="x"), read.Sweep(tmp_path, "x", "", {}, "", held, []))
    assert [run.folder.name for run in work.abandoned(held)] == ["gone"]
    assert work.counts == {"being trained": 2}
