"""From a sweep YAML to a sweep folder: read, check every point against the flags, freeze, snapshot."""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import os
import re
import shutil
import time
import typing
import warnings
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
import yaml
from jsonschema import ValidationError  # comes with W&B's engine, which raises it

from launch.sweep import bayes, early_stop
from launch.sweep.history import metric_refusal
from launch.sweep.points import as_args, points
from launch.sweep.proposer import CONFIRM, keep_data_hashes
from launch.sweep.queue import Queue
from research.common import identity
from research.common import lease as leases
from research.common.commandline import parse
from research.common.folder import CODE, SNAPSHOT, SWEEP, TRIALS, read_json, write_bytes, write_json
from research.common.identity import run_key
from research.common.messages import UserError, console, escape

COPIED = ("research", "data", "launch")
LISTED = 20  # a refusal shows at most so many lines of a changed YAML


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """The flags of every launcher that runs a sweep."""

    HEADING = ("sweep", "which sweep, where it lies, and how to go on with it")

    sweep: str
    """the sweep's YAML file (may stand without --sweep=)"""
    out: str = "runs"
    """folder that holds the sweep folders; every machine that works on it must see it"""
    name: str | None = None
    """name of the sweep's folder; default: that of the YAML file, with --set also a hash"""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """--set flag=value (or 'flag=[value, value]'): set a parameter of the sweep; repeatable"""
    wandb: str | None = None
    """online: W&B directs the sweep; offline or disabled: for each trial; default as in the scripts"""
    project: str | None = None
    """W&B project; default: the sweep's own, else that of the scripts"""
    entity: str | None = None
    """W&B entity; default: the sweep's own, else yours"""
    retry: bool = False
    """also run again the trials that failed"""
    fresh: bool = False
    """set an existing folder of this sweep aside and start anew"""
    reuse: bool = False
    """go on with an existing sweep's snapshot of the code although the code has changed since"""
    confirm: int | None = None
    """when all trials are done, run the best one again with so many further seeds"""

    def __post_init__(self):
        if self.confirm is not None and self.confirm < 1:
            raise UserError(f"--confirm={self.confirm}: must be at least 1")
        if self.confirm is not None and self.wandb == "online":
            raise UserError(
                f"--confirm={self.confirm}: not with --wandb=online, where W&B chooses the trials"
            )
        if self.wandb not in (None, "online", "offline", "disabled"):
            raise UserError(f"--wandb={self.wandb}: must be one of online, offline, disabled")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep YAML as read: its text (with the header), its content, and the script's module."""

    path: Path
    text: str
    content: dict[str, Any]
    module: ModuleType

    @property
    def program(self) -> str:
        return self.content["program"]

    @property
    def family(self) -> str:
        return Path(self.program).stem


def read(path: str, changes: tuple[str, ...] = (), online: bool = False, confirm: int | None = None) -> Sweep:
    """Read a W&B sweep YAML and apply `--set flag=value` to its parameters. Raises UserError, one line.

    online: W&B's server will direct the sweep, and check what concerns it; confirm: seeds asked for on top.
    """
    try:
        text = Path(path).read_text()
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"--sweep={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--sweep={path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise UserError(f"--sweep={path}: not a W&B sweep; it needs program, method and parameters")
    program = content.get("program")
    if not isinstance(program, str) or not (identity.ROOT / program).is_file():
        raise UserError(f"--sweep={path}: program: {program} is no script like research/bvae_faces.py")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise UserError(f"--sweep={path}: method: {method} is not run here; allowed: grid, random, bayes")
    cap = content.get("run_cap")
    if method != "grid" and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"--sweep={path}: a {method} sweep needs run_cap, the number of its trials")
    module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
    if not hasattr(module, "Config"):
        raise UserError(f"--sweep={path}: program: {program} is no script like research/bvae_faces.py")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--set={change}: written as --set flag=value, or --set 'flag=[value, value]'")
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set={change}: its value is not readable as YAML") from None
        content["parameters"][name] = {"values": value} if isinstance(value, list) else {"value": value}
    flags = typing.get_type_hints(module.Config)
    for name, given in content["parameters"].items():
        if name not in flags:
            near = difflib.get_close_matches(str(name), flags, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"--sweep={path}: parameter {name} is no flag of {program}{hint}")
        if not isinstance(given, dict):
            told = f"{given}: written as {name}: {{value: {given}}}"
            raise UserError(f"--sweep={path}: parameter {name}: {told}")
        if "values" in given and not (isinstance(given["values"], list) and given["values"]):
            told = f"values: {given['values']}: must be a list of at least one value"
            raise UserError(f"--sweep={path}: parameter {name}: {told}")
    why = _seed_refusal(content, module, confirm)
    if not online and "early_terminate" in content:
        why = why or early_stop.refusal(content) or _unlogged(content, module)
    if not online and method == "bayes":
        why = why or bayes.refusal(content) or _unlogged(content, module)
    if confirm:
        why = why or metric_refusal(content, f"--confirm={confirm}") or _unlogged(content, module)
    if why:
        raise UserError(f"--sweep={path}: {why}")
    if changes:
        # of the header only the question still holds: its first paragraph, up to the next labelled line
        question = re.match(r"#.*\n(?:#(?! \w+  ).*\n)*", text)
        note = (
            f"# Changed   {', '.join(changes)}: what {path} tells of size and findings does not hold here\n"
        )
        text = (question[0] if question else "") + note + yaml.safe_dump(content, sort_keys=False)
    return Sweep(Path(path), text, content, module)


def _seed_refusal(content: dict[str, Any], module: ModuleType, confirm: int | None) -> str | None:
    """Why the sweep's seeds are not as its method, or --confirm, needs them; None when they are."""
    given = content["parameters"].get("seed", {"value": getattr(module.Config, "seed", 0)})
    values = [given["value"]] if "value" in given else given.get("values", ())
    if len(values) != 1:
        if content["method"] == "bayes":
            return (
                "parameter seed: a bayes sweep needs one value, else it looks for the luckiest seed; "
                "--confirm=3 runs the best trial with 3 more"
            )
        return f"--confirm={confirm}: the sweep varies seed itself" if confirm else None
    with contextlib.suppress(ValueError, TypeError):  # no number: the script's parser refuses it
        if confirm and int(values[0]) + confirm >= 2**31:
            return f"--confirm={confirm}: seed {values[0]} and {confirm} more: must be at most {2**31 - 1}"
    return None


def _unlogged(content: dict[str, Any], module: ModuleType) -> str | None:
    """Why the script can't be logging the sweep's metric; None when its code may name it: whether it does log
    it, only a run can tell (Proposer.blind).
    """
    name, program = content["metric"]["name"], content["program"]
    headline = re.search(r'headline="([^"]+)"', inspect.getsource(module))
    if headline is None or name in (headline[1], f"{headline[1]}_best"):
        return None
    part, _, last = name.partition("/")
    word = re.compile(rf"\b{re.escape(last)}\b")
    sources = identity.source_files(Path(program).stem)
    plain = part in ("train", "val") and last and not last.endswith("_best")
    if plain and any(word.search(path.read_text()) for path in sources):
        return None
    return f"metric: {program} logs no {name}; its headline is {headline[1]}_best"


def flags_of(sweep: Sweep, flags: dict[str, Any]) -> Any:
    """The script's Config at one point, through its real parser. Raises UserError."""
    try:
        return parse(sweep.module.Config, as_args(flags))
    except UserError as error:
        raise UserError(f"--sweep={sweep.path}: {error}") from None


def freeze(sweep: Sweep, folder: Path, fresh: bool, reuse: bool, online: bool = False) -> Queue:
    """Make or find the sweep folder of `sweep`, with its snapshot and (unless `online` or bayes) its trials.

    Raises UserError when the folder holds another sweep (a grid may grow), or this one made by other code and
    neither `fresh` (set it aside) nor `reuse` (go on with its snapshot).
    """
    planned, configs = checked_points(sweep)  # refused before anything is written
    # made or decoded here once, so that the workers find it in the cache
    by_data = {data_flags(sweep.module, cfg): cfg for cfg in configs}
    data_hashes = {key: sweep.module.load_data(cfg).content_hash for key, cfg in by_data.items()}
    if fresh and folder.exists():
        _set_aside(folder)
    source = identity.source_hash(sweep.family)
    kept = read_json(folder / CODE / SNAPSHOT)
    if kept and kept["source"] != source and not reuse:
        raise UserError(
            f"{folder} was started with other code ({kept['source']}, now {source}): --fresh sets it aside "
            "and starts anew, --reuse goes on with its own snapshot of the code"
        )
    frozen = folder / SWEEP
    if frozen.exists():
        _refuse_other(sweep, frozen, planned)
    if (folder / CONFIRM).exists() and _seed_refusal(sweep.content, sweep.module, 1):
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
    keep_data_hashes(folder, data_hashes)
    for point in points_of(sweep, [trial.flags for trial in queue.chosen()]):
        cfg = flags_of(sweep, point)
        data_hash = data_hashes[data_flags(sweep.module, cfg)]
        queue.add(point, run_key(sweep.family, sweep.module.KEY_VERSION, cfg, data_hash))
    return queue


def checked_points(sweep: Sweep) -> tuple[list[dict[str, Any]], list[Any]]:
    """The sweep's points, each through the script's parser, and the Configs that come of them.

    bayes has no points before there are results: there the Configs are those of each flag's limits.
    """
    tried = planned = points_of(sweep, [])
    if sweep.content["method"] == "bayes":
        try:
            tried = bayes.probes(sweep.content["parameters"])
        except (
            ValueError,
            TypeError,
            ValidationError,
        ) as error:  # not met offline: `read` has asked the engine
            raise UserError(f"--sweep={sweep.path}: {' '.join(str(error).split())}") from None
    return planned, [flags_of(sweep, point) for point in tried]


def points_of(sweep: Sweep, taken: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points to be made now, those in `taken` left out; none for bayes, whose workers propose them."""
    if sweep.content["method"] == "bayes":
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        try:
            return list(points(sweep.content, taken))
        except (ValueError, TypeError, KeyError, ValidationError) as error:
            why = " ".join(str(getattr(error, "message", error)).split())
            raise UserError(f"--sweep={sweep.path}: refused by W&B's engine: {why}") from None


def runs_of(sweep: Sweep, points: list[dict[str, Any]]) -> set[str]:
    """What tells the runs of these points apart, without a look at the data: one for each trial."""
    family, version, found = sweep.family, sweep.module.KEY_VERSION, set()
    for cfg in (flags_of(sweep, point) for point in points):
        found.add(run_key(family, version, cfg, str(data_flags(sweep.module, cfg))))
    return found


def data_flags(module: Any, cfg: Any) -> tuple[Any, ...]:
    """The flags of `cfg` on which the data of the script depend: where they are equal, so are the data."""
    return tuple(getattr(cfg, name) for name in module.DATA_FLAGS)


def _refuse_other(sweep: Sweep, frozen: Path, planned: list[dict[str, Any]]) -> None:
    """Only a grid may change, and only grow; comments may change."""
    old = yaml.safe_load(frozen.read_text())
    if old == sweep.content:
        return
    rest = {k: v for k, v in old.items() if k != "parameters"}
    same_rest = rest == {k: v for k, v in sweep.content.items() if k != "parameters"}
    if same_rest and sweep.content["method"] == "grid":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if all(point in planned for point in points(old, [])):
                return
    old_text, new_text = (yaml.safe_dump(c, sort_keys=True).splitlines() for c in (old, sweep.content))
    lines = [
        x
        for x in difflib.unified_diff(old_text, new_text, lineterm="", n=0)
        if not x.startswith(("---", "+++", "@"))
    ]
    shown = "; ".join(" ".join(line.split()) for line in lines[:LISTED])
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
        for path in (identity.ROOT / name).rglob("*"):
            relative = path.relative_to(identity.ROOT)
            if (
                path.suffix in (".py", ".j2")
                and "__pycache__" not in relative.parts
                and "store" not in relative.parts
            ):
                (tmp / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, tmp / relative)
    write_json(tmp / SNAPSHOT, identity.git_state() | {"source": source})
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
