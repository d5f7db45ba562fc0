"""Reads a sweep YAML: applies --set, refuses mistakes in one line, lets the script check each point."""

import contextlib
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from data.names import closest, did_you_mean
from launch.sweep import bayes, command, early_stop, sweep_file
from launch.sweep.command import Command
from launch.sweep.points import Points
from launch.sweep.program import DataHashes, Program
from research.common.identity import ROOT
from research.common.messages import UserError, console, counted

MAX_SEED = 2**31 - 1
SHORT = {  # names that other projects give to these flags
    "lr": "learning_rate",
    "bs": "batch_size",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_steps": "steps",
    "random_seed": "seed",
    "z_dim": "latent_dim",
    "hidden_size": "hidden_dim",
    "num_layers": "n_layers",
    "wd": "weight_decay",
}
LONGEST = 600  # characters of a message, at most
SLOW = 20_000  # with more points than this, a line says that they are being checked
# flags of a run that a launcher sets for each trial, and the answer to a sweep that sets them itself
OWN = {
    "out": "the launcher's own --out says where the runs are",
    "name": "the launcher's own --name names the sweep's folder; its runs are named by their keys",
    "fresh": "each start of a trial would begin anew; the launcher's own --fresh moves the whole sweep aside",
    "reuse": "the launcher's own --reuse continues with the sweep's code",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """The flags of every launcher that runs a sweep."""

    HEADING = ("sweep", "which sweep, its folder, and how to continue it")

    sweep: str
    """the sweep's YAML file (--sweep= may be left out)"""
    out: str = "runs"
    """folder that holds the sweep folders; every machine that works on the sweep must see it"""
    name: str | None = None
    """name of the sweep's folder; default: the name of the YAML file, followed by a hash if --set is used"""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """--set flag=value (or 'flag=[value, value]'): set a parameter of the sweep; repeatable"""
    wandb: str | None = None
    """online: W&B directs the sweep; offline or disabled: the mode of each trial; default: as in the
    scripts"""
    project: str | None = None
    """W&B project; default: the sweep's own, else that of the scripts"""
    entity: str | None = None
    """W&B entity; default: the sweep's own, else yours"""
    retry: bool = False
    """also run failed trials again"""
    fresh: bool = False
    """move an existing folder of this sweep aside and start from the beginning"""
    reuse: bool = False
    """continue an existing sweep with its snapshot of the code, even if the code has changed since"""
    confirm: int | None = None
    """when all trials are done, run the best one again with this many new seeds"""

    def __post_init__(self):
        if self.confirm is not None and self.confirm < 1:
            raise UserError(f"--confirm={self.confirm}: must be at least 1")
        if self.confirm is not None and self.wandb == "online":
            raise UserError(
                f"--confirm={self.confirm}: not with --wandb=online, where W&B chooses the trials"
            )
        if self.wandb not in (None, "online", "offline", "disabled"):
            raise UserError(f"--wandb={self.wandb}: must be one of online, offline, disabled")
        for name in ("project", "entity"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise UserError(f"--{name}={getattr(self, name)}: must be a name, or left out")
        if self.name is not None and (self.name in ("", ".", "..") or "/" in self.name):
            raise UserError(f"--name={self.name}: must be a plain folder name; --out says where it is")


@dataclasses.dataclass(frozen=True)
class Given:
    """Points that a command gives one by one, instead of those of a sweep's method. words: the words of that
    command after `python`; running it again continues the sweep.
    """

    points: list[dict[str, Any]]
    words: list[str]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep YAML as it was read: its text (with the header), its content, its script, the command with
    which the script is run, and its points if they are given one by one.
    """

    path: Path
    text: str
    content: dict[str, Any]
    script: Program
    command: Command = command.PLAIN
    given: Given | None = None

    @property
    def program(self) -> str:
        """The script's file, relative to the root of the code."""
        return self.script.path

    @functools.cached_property
    def points(self) -> Points | list[dict[str, Any]]:
        """The points that the method gives before any trial is made; none for bayes, whose workers propose
        them.
        """
        if self.given is not None:
            return self.given.points
        if self.content["method"] == "bayes":
            return []
        try:
            return Points(self.content)
        except UserError as error:
            raise UserError(f"--sweep={self.path}: {error}") from None

    def flags(self, point: dict[str, Any]) -> dict[str, Any]:
        """All flags of the trial at a point: the literal ones of the command, and those of the point."""
        return self.command.literals | point

    def config(self, point: dict[str, Any]) -> Any:
        """The script's Config at a point, as the script's own parser makes it. Raises UserError."""
        try:
            return self.script.config(self.flags(point))
        except UserError as error:
            raise UserError(f"--sweep={self.path}: {error}") from None

    @functools.cached_property
    def survey(self) -> "Survey":
        """What the script says about the points; it goes through them once. Raises UserError for a refused
        point.

        bayes has no points before there are results, so there each flag is tried at its limits.
        """
        tried = _probes(self) if self.content["method"] == "bayes" else self.points
        found = Survey()
        if len(tried) > SLOW:
            console.print(f"checking {len(tried):,} points against {self.program}")
        for cfg in map(self.config, tried):
            data = str(self.script.data_flags(cfg))
            found.data.setdefault(data, cfg)
            found.headlines.setdefault(self.script.headline(cfg))
            if tried is self.points:
                found.different.add((self.script.fingerprint(cfg), data))
        return found


@dataclasses.dataclass
class Survey:
    """The points of a sweep as its script sees them.

    data: for each data set, one Config that names it; headlines: all of them, in order; different: a
    fingerprint of each different run.
    """

    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    headlines: dict[tuple[str, str] | None, None] = dataclasses.field(default_factory=dict)
    different: set[tuple[bytes, str]] = dataclasses.field(default_factory=set)

    def load(self, hashes: DataHashes) -> None:
        """Load each data set or find its hash, so that a missing one is reported before
        anything is written.
        """
        for cfg in self.data.values():
            hashes.of(cfg)

    def n_runs(self, hashes: DataHashes) -> int:
        """How many different runs there are: points may be equal, or differ only in flags that don't change
        numbers.
        """
        of = {data: hashes.of(cfg) for data, cfg in self.data.items()}
        return len({(flags, of[data]) for flags, data in self.different})


# ---- reading -------------------------------------------------------------------------------------------


def read(path: str, changes: tuple[str, ...] = (), online: bool = False, confirm: int | None = None) -> Sweep:
    """Read a W&B sweep YAML and apply `--set flag=value` to its parameters. Raises UserError, one line.

    online: W&B's server will direct the sweep, and check its own part; confirm: number of further seeds.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = sweep_file.load(text)
        names = []
        for change in changes:
            name, value = _parsed(change)
            if name in names:
                raise UserError(f"--set={change}: {name} is set twice")
            names.append(name)
            content.setdefault("parameters", {})
            if isinstance(content["parameters"], dict):  # else it is refused below
                content["parameters"][name] = (
                    {"values": value} if isinstance(value, list) else {"value": value}
                )
        script = _script(content, online)
        refused = refusal(content, script, online, confirm)
        if refused:
            raise UserError(refused)
        sweep = Sweep(
            Path(path),
            _changed_text(path, text, content, changes) if changes else text,
            content,
            script,
            command.of_sweep(content, script),
        )
    except OSError as error:
        raise UserError(f"--sweep={path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--sweep={path}: not readable as YAML ({error})") from None
    except UserError as error:
        why = str(error)
        if len(why) > LONGEST:  # a value of thousands of characters
            why = f"{why[: LONGEST // 2]} ... {why[-LONGEST // 2 :]}"
        raise UserError(why if why.startswith("--set=") else f"--sweep={path}: {why}") from None
    if "metric" in content:
        _refuse_metric(sweep, confirm)
    return sweep


def _parsed(change: str) -> tuple[str, Any]:
    """The flag and the value that one --set gives."""
    name, equals, value = change.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set={change}: written as --set flag=value, or --set 'flag=[value, value]'")
    try:
        return name.strip(), yaml.load(value, sweep_file.StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError, UserError):
        raise UserError(f"--set={change}: its value is not readable as YAML") from None


def _changed_text(path: str, text: str, content: dict[str, Any], changes: tuple[str, ...]) -> str:
    """The YAML of a sweep that --set has changed.

    Of the header only the question still applies: the first paragraph, up to the next labelled line.
    """
    changed = ", ".join(" ".join(change.split()) for change in changes)
    note = f"# Changed   {changed}: what {path} says of size and findings does not apply here\n"
    return _question(text) + note + yaml.safe_dump(content, sort_keys=False)


def _question(text: str) -> str:
    """The first paragraph of a YAML's header."""
    found = re.match(r"#.*\n(?:#(?! \w+  ).*\n)*", text)
    return found[0] if found else ""


def at_points(sweep: Sweep, given: Given, note: str) -> Sweep:
    """The sweep with only the given points. Each of them is trained to its end, even if the sweep itself
    stops trials early. note: where the points come from, for the header of the new YAML.
    """
    parameters = {}
    for name in dict.fromkeys([*sweep.content["parameters"], *(n for p in given.points for n in p)]):
        values = {json.dumps(point[name]): point[name] for point in given.points}
        one = len(values) == 1
        parameters[name] = {"value": next(iter(values.values()))} if one else {"values": [*values.values()]}
    kept = {k: v for k, v in sweep.content.items() if k not in ("early_terminate", "run_cap")}
    content = kept | {"method": "grid", "parameters": parameters}
    text = f"{_question(sweep.text)}# Points    {note}\n{yaml.safe_dump(content, sort_keys=False)}"
    return dataclasses.replace(sweep, text=text, content=content, given=given)


# ---- what is refused -----------------------------------------------------------------------------------


def _script(content: dict[str, Any], online: bool) -> Program:
    """The script that a sweep's program names. Raises UserError, first for mistakes that can be found without
    a script.
    """
    if why := sweep_file.refusal(content, online):
        raise UserError(why)
    program = content.get("program")
    script = Program.found(program)
    if script is None or not script.is_training_script():
        scripts = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "research").glob("*.py"))]
        near = did_you_mean(closest(scripts, str(program), f"research/{program}"))
        why = near or ", as research/bvae_faces.py is"
        raise UserError(f"program: {program} is not a training script of this repository{why}")
    return script


def refusal(content: dict[str, Any], script: Program, online: bool, confirm: int | None) -> str | None:
    """Why a sweep with valid keys can't be run as requested, in words; None if it can."""
    for name, given in content["parameters"].items():
        if why := flag_refusal(name, given, script):
            return f"parameter {name}{why}"
    literals = command.of_sweep(content, script).literals
    for name, value in literals.items():
        if why := flag_refusal(name, {"value": value}, script):
            return f"command: --{name}{why}"
    for name in ("project", "entity"):
        given = content["parameters"].get(name) or ({"value": literals[name]} if name in literals else None)
        if name in content and given is not None and given.get("value") != content[name]:
            return f"{name}: {content[name]}, but its trials are also given another: give one of the two"
    if why := seed_refusal(content, script, confirm):
        return why
    needs = f"--confirm={confirm}" if confirm else None
    if content["method"] == "bayes":
        needs = "a bayes sweep"
    elif "early_terminate" in content:
        needs = "early_terminate"
    if needs and "metric" not in content:
        headline, goal = script.headline(script.module.Config()) or ("val/mse", "minimize")
        return f"{needs} needs metric, as in metric: {{name: {headline}_best, goal: {goal}}}"
    if not online and "early_terminate" in content and (why := early_stop.refusal(content)):
        return why
    if not online and content["method"] == "bayes" and (why := bayes.refusal(content)):
        return why
    return None


def flag_refusal(name: str, given: dict[str, Any], script: Program) -> str | None:
    """Why a sweep can't give this parameter to the script, as words that follow its name; None if it can."""
    if name not in script.flags:
        meant = SHORT.get(name.lower())
        near = did_you_mean(meant if meant in script.flags else closest(script.flags, name))
        return f" is not a flag of {script.path}{near or f'; python {script.path} --help lists them'}"
    if name in OWN:
        return f": {OWN[name]}"
    if name == "task" and given != {"value": "train"}:
        return ": a sweep's trials only train; run tasks on their checkpoints afterwards"
    return None


def seed_refusal(content: dict[str, Any], script: Program, confirm: int | None) -> str | None:
    """Why the sweep's seeds do not suit its method or --confirm, in words; None if they do."""
    literal = command.of_sweep(content, script).literals.get("seed", script.default("seed"))
    given = content["parameters"].get("seed", {"value": literal})
    values = [given["value"]] if "value" in given else given.get("values", ())
    if len(values) != 1:
        if content["method"] == "bayes":
            return (
                "parameter seed: a bayes sweep needs one value, else it looks for the luckiest seed; "
                "--confirm=3 runs the best trial with 3 more"
            )
        return f"--confirm={confirm}: the sweep varies seed itself" if confirm else None
    with contextlib.suppress(ValueError, TypeError):  # if it is not a number, the script's parser refuses it
        if confirm and int(values[0]) + confirm > MAX_SEED:
            return f"--confirm={confirm}: seed {values[0]} and {confirm} more: must be at most {MAX_SEED}"
    return None


def _refuse_metric(sweep: Sweep, confirm: int | None) -> None:
    """Raise UserError for a metric if it is certain that no run logs it, or that it comes too late.

    Every script logs its headline on the validation part, and a running best only of that. Figures of the
    test part are logged once, at the end, which is too late for decisions while runs train. Which other
    figures there are under train/, val/ and test/, only a run can show: see `Proposer.blind`. If the runs of
    a sweep are judged by different figures, the metric may be any of them.
    """
    name = sweep.content["metric"]["name"]
    decides = confirm or sweep.content["method"] == "bayes" or "early_terminate" in sweep.content
    part, _, figure = name.partition("/")
    parts = ("train", "val") if decides else ("train", "val", "test")
    headlines = sweep.survey.headlines
    if not headlines or None in headlines:  # the script does not name its headline
        return
    goals = {goal for headline, goal in headlines if name in (headline, f"{headline}_best")}
    given = sweep.content["metric"].get("goal")
    if goals and (given or "minimize") not in goals:
        of_wandb = "" if given else " is W&B's where none is given"
        raise UserError(
            f"--sweep={sweep.path}: metric: goal: {given or 'minimize'}{of_wandb}, but {sweep.program} is "
            f"judged by {name} the other way round: write goal: {' or '.join(goals)}"
        )
    if goals or (part in parts and figure and not figure.endswith("_best")):
        return
    known = " or ".join(f"{headline}_best" for headline, _ in headlines)
    raise UserError(
        f"--sweep={sweep.path}: metric: {sweep.program} logs no {name}; its headline is {known}; "
        f"other figures that it logs as {' or '.join(f'{part}/...' for part in parts)} may stand there too"
    )


def _probes(sweep: Sweep) -> list[dict[str, Any]]:
    from jsonschema import ValidationError

    try:
        return bayes.probes(sweep.content["parameters"])
    except (ValueError, TypeError, ValidationError) as error:  # only online; otherwise `read` has checked it
        raise UserError(f"--sweep={sweep.path}: {' '.join(str(error).split())}") from None


# ---- what is said --------------------------------------------------------------------------------------


def notes(sweep: Sweep, n_runs: int) -> list[str]:
    """What may surprise a reader of the YAML, a line each. n_runs: how many different runs there are."""
    content, n = sweep.content, len(sweep.points)
    found = sweep_file.notes(content["parameters"], content["method"])
    if n_runs >= n:
        return found
    runs = counted(n_runs, "different run")
    distinct = sweep.points.distinct
    if content["method"] == "grid":
        why = "the others repeat them, or differ only in flags that change no numbers"
        found.append(f"its {n} points give {runs}: {why}")
    else:
        there_are = "" if distinct is None else f": the parameters allow {distinct} different points"
        found.append(f"run_cap {content['run_cap']}: its draws give {runs}{there_are}; none is run twice")
    return found


def with_place(flags: SweepFlags, sweep: Sweep) -> SweepFlags:
    """`flags` with the sweep's own project and entity if the command line gives none.

    Raises UserError if a trial's own flags contradict the command line.
    """
    for name in ("wandb", "project", "entity"):
        given = sweep.content["parameters"].get(name)
        if given is None and name in sweep.command.literals:
            given = {"value": sweep.command.literals[name]}
        said = getattr(flags, name)
        if said is not None and given is not None and given.get("value") != said:
            own = given.get("value", given.get("values"))
            raise UserError(
                f"--{name}={said}: but the sweep's trials are given --{name}={own}: give one of the two"
            )
    place = {name: sweep.content.get(name) for name in ("project", "entity")}
    missing = {k: v for k, v in place.items() if v is not None and getattr(flags, k) is None}
    return dataclasses.replace(flags, **missing)


def extra_flags(flags: SweepFlags) -> list[str]:
    """The flags that a launcher adds to every trial, after the trial's own."""
    given = {name: getattr(flags, name) for name in ("wandb", "project", "entity")}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]
