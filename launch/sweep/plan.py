"""A sweep YAML as it is read: changed by --set, refused in one line, each of its points through the flags."""

import contextlib
import dataclasses
import functools
import re
import warnings
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from data.names import closest, did_you_mean
from launch.sweep import bayes, early_stop
from launch.sweep.history import metric_refusal
from launch.sweep.points import as_args, points
from launch.sweep.program import Program
from research.common.messages import UserError

METHODS = ("grid", "random", "bayes")
MAX_SEED = 2**31 - 1


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
    """A sweep YAML as read: its text (with the header), its content, and the script that it runs."""

    path: Path
    text: str
    content: dict[str, Any]
    script: Program
    _configs: dict[tuple[str, ...], Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def planned(self) -> list[dict[str, Any]]:
        """Its points before any trial is made; W&B's engine is asked once, since it takes its time."""
        return points_of(self, [])

    @property
    def program(self) -> str:
        """The script's file, relative to the root of the code."""
        return self.script.path

    def config(self, flags: dict[str, Any]) -> Any:
        """The script's Config at one point, through its real parser. Raises UserError.

        It is kept: parsing takes some 20 ms, and a large grid is asked for more than once.
        """
        args = tuple(as_args(flags))
        if args not in self._configs:
            try:
                self._configs[args] = self.script.config(flags)
            except UserError as error:
                raise UserError(f"--sweep={self.path}: {error}") from None
        return self._configs[args]


# ---- reading -------------------------------------------------------------------------------------------


def read(path: str, changes: tuple[str, ...] = (), online: bool = False, confirm: int | None = None) -> Sweep:
    """Read a W&B sweep YAML and apply `--set flag=value` to its parameters. Raises UserError, one line.

    online: W&B's server will direct the sweep, and check what concerns it; confirm: seeds asked for on top.
    """
    text, content = _load(path)
    for change in changes:
        name, value = _parsed(change)
        content["parameters"][name] = {"values": value} if isinstance(value, list) else {"value": value}
    _refuse(path, content, online, confirm)
    if changes:
        text = _changed_text(path, text, content, changes)
    sweep = Sweep(Path(path), text, content, Program(content["program"]))
    if confirm or (not online and (content["method"] == "bayes" or "early_terminate" in content)):
        _refuse_metric(sweep)
    return sweep


def _load(path: str) -> tuple[str, dict[str, Any]]:
    """A sweep YAML: its text and its content."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"--sweep={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--sweep={path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise UserError(f"--sweep={path}: not a W&B sweep; it needs program, method and parameters")
    return text, content


def _parsed(change: str) -> tuple[str, Any]:
    """The flag and the value that one --set gives."""
    name, equals, value = change.partition("=")
    if not equals:
        raise UserError(f"--set={change}: written as --set flag=value, or --set 'flag=[value, value]'")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set={change}: its value is not readable as YAML") from None


def _changed_text(path: str, text: str, content: dict[str, Any], changes: tuple[str, ...]) -> str:
    """The YAML of a sweep that --set has changed.

    Of its header only the question still holds: the first paragraph, up to the next labelled line.
    """
    question = re.match(r"#.*\n(?:#(?! \w+  ).*\n)*", text)
    note = f"# Changed   {', '.join(changes)}: what {path} tells of size and findings does not hold here\n"
    return (question[0] if question else "") + note + yaml.safe_dump(content, sort_keys=False)


# ---- what is refused -----------------------------------------------------------------------------------


def _refuse(path: str, content: dict[str, Any], online: bool = False, confirm: int | None = None) -> None:
    """Raise UserError, one line, for a sweep that can't be run as it is asked for.

    The script is imported, which takes seconds, only for a YAML that is otherwise whole.
    """
    program = content.get("program")
    script = Program(program) if isinstance(program, str) else None
    no_script = f"--sweep={path}: program: {program} is no script like research/bvae_faces.py"
    if script is None or not script.is_file():
        raise UserError(no_script)
    if content.get("method") not in METHODS:
        raise UserError(
            f"--sweep={path}: method: {content.get('method')} is not run here; allowed: {', '.join(METHODS)}"
        )
    method, cap = content["method"], content.get("run_cap")
    if method != "grid" and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"--sweep={path}: a {method} sweep needs run_cap, the number of its trials")
    if not script.is_training_script():
        raise UserError(no_script)
    for name, given in content["parameters"].items():
        if why := _parameter_refusal(name, given, script):
            raise UserError(f"--sweep={path}: parameter {name}{why}")
    if why := seed_refusal(content, script, confirm):
        raise UserError(f"--sweep={path}: {why}")
    if not online and "early_terminate" in content and (why := early_stop.refusal(content)):
        raise UserError(f"--sweep={path}: {why}")
    if not online and method == "bayes" and (why := bayes.refusal(content)):
        raise UserError(f"--sweep={path}: {why}")
    if confirm and (why := metric_refusal(content, f"--confirm={confirm}")):
        raise UserError(f"--sweep={path}: {why}")


def _parameter_refusal(name: str, given: Any, script: Program) -> str | None:
    """Why a parameter is none that the script can be given, as words that follow its name; None if it is."""
    if name not in script.flags:
        return f" is no flag of {script.path}{did_you_mean(closest(script.flags, str(name)))}"
    if not isinstance(given, dict):
        return f": {given}: written as {name}: {{value: {given}}}"
    if "values" in given and not (isinstance(given["values"], list) and given["values"]):
        return f": values: {given['values']}: must be a list of at least one value"
    return None


def seed_refusal(content: dict[str, Any], script: Program, confirm: int | None) -> str | None:
    """Why the sweep's seeds are not as its method, or --confirm, needs them; None when they are."""
    given = content["parameters"].get("seed", {"value": script.default("seed")})
    values = [given["value"]] if "value" in given else given.get("values", ())
    if len(values) != 1:
        if content["method"] == "bayes":
            return (
                "parameter seed: a bayes sweep needs one value, else it looks for the luckiest seed; "
                "--confirm=3 runs the best trial with 3 more"
            )
        return f"--confirm={confirm}: the sweep varies seed itself" if confirm else None
    with contextlib.suppress(ValueError, TypeError):  # no number: the script's parser refuses it
        if confirm and int(values[0]) + confirm > MAX_SEED:
            return f"--confirm={confirm}: seed {values[0]} and {confirm} more: must be at most {MAX_SEED}"
    return None


def _refuse_metric(sweep: Sweep) -> None:
    """Raise UserError for a metric of which it is known that no run logs it while it trains.

    Every script logs its headline on the validation part, and of that alone a running best; figures of the
    test part come once, at the end. What else there is below train/ and val/, only a run can tell: see
    `Proposer.blind`. A sweep may vary what its runs are judged by: one of them is enough.
    """
    name = sweep.content["metric"]["name"]
    part, _, figure = name.partition("/")
    if part in ("train", "val") and figure and not figure.endswith("_best"):
        return
    _, configs = checked_points(sweep)
    headlines = dict.fromkeys(sweep.script.headline(cfg) for cfg in configs)
    if not headlines or None in headlines:  # a script that does not say
        return
    if any(name in (headline, f"{headline}_best") for headline in headlines):
        return
    known = " or ".join(f"{headline}_best" for headline in headlines)
    raise UserError(
        f"--sweep={sweep.path}: metric: {sweep.program} logs no {name}; its headline is {known}; "
        "other figures that it logs as train/... or val/... may stand there too"
    )


# ---- points --------------------------------------------------------------------------------------------


def checked_points(sweep: Sweep) -> tuple[list[dict[str, Any]], list[Any]]:
    """The sweep's points, each through the script's parser, and the Configs that come of them.

    bayes has no points before there are results: there the Configs are those of each flag's limits.
    """
    planned = sweep.planned
    tried = _probes(sweep) if sweep.content["method"] == "bayes" else planned
    return planned, [sweep.config(point) for point in tried]


def points_of(sweep: Sweep, taken: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points to be made now, those in `taken` left out; none for bayes, whose workers propose them."""
    from jsonschema import ValidationError  # comes with W&B's engine, which raises it

    if sweep.content["method"] == "bayes":
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        try:
            return list(points(sweep.content, taken))
        except (ValueError, TypeError, KeyError, ValidationError) as error:
            why = " ".join(str(getattr(error, "message", error)).split())
            raise UserError(f"--sweep={sweep.path}: refused by W&B's engine: {why}") from None


def _probes(sweep: Sweep) -> list[dict[str, Any]]:
    from jsonschema import ValidationError

    try:
        return bayes.probes(sweep.content["parameters"])
    except (ValueError, TypeError, ValidationError) as error:  # only online: else `read` has asked the engine
        raise UserError(f"--sweep={sweep.path}: {' '.join(str(error).split())}") from None


def runs_of(sweep: Sweep, points: list[dict[str, Any]]) -> set[str]:
    """What tells the runs of these points apart, without a look at the data: one for each trial."""
    configs = [sweep.config(point) for point in points]
    return {sweep.script.key(cfg, str(sweep.script.data_flags(cfg))) for cfg in configs}
