"""What W&B has of our runs, and how its client sends it the rest. For launch/upload.py.

If no run can be sent, because there is no login, no answer or no permission, Stop is raised, with one line
for the user.
"""

import contextlib
import fcntl
import functools
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.results.read import Run
from research.common import wandb_client, wandb_mirror
from research.common.commandline import EXIT_PREEMPTED
from research.common.folder import (
    CHECKPOINTS,
    DONE,
    ENDED,
    METRICS,
    TIMES,
    TRIALS,
    UPLOADED,
    WANDB_SWEEP,
    media_by_step,
    read_json,
    read_rows,
)
from research.common.messages import console

# For W&B, by the status of a run that has ended: the exit code that the training process would have had.
EXIT_CODES = {status: 0 if status in DONE else 1 for status in ENDED}
# Settings in the shell for a single run, or because there is no network during training: not for an upload.
NOT_OURS = ["WANDB_MODE", "WANDB_RUN_GROUP", *wandb_client.PER_RUN]
# By default the client keeps trying for hours when a server is gone.
RETRIES = {
    f"WANDB_X_{what}_RETRY_{k}": v
    for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for k, v in (("MAX", "4"), ("WAIT_MIN_SECONDS", "1"), ("WAIT_MAX_SECONDS", "8"))
}


class Stop(Exception):
    """No run can be uploaded now. Its message is one line."""


class Nothing(Exception):
    """There is nothing to upload of this run."""


class Failed(Exception):
    """One run could not be uploaded; for others it may work."""


class Unreadable(Failed):
    """The run's folder is damaged."""


@dataclass(frozen=True)
class There:
    """What W&B has of a run. state: None if it does not know the run; sweep: the id of its W&B sweep."""

    rows: int = 0
    state: str | None = None
    url: str = ""
    sweep: str | None = None


class Job:
    """A run folder as it is now, and where it is uploaded. rows: how many rows of history W&B has when it has
    everything.
    """

    def __init__(self, run: Run, varied: list[str], entity: str | None, project: str | None):
        self.run, self.folder, self.config, self.varied = run, run.folder, run.config, varied
        self.status, self.id = run.status["status"], str(run.config["wandb_id"])
        # If W&B directs the sweep, the sweep's place counts, not the flags.
        kept = read_json(run.folder.parent / WANDB_SWEEP) or {}
        self.entity = entity or kept.get("entity") or run.place[0]  # None: the login's own
        self.project = project or kept.get("project") or run.place[1]
        rows = (row for name in (METRICS, TIMES) for row in read_rows(self.folder / name))
        self.rows = len({row["step"] for row in rows if "step" in row} | media_by_step(self.folder).keys())
        best = sorted((self.folder / CHECKPOINTS).glob("best_*.pt"), key=lambda p: p.stat().st_mtime)
        self.model = best[-1] if best and self.status in DONE else None
        self.marker = read_json(self.folder / UPLOADED) or {}
        # The newest offline segment begins with the whole log, so it contains those that were set aside.
        self.segment = max((self.folder / "wandb").glob(f"offline-run-*-{self.id}"), default=None)

    @property
    def up_to_date(self) -> bool:
        expected = {"wandb_id": self.id, "rows": self.rows, "status": self.status, "project": self.project}
        if self.entity:
            expected["entity"] = self.entity
        return expected.items() <= self.marker.items()

    @property
    def tasks(self) -> list[Path]:
        """Segments that tasks on this run's checkpoints wrote offline and that are not synced yet."""
        found = sorted(self.folder.glob("*/wandb/offline-run-*"))
        return [s for s in found if any(s.glob("*.wandb")) and not synced(s)]

    def todo(self, there: There) -> str:
        """What has to be done: sync, send (rows), complete (artifacts, files, how it ended) or confirm.

        Raises Nothing or Failed if W&B has more rows than the folder.
        """
        if there.rows > self.rows:
            kind = Failed if self.status in ENDED else Nothing  # a run that continues logs its cut rows again
            raise kind(f"W&B has {there.rows} rows of it and the folder {self.rows}: left alone")
        # A run that may continue is not synced, since the trainer would have to give it another id. Nor is a
        # run that moves to another project, because the client would leave its artifacts in the first.
        before, own = self.run.place, (None, self.project)
        stays = before == (self.entity, self.project) or (before == own and self.entity == own_entity())
        if there.rows == 0 and self.segment and self.status in ENDED and stays:
            return "sync"  # even if it is marked as synced: the client also marks it when a server has failed
        if there.rows < self.rows:
            return "send"
        state = {0: "finished", 1: "failed", None: "preempted"}[EXIT_CODES.get(self.status)]
        # Offline, the client refuses to name the data set as an input, so this is done now.
        return "complete" if there.state != state or (self.model and self.segment) else "confirm"

    def identity(self) -> dict[str, Any]:
        """The run's name, group and tags at W&B; see research/common/start.py."""
        name, sweep, flags = self.run.flags.get("name"), self.folder.parent, self.run.trial.get("flags") or {}
        shown = {k: self.run.flags.get(k) for k in self.varied} or flags
        label = " ".join(f"{k}={v}" for k, v in shown.items())[:128] or self.folder.name
        return {
            "name": name if name not in (None, self.config.get("key")) else label,
            "job_type": "train",
            "group": sweep.name if (sweep / TRIALS).is_dir() else None,
            "tags": [str(self.config.get("family")), str(self.config.get("dataset"))[:64]],
        }

    def send(self, wandb_run: Any, there: There, shown: dict[str, Any]) -> None:
        """Send the resumed W&B run what it lacks: rows, files, artifacts, and how the run ended."""
        wandb_run.define_metric("train/loss_epoch", step_metric="epoch")
        if there.rows < self.rows:
            wandb_mirror.replay(self.folder, wandb_run, since=wandb_run.starting_step)
        if there.state != "finished":  # it did not end by itself, so files may be missing, too
            segments = self.folder.glob(f"wandb*/*run-*-{self.id}")
            save_files(wandb_run, *sorted(segments, key=lambda s: s.name.removeprefix("offline-")))
            wandb_mirror.save_files(self.folder, wandb_run)
        if self.model:
            wandb_mirror.log_artifacts(wandb_run, self.folder, shown, self.model)
        if self.status not in ENDED:
            wandb_run.mark_preempting()
        wandb_run.finish(exit_code=EXIT_CODES.get(self.status, EXIT_PREEMPTED))


def save_files(wandb_run: Any, *segments: Path) -> None:
    """Send the files that the client kept in these segments; of files with the same name, the last one."""
    found = {path.relative_to(s / "files"): s for s in segments for path in (s / "files").rglob("*.*")}
    for name, segment in found.items():
        path = segment / "files" / name
        if path.is_file() and path.stat().st_size and str(name) not in ("config.yaml", "wandb-summary.json"):
            wandb_run.save(path, base_path=segment / "files", policy="now")


def synced(segment: Path) -> bool:
    return any(segment.glob("*.synced"))


def set_environment() -> None:
    """Set the environment of this process and of the client's processes for uploading."""
    for name in NOT_OURS:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in RETRIES.items() if name not in os.environ})


def alone(folder: Path) -> None:
    """Make sure that only one upload of a folder runs at a time on this machine, until this process ends.

    The lock is our standard input. The client's processes inherit it, so this also waits for those that a
    killed upload left running.
    """
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"upload-{os.getuid()}-{name}.lock")
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.print("waiting: another upload of this folder is running, or was killed and is shutting down")
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.dup2(lock, 0)
    os.close(lock)


@contextlib.contextmanager
def asking() -> Iterator[Any]:
    """A `with` block with W&B's API, logged in; its errors become Stop."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        with _captured(io.StringIO()):
            yield _api()
    except wandb.errors.UsageError as error:
        raise Stop(f"W&B: {one_line(error)}; see `wandb login --relogin`") from None
    except (wandb.errors.Error, WandbApiFailedError, TimeoutError) as error:
        answer = getattr(error.__cause__ or error, "response", None)
        _stop_if_refused(getattr(answer, "http_status", None), one_line(error))
        raise Stop(f"W&B does not answer ({one_line(error)}); the same command continues later") from None


@contextlib.contextmanager
def _captured(output: io.StringIO) -> Iterator[None]:
    """A `with` block in which everything that the client prints goes to `output`."""
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield


@functools.cache
def _api() -> Any:
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise Stop("not logged in to W&B: run `wandb login`, then this command again")
    return wandb.Api(timeout=30)


def _stop_if_refused(status: int | None, message: str) -> None:
    """Raise Stop if W&B refuses this login."""
    if status in (401, 403) or re.search(r"\b40[13]\b|permission|forbidden", message, re.IGNORECASE):
        mend = "`wandb login --relogin`, or choose with --entity and --project"
        raise Stop(f"W&B refuses this login ({message}): {mend}") from None


def own_entity() -> str:
    with asking() as api:
        return api.default_entity or ""  # the client asks W&B only once


def ask(entity: str, project: str, ids: list[str]) -> dict[str, There]:
    """What W&B has of these runs, by id."""
    with asking() as api:
        api.flush()  # because it caches answers
        runs = api.runs(f"{entity}/{project}", filters={"name": {"$in": ids}}, per_page=200)
        with contextlib.suppress(ValueError):  # there is no such project yet
            return {r.id: There(r.historyLineCount, r.state, r.url, r.sweep_name) for r in runs}
        return {}


def client(*args: str) -> str:
    """Run the client's own command line; returns what it printed. Its exit code is 0 whatever happened."""
    command, pipe = [sys.executable, "-m", "wandb", *args], subprocess.PIPE
    with tempfile.TemporaryDirectory() as tmp:  # for its own log
        env = os.environ | {"WANDB_DIR": tmp}
        done = subprocess.run(command, env=env, stdout=pipe, stderr=subprocess.STDOUT, errors="replace")
    return done.stdout


def sync(segment: Path, *options: str) -> str:
    """Upload an offline segment of which W&B has no rows; returns what the client printed."""
    for state in segment.glob("*.syncstate"):
        state.unlink()  # a broken attempt left it: the client would continue there and shift the steps
    return client("sync", "--include-synced", *options, str(segment))


@contextlib.contextmanager
def resumed(entity: str, project: str, wandb_id: str, **init: Any) -> Iterator[Any]:
    """The W&B run with this id, online, without any data about this machine. The caller finishes it.

    Raises Failed with the last lines that the client printed.
    """
    import wandb

    settings = wandb_client.settings(
        "online",
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
    )
    settings.silent = True
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as tmp, _captured(output):
        try:
            yield wandb.init(
                dir=tmp,
                mode="online",
                entity=entity,
                project=project,
                id=wandb_id,
                resume="allow",
                settings=settings,
                **init,
            )
        except Exception as error:  # the client raises many kinds
            if wandb.run is not None:
                with contextlib.suppress(Exception):
                    wandb.run.finish(exit_code=1)
            _stop_if_refused(None, one_line(error))
            raise Failed(f"{one_line(error) or repr(error)}\n{tail(output.getvalue())}") from error


def make_sweep(config: dict[str, Any], entity: str, project: str, runs: list[str], perhaps_made: bool) -> str:
    """The id of a new W&B sweep with these runs. perhaps_made: a killed upload may have made it already."""
    import wandb

    with asking() as api:
        known = api.project(project, entity).sweeps() if perhaps_made else ()
        for sweep in known:
            # the client fills in the parameters' distributions
            if all(sweep.config.get(k) == v for k, v in config.items() if k != "parameters"):
                return sweep.id
        return wandb.sweep(config, entity=entity, project=project, prior_runs=runs)


def add_to_sweep(sweep: dict[str, Any], file: Path, name: str, runs: list[str]) -> list[str]:
    """Those of the runs that are in the W&B sweep now: its agents ran them, or W&B let us add them.

    sweep: the content of the file WANDB_SWEEP, with the `runs` that it had.
    """
    there = ask(sweep["entity"], sweep["project"], runs)
    own = [i for i in runs if i in there and there[i].sweep == sweep["id"]]
    if len(own) < len(runs):
        prior = [word for i in dict.fromkeys(sweep["runs"] + runs) for word in ("-R", i)]
        path = "/".join(sweep[k] for k in ("entity", "project", "id"))
        output = client("sweep", "--update", path, "--name", name, *prior, str(file))
        return runs if "Updating sweep with ID" in output else own
    return own


def one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())[:200]


def tail(text: str, lines: int = 4) -> str:
    """The last lines that are not blank."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
