"""Makes a sweep's folder, or finds and checks it, before a worker starts.

It freezes the YAML, copies the code, stores the hashes of the data, and makes the files of the first trials.
With --wandb=online it makes a W&B sweep instead, whose runs are the trials.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from launch.results.words import POINTS
from launch.sweep import agent, command, plan
from launch.sweep.points import Points
from launch.sweep.program import DataHashes, Program
from launch.sweep.proposer import CONFIRM, Further, Proposer, ask_to_confirm, keep_size
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.flags import RunFlags
from research.common.folder import (
    CODE,
    SNAPSHOT,
    SWEEP,
    TRIALS,
    WANDB_SWEEP,
    read_json,
    write_bytes,
    write_json,
)
from research.common.identity import ROOT, git_state, source_hash
from research.common.messages import UserError, console, escape
from research.common.wandb_client import first_line

COPIED = ("research", "data", "launch")
LISTED = 4  # differences of a changed YAML that a refusal shows, at most
FIRST = 1000  # trials that are made when a sweep begins, at most; its workers make the others


def folder_of(flags: plan.SweepFlags, sweep: plan.Sweep) -> Path:
    """The sweep's folder: --out/--name, or --out/ and the YAML's name, with --set also a hash."""
    name = flags.name or sweep.path.stem
    if flags.set and not flags.name:
        name += "-" + hashlib.sha256(json.dumps(sweep.content, sort_keys=True).encode()).hexdigest()[:6]
    return Path(flags.out) / name


def prepare(flags: plan.SweepFlags, sweep: plan.Sweep) -> tuple[Queue, int]:
    """Freeze a sweep's folder as a launcher's flags say; returns its trials, and how many there will be.

    Raises UserError.
    """
    online, folder = flags.wandb == "online", folder_of(flags, sweep)
    _refuse_flags(flags, sweep, folder)
    if online:
        _log_in(folder, flags.fresh)
    queue = freeze(sweep, folder, flags.fresh, flags.reuse, online)
    if online:
        queue = _wandb_sweep(flags, sweep, folder)
    elif flags.retry:
        console.print(f"{queue.retry_failed(leases.Watch())} failed trials are open again")
    if flags.confirm:
        ask_to_confirm(folder, flags.confirm)
    return queue, planned(folder)


def foresee(flags: plan.SweepFlags, sweep: plan.Sweep) -> tuple[int, int]:
    """The numbers of planned and of open trials that `prepare` would find. Nothing is written to the sweep's
    folder.

    The data sets are loaded, so that a missing one is reported. Raises UserError, as `prepare` does.
    """
    online, folder = flags.wandb == "online", folder_of(flags, sweep)
    _refuse_flags(flags, sweep, folder)
    hashes = DataHashes(sweep.script)
    sweep.survey.load(hashes)
    if flags.fresh:
        folder = folder / ".fresh"  # a folder that does not exist
    _refuse_other(sweep, folder, hashes, flags.reuse, online)
    n_runs = sweep.survey.n_runs(hashes)
    _say(plan.notes(sweep, n_runs))
    queue = Queue(folder)
    proposer = Proposer(queue, sweep.content, flags.confirm)
    n = proposer.planned(max(proposer.size(), n_runs))
    failed = sum(queue.status(trial)["status"] == "failed" for trial in queue.trials()) if flags.retry else 0
    return n, n_open(queue, n) + failed


def _refuse_flags(flags: plan.SweepFlags, sweep: plan.Sweep, folder: Path) -> None:
    """Refuse another script than the folder's, and flags that an existing folder can't follow. Raises
    UserError.
    """
    old = None if flags.fresh else _frozen(folder)
    if old and Program.found(old.get("program")) not in (None, sweep.script):
        changed = f"program: {old['program']} → {sweep.program}"
        raise UserError(f"{folder} holds another sweep ({changed}): choose another --name, or --fresh")
    if flags.wandb != "online" and (folder / WANDB_SWEEP).exists() and not (folder / TRIALS).exists():
        raise UserError(f"{folder} is directed by W&B: --wandb=online continues it")
    launch = program_in(folder, "worker.py").parent
    if flags.fresh or not launch.exists():
        return
    older = f"the snapshot of the code in {folder} is older than"
    if flags.confirm and not (launch / "proposer.py").exists():
        raise UserError(
            f"--confirm={flags.confirm}: {older} this flag: --fresh moves it aside and starts anew"
        )
    extra = plan.extra_flags(flags)
    quoted = [flag for flag in extra if shlex.quote(flag) != flag]
    if quoted and not (launch / "command.py").exists():
        raise UserError(f"{quoted[0]}: {older} names with blanks or quotes: --fresh moves it aside")


def _say(notes: list[str]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")


def program_in(folder: Path, name: str) -> Path:
    """`worker.py` or `agent.py` in a sweep folder's snapshot of the code, which may have an older layout."""
    launch = folder / CODE / "launch"
    older = launch / name
    return older if older.exists() else launch / "sweep" / name


# ---- how many ------------------------------------------------------------------------------------------


def planned(folder: Path, found: Any = None) -> int:
    """How many trials the sweep in `folder` is going to have.

    If the folder is not one of ours, or W&B directs the sweep, its runs and its YAML are counted. found: what
    launch/results/read.py has read of the folder, if it has.
    """
    from launch.results import read

    with contextlib.suppress(
        OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError, UserError
    ):
        # any of these may come from a damaged folder; then what is there is counted
        spec = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
        if (folder / TRIALS).is_dir():
            return Proposer(Queue(folder), spec).planned()
        found = found or read.read_sweep(folder)
        if spec["method"] == "grid":
            return max(len(Points(spec)), len(found.runs) + len(found.open_trials))
    return read.expected(found or read.read_sweep(folder))


def n_open(queue: Queue, planned: int) -> int:
    """The number of trials that are neither done nor failed, including those that are not made yet."""
    return sum(1 for _ in queue.open_trials()) + max(0, planned - len(queue.trials()))


# ---- the folder ----------------------------------------------------------------------------------------


def freeze(sweep: plan.Sweep, folder: Path, fresh: bool, reuse: bool, online: bool = False) -> Queue:
    """Make or find the sweep folder of `sweep`, with its snapshot and (unless `online` or bayes) its first
    trials; the workers make the others when those are done.

    UserError: the folder contains another sweep (see `_refuse_other`), or this sweep was begun with other
    code and neither `fresh` (set it aside) nor `reuse` (continue with its snapshot) is given.
    """
    hashes = DataHashes(sweep.script)
    sweep.survey.load(hashes)  # refuses before anything is written; the workers find the data in the cache
    if fresh and folder.exists():
        _set_aside(folder)
    _refuse_other(sweep, folder, hashes, reuse, online)
    folder.mkdir(parents=True, exist_ok=True)
    _snapshot(folder, source_hash(sweep.script.family), sweep.program)
    if "command" in sweep.content:
        sweep.command.keep(folder)
    if sweep.given is not None:
        write_json(folder / POINTS, dataclasses.asdict(sweep.given))
    write_bytes(folder / SWEEP, sweep.text.encode())
    queue = Queue(folder)
    if online:
        return queue
    (folder / TRIALS).mkdir(exist_ok=True)  # the folder of a sweep that W&B directs does not have it
    hashes.keep(folder)
    n_runs = sweep.survey.n_runs(hashes)
    _say(plan.notes(sweep, n_runs))
    if sweep.content["method"] != "bayes":
        keep_size(folder, n_runs)
        Further(queue, sweep.points, sweep.command, sweep.config, hashes).make(FIRST)
    return queue


def _refuse_other(
    sweep: plan.Sweep, folder: Path, hashes: DataHashes, reuse: bool, online: bool = False
) -> None:
    """Refuse a folder that was begun with other code, or contains another sweep. Raises UserError.

    A sweep is another one if it would give a run of the folder another meaning. Name and description may
    change. So may anything else after which each trial is still a point of the sweep: more values, a higher
    run_cap, a further parameter one of whose values is the flag's default. The metric may change if nothing
    was decided by it.
    """
    source = source_hash(sweep.script.family)
    kept = read_json(folder / CODE / SNAPSHOT)
    if kept and kept["source"] != source and not reuse:
        raise UserError(
            f"{folder} was started with other code ({kept['source']}, now {source}): --fresh moves it aside "
            "and starts anew, --reuse continues with its own snapshot of the code"
        )
    if (old := _frozen(folder)) is None:
        return
    _refuse_points(sweep, folder)
    sweep.command.refuse_other(folder)
    hashes.refuse_others(folder)
    changed = [k for k in {**old, **sweep.content} if old.get(k) != sweep.content.get(k)]
    if "program" in changed and Program.found(old.get("program")) == sweep.script:
        changed.remove("program")  # another path to the same script
    queue, why = Queue(folder), None
    if changed and online:
        why = "W&B directs it, and keeps it as it was first sent"
    changed = [k for k in changed if k not in ("name", "description", "apiVersion", "kind")]
    fixed = [k for k in changed if k not in ("parameters", "run_cap", "command", "metric")]
    if why is None and fixed:
        why = f"{' and '.join(fixed)} can't change"
    elif why is None and "metric" in changed and _decided_by_metric(old, sweep, folder):
        why = "trials were chosen or stopped by the old metric"
    elif why is None and sweep.content["method"] == "bayes" and {"parameters", "command"} & set(changed):
        why = "trials were chosen for the old parameters"
    elif why is None and (left := _no_points(sweep, queue, hashes, changed)):
        flags = " ".join(f"{k}={left[0].flags.get(k)}" for k in queue.varied()) or left[0].key
        why = f"{len(left)} of its trials are not points of this one, such as {left[0].index:04d} ({flags})"
        if further := [
            name for name in sweep.content["parameters"] if name not in (old.get("parameters") or {})
        ]:
            name, default = further[0], sweep.script.default(further[0])
            why += f"; they would be if {name} also took its default, {default}"
    if why:
        listed = _differences(old, sweep.content)
        more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
        raise UserError(
            f"{folder} holds another sweep ({'; '.join(listed[:LISTED])}{more}): {why}; "
            "choose another --name, or --fresh"
        )
    if (folder / CONFIRM).exists() and plan.seed_refusal(sweep.content, sweep.script, 1):
        raise UserError(
            f"{folder}: --confirm runs its best trial with further seeds: a grid that varies "
            "seed needs another --name"
        )


def _refuse_points(sweep: plan.Sweep, folder: Path) -> None:
    """Raise UserError if the folder's points were given one by one and those of `sweep` are not, or the other
    way round.
    """
    kept = read_json(folder / POINTS)
    if kept is not None and sweep.given is None:
        command = shlex.join(["python", *kept["words"]])
        raise UserError(f"{folder} holds single points, and {command} continues it: choose another --name")
    if kept is None and sweep.given is not None:
        raise UserError(f"{folder} holds a whole sweep, not single points: choose another --name")


def _frozen(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's YAML; None before there is one. Raises UserError if it can't be read."""
    try:
        content = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not the YAML of a sweep")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{folder / SWEEP} cannot be read ({why}): --fresh moves the folder aside") from None
    return content


def _decided_by_metric(old: dict[str, Any], sweep: plan.Sweep, folder: Path) -> bool:
    searches = sweep.content["method"] == "bayes" or "early_terminate" in {**old, **sweep.content}
    return searches or (folder / CONFIRM).exists()


def _no_points(sweep: plan.Sweep, queue: Queue, hashes: DataHashes, changed: list[str]) -> list[Trial]:
    """The trials in `queue` that are not points of `sweep`, neither by their flags nor by their runs.

    There are none if nothing has changed on which points depend, or if the sweep is a search by bayes, which
    has no points.
    """
    if sweep.content["method"] == "bayes" or not {"parameters", "command", "run_cap"} & set(changed):
        return []
    left = {trial.index: trial for trial in queue.chosen()}
    for point in sweep.points:
        if not left:
            break
        trial = queue.of_flags(sweep.flags(point))
        if trial is None or trial.index not in left:
            cfg = sweep.config(point)
            trial = queue.of_key(sweep.script.key(cfg, hashes.of(cfg)))
        if trial is not None:
            left.pop(trial.index, None)
    return list(left.values())


def _differences(old: Any, new: Any, at: str = "") -> list[str]:
    """The differences between two YAMLs, such as `parameters.beta.values: [1, 4] → [1, 4, 20]`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list({**old, **new})
        found = [_differences(old.get(k), new.get(k), f"{at}.{k}" if at else str(k)) for k in keys]
        return [line for lines in found for line in lines]
    if old == new:
        return []
    was, now = ("not there" if value is None else f"{value}" for value in (old, new))
    return [f"{at}: {was} → {now}"]


def _snapshot(folder: Path, source: str, program: str) -> None:
    """Copy the code into the sweep folder, unless it is there. The workers run this copy, so the code may be
    edited meanwhile.

    program: the script, which may lie outside the folders of the project's code.
    """
    target = folder / CODE
    if target.exists():
        return
    tmp = folder / f".{CODE}.{os.getpid()}"
    for name in COPIED:
        for path in (ROOT / name).rglob("*"):
            relative = path.relative_to(ROOT)
            ours = "__pycache__" not in relative.parts and "store" not in relative.parts
            if ours and path.suffix in (".py", ".j2", ".sh"):
                (tmp / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, tmp / relative)
    (tmp / program).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / program, tmp / program)
    write_json(tmp / SNAPSHOT, git_state() | {"source": source})
    try:
        tmp.rename(target)
    except OSError:  # another process may have been faster
        if not target.exists():
            raise
        shutil.rmtree(tmp)


def _set_aside(folder: Path) -> None:
    """For --fresh: rename the old sweep folder. Raises UserError if a process is working in it."""
    watch = leases.Watch()
    for run in folder.glob("*/lease.1"):
        n, info = leases.newest(run.parent)
        if not watch.stale(run.parent, n, info):
            where = f"process {info['pid']} on {info['host']}" if info else "another process"
            raise UserError(f"--fresh: {run.parent} is being trained by {where}; stop it first")
    old = folder.with_name(f"{folder.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.rename(old)
    console.print(f"{escape(str(folder))}: the old sweep is now {escape(old.name)}")


# ---- a sweep that W&B directs --------------------------------------------------------------------------


def _log_in(folder: Path, fresh: bool) -> None:
    """Log in to W&B before anything is written. UserError: the sweep was begun without W&B, or the login
    fails.
    """
    if (folder / TRIALS).exists() and not fresh:
        known = (folder / WANDB_SWEEP).exists()
        where = "it was uploaded" if known else "launch/upload.py uploads it to W&B"
        raise UserError(f"{folder} holds a sweep begun without W&B ({where}): choose another --name")
    os.environ.pop("WANDB_MODE", None)  # --wandb=online overrides it
    import wandb

    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:  # the client raises many types if a server is down, slow or refuses
        raise UserError(f"--wandb=online: no W&B ({first_line(error)}); or --wandb=offline") from None
    if not logged_in:
        raise UserError("--wandb=online: not logged in; wandb login, or --wandb=offline")


def _wandb_sweep(flags: plan.SweepFlags, sweep: plan.Sweep, folder: Path) -> Queue:
    """Make the W&B sweep of a sweep folder, unless it exists; returns its runs as trials. UserError: W&B
    refuses.
    """
    kept = read_json(folder / WANDB_SWEEP)
    if kept is None:
        import wandb

        words = command.as_written(sweep.content, sweep.script)
        content = sweep.content | {
            "name": sweep.content.get("name", folder.name),
            "program": sweep.program,
            "command": agent.command_of(sweep.program, words),
        }
        project = flags.project or RunFlags.project
        try:
            entity = flags.entity or wandb.Api().default_entity
            with contextlib.redirect_stdout(sys.stderr):
                ident = wandb.sweep(content, entity=entity, project=project)
        except (wandb.errors.Error, ValueError, OSError) as error:
            raise UserError(f"--wandb=online: no sweep at W&B ({first_line(error)})") from None
        url = wandb.util.app_url(wandb.Api().settings["base_url"]) + f"/{entity}/{project}/sweeps/{ident}"
        wandb.teardown()
        kept = {"id": ident, "entity": entity, "project": project, "url": url}
        write_json(folder / WANDB_SWEEP, kept)
    console.print(f"W&B sweep: {kept['url']}")
    return agent.Runs(folder, sweep.content["parameters"])
