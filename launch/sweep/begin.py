"""The beginning of a sweep: its folder is made, or found and checked, before a worker starts.

The YAML is frozen, the code copied, what the data are is kept, and every trial that is known beforehand gets
its file. With --wandb=online a W&B sweep is made instead, and its runs are the trials.
"""

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import yaml

from launch.sweep import agent, plan
from launch.sweep.points import points
from launch.sweep.program import DataHashes
from launch.sweep.proposer import CONFIRM, Proposer, ask_to_confirm
from launch.sweep.queue import Queue
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
LISTED = 20  # a refusal shows at most so many lines of a changed YAML


def folder_of(flags: plan.SweepFlags, sweep: plan.Sweep) -> Path:
    """The sweep's folder: --out and --name, or the YAML's name, with --set also a hash."""
    name = flags.name or sweep.path.stem
    if flags.set and not flags.name:
        name += "-" + hashlib.sha256(json.dumps(sweep.content, sort_keys=True).encode()).hexdigest()[:6]
    return Path(flags.out) / name


def prepare(flags: plan.SweepFlags, sweep: plan.Sweep) -> tuple[Queue, int]:
    """Freeze a sweep's folder as a launcher's flags say; its trials, and how many it means to have.

    Raises UserError.
    """
    online, folder = flags.wandb == "online", folder_of(flags, sweep)
    if not online and (folder / WANDB_SWEEP).exists() and not (folder / TRIALS).exists():
        raise UserError(f"{folder} is directed by W&B: --wandb=online goes on with it")
    launch = program_in(folder, "worker.py").parent
    if flags.confirm and not flags.fresh and launch.exists() and not (launch / "proposer.py").exists():
        raise UserError(
            f"--confirm={flags.confirm}: the snapshot of the code in {folder} is older than this "
            "flag: --fresh sets it aside and starts anew"
        )
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


def program_in(folder: Path, name: str) -> Path:
    """`worker.py` or `agent.py` in a sweep folder's snapshot of the code, also in one of an older layout."""
    launch = folder / CODE / "launch"
    older = launch / name
    return older if older.exists() else launch / "sweep" / name


# ---- how many ------------------------------------------------------------------------------------------


def planned(folder: Path, found: Any = None) -> int:
    """How many trials the sweep in `folder` means to have.

    Where it is no folder of ours, or W&B directs it, its runs and its YAML have to tell. found: these as
    launch/results/read.py has read them, if it has.
    """
    if (folder / TRIALS).is_dir():
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            # whatever a damaged folder brings up: then what is there has to do
            if spec := yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8")):
                return Proposer(Queue(folder), spec).planned()
    from launch.results import read

    return read.expected(found or read.read_sweep(folder))


def n_open(queue: Queue, planned: int) -> int:
    """Trials that are neither done nor failed, those that are yet to be made included."""
    return sum(1 for _ in queue.open_trials()) + max(0, planned - len(queue.trials()))


# ---- the folder ----------------------------------------------------------------------------------------


def freeze(sweep: plan.Sweep, folder: Path, fresh: bool, reuse: bool, online: bool = False) -> Queue:
    """Make or find the sweep folder of `sweep`, with its snapshot and (unless `online` or bayes) its trials.

    Raises UserError when the folder holds another sweep (a grid may grow), or this one made by other code and
    neither `fresh` (set it aside) nor `reuse` (go on with its snapshot).
    """
    planned, configs = plan.checked_points(sweep)  # refused before anything is written
    hashes = DataHashes(sweep.script)
    for cfg in configs:  # data are made or decoded here once: the workers find them in the cache
        hashes.of(cfg)
    if fresh and folder.exists():
        _set_aside(folder)
    source = source_hash(sweep.script.family)
    kept = read_json(folder / CODE / SNAPSHOT)
    if kept and kept["source"] != source and not reuse:
        raise UserError(
            f"{folder} was started with other code ({kept['source']}, now {source}): --fresh sets it aside "
            "and starts anew, --reuse goes on with its own snapshot of the code"
        )
    frozen = folder / SWEEP
    if frozen.exists():
        _refuse_other(sweep, frozen, planned)
    if (folder / CONFIRM).exists() and plan.seed_refusal(sweep.content, sweep.script, 1):
        raise UserError(
            f"{folder}: --confirm runs its best trial with further seeds: a grid that varies "
            "seed needs another --name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _snapshot(folder, source)
    write_bytes(frozen, sweep.text.encode())
    queue = Queue(folder)
    if online:
        return queue
    (folder / TRIALS).mkdir(exist_ok=True)  # a folder that W&B directs has none
    hashes.keep(folder)
    for point in plan.points_of(sweep, [trial.flags for trial in queue.chosen()]):
        cfg = sweep.config(point)
        queue.add(point, sweep.script.key(cfg, hashes.of(cfg)))
    return queue


def _refuse_other(sweep: plan.Sweep, frozen: Path, planned: list[dict[str, Any]]) -> None:
    """Only a grid may change, and only grow; comments may change."""
    old = yaml.safe_load(frozen.read_text(encoding="utf-8"))
    if old == sweep.content:
        return
    rest = {k: v for k, v in old.items() if k != "parameters"}
    same_rest = rest == {k: v for k, v in sweep.content.items() if k != "parameters"}
    if same_rest and sweep.content["method"] == "grid":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
            if all(point in planned for point in points(old, [])):
                return
    old_lines = yaml.safe_dump(old, sort_keys=True).splitlines()
    new_lines = yaml.safe_dump(sweep.content, sort_keys=True).splitlines()
    difference = difflib.unified_diff(old_lines, new_lines, lineterm="", n=0)
    changed = [line for line in difference if not line.startswith(("---", "+++", "@"))]
    shown = "; ".join(" ".join(line.split()) for line in changed[:LISTED])
    raise UserError(
        f"{frozen.parent} holds another sweep ({shown}): a grid may grow; "
        "anything else needs another --name, or --fresh"
    )


def _snapshot(folder: Path, source: str) -> None:
    """Copy the code into the sweep folder, once: what the workers run, whatever is edited meanwhile."""
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
    write_json(tmp / SNAPSHOT, git_state() | {"source": source})
    try:
        tmp.rename(target)
    except OSError:  # another process was quicker
        if not target.exists():
            raise
        shutil.rmtree(tmp)


def _set_aside(folder: Path) -> None:
    """--fresh: give the old sweep folder another name, unless somebody is working in it."""
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
    """Refuse, before anything is written, what W&B could not direct. Raises UserError."""
    if (folder / TRIALS).exists() and not fresh:
        known = (folder / WANDB_SWEEP).exists()
        where = "it was uploaded" if known else "launch/upload.py brings it to W&B"
        raise UserError(f"{folder} holds a sweep begun without W&B ({where}): choose another --name")
    os.environ.pop("WANDB_MODE", None)  # --wandb=online was asked for
    import wandb

    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:  # the client raises many kinds when a server is down, slow or refuses
        raise UserError(f"--wandb=online: no W&B ({first_line(error)}); or --wandb=offline") from None
    if not logged_in:
        raise UserError("--wandb=online: not logged in; wandb login, or --wandb=offline")


def _wandb_sweep(flags: plan.SweepFlags, sweep: plan.Sweep, folder: Path) -> Queue:
    """Make (once) the W&B sweep of a sweep folder; its runs, as trials. Raises UserError when W&B refuses."""
    kept = read_json(folder / WANDB_SWEEP)
    if kept is None:
        import wandb

        content = sweep.content | {"name": folder.name, "command": agent.command_of(sweep.program)}
        project = flags.project or content.get("project") or RunFlags.project
        try:
            entity = flags.entity or content.get("entity") or wandb.Api().default_entity
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
