"""The rows of committed results as trials that can be run again: sweeps/results/NAME.csv beside its YAML.

The YAML says what all rows have in common. The CSV says which flags each row had, whatever chose them: a
grid, random draws, bayes, or --confirm.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.names import closest, did_you_mean
from launch.results.read import COLUMNS, ORIGIN, Run
from launch.results.repetition import Row
from launch.results.values import show
from launch.sweep import plan, sweep_file
from research.common.flags import result_flags
from research.common.folder import COMPLETE
from research.common.messages import UserError, counted

FOLDER = "results"  # beside the sweep files
LISTED = 6  # values of a parameter that a refusal lists, at most


@dataclass(frozen=True)
class Table:
    """Committed results of a sweep. flags, figures: its columns; rows: as they are written; points: for each
    row its parameters, as the YAML sets them; configs: for each row the script's own Config.
    """

    path: Path
    sweep: plan.Sweep
    flags: list[str]
    figures: list[str]
    rows: list[Row]
    points: list[dict[str, Any]]
    configs: list[Any]

    def repeatable(self) -> list[int]:
        """The indices of the rows that can be run again: those that finished or diverged.

        The CSV does not say at which step a run was stopped, and a failure says nothing about the code.
        """
        return [i for i, row in enumerate(self.rows) if row.status in COMPLETE]

    def left_out(self) -> str:
        """A sentence about the rows that can't be run again, and why; '' if all can."""
        states = Counter(row.status for row in self.rows if row.status not in COMPLETE)
        if not states:
            return ""
        listed = ", ".join(f"{n} {state}" for state, n in states.items())
        rows = counted(states.total(), "row")
        return f"{rows} can't be run again ({listed}): it is not known at which step they ended"


def default_path(sweep: plan.Sweep) -> Path:
    """The file with the committed results of a sweep."""
    return sweep.path.parent / FOLDER / f"{sweep.path.stem}.csv"


# ---- reading -------------------------------------------------------------------------------------------


def read(sweep: plan.Sweep, path: Path | None = None) -> Table:
    """The committed results of a sweep, with each row checked against its YAML. Raises UserError, in one
    line.

    path: the CSV; by default `default_path`.
    """
    given, path = path, path or default_path(sweep)
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except FileNotFoundError:
        if given is not None:
            raise UserError(f"--csv={path}: no such file") from None
        raise UserError(
            f"no results were committed for {sweep.path}: there is no {path}; --csv=FILE names another"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read as a table ({why})") from None
    header, cells = (lines[0] if lines else []), lines[1:]
    if header.count("status") != 1 or len(set(header)) < len(header):
        why = "these have one column named status, after the flags"
        raise UserError(f"{path}: not the results of a sweep: {why}")
    for line, row in enumerate(cells, 2):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, but there are {len(header)} columns")
    at = header.index("status")
    columns, figures = header[:at], [name for name in header[at + 1 :] if name not in ORIGIN]
    flags = [_flag_of(name) for name in columns]
    if not cells or not figures:
        raise UserError(f"{path}: holds no {'figures' if cells else 'runs'}")
    _refuse_columns(path, sweep, flags)
    rows, points, configs = [], [], []
    for line, values in enumerate(cells, 2):
        row = dict(zip(header, values))
        written = {flag: row[column] for flag, column in zip(flags, columns)}
        point, cfg = _point(f"{path}, line {line}", sweep, written)
        points.append(point)
        configs.append(cfg)
        shown = [(flag, _short(value)) for flag, value in written.items()]
        label = " ".join(f"{flag}={value}" for flag, value in shown) or f"line {line}"
        setting = tuple((flag, value) for flag, value in written.items() if flag != "seed")
        texts = {name: row[name].strip() for name in figures}
        rows.append(
            Row(line, label, setting, row["status"], texts, row.get("commit", ""), row.get("machine", ""))
        )
    _refuse_equal(path, sweep, configs)
    return Table(path, sweep, flags, figures, rows, points, configs)


def _flag_of(column: str) -> str:
    """The flag of a CSV's column, which is --steps if a table has a column steps of its own."""
    name = column.removeprefix("--")
    return name if name in COLUMNS else column


def _short(text: str) -> str:
    """A flag's value as in a label, with at most 6 digits."""
    number = sweep_file.as_number(text)
    return text if number is None or re.fullmatch(r"-?\d+", text) else show(number, 6)


def _refuse_columns(path: Path, sweep: plan.Sweep, flags: list[str]) -> None:
    """Raise UserError for a column that is not a flag of the script, and for a flag that the YAML varies and
    that has no column.
    """
    for name in flags:
        if name not in sweep.script.flags:
            near = did_you_mean(closest(sweep.script.flags, name))
            raise UserError(f"{path}: column {name} is not a flag of {sweep.program}{near}")
    for name in sweep_file.searched(sweep.content["parameters"]):
        if name not in flags:
            raise UserError(
                f"{path}: has no column {name}, which {sweep.path} varies: it is of another sweep"
            )


def _point(where: str, sweep: plan.Sweep, written: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """A row's parameters and Config. Raises UserError if the YAML could not have given them."""
    point = {}
    for name, given in sweep.content["parameters"].items():
        values = [given["value"]] if "value" in given else given.get("values")
        if name not in written:
            point[name] = values[0]
        elif name == "seed" and values is not None and len(values) == 1:
            point[name] = _seed(where, written[name])  # --confirm runs other seeds than the YAML's
        else:
            point[name] = _value(where, name, given, written[name], sweep)
    literals = sweep.command.literals
    if "seed" in written and "seed" not in point:
        point["seed"] = _seed(where, written["seed"])
    if "seed" in point and "seed" in literals:
        if str(point["seed"]) != literals["seed"]:
            given = f"the command of {sweep.path} sets --seed={literals['seed']}"
            raise UserError(f"{where}: seed is {point['seed']}, but {given}")
        del point["seed"]
    try:
        cfg = sweep.script.config(sweep.flags(point))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for name, text in written.items():
        derived = name == "steps" and cfg.epochs is not None  # it depends on the data
        if not derived and show(_as_json(getattr(cfg, name))) != text:
            made = show(_as_json(getattr(cfg, name)))
            raise UserError(f"{where}: {name} is {text}, but {sweep.path} makes it {made}")
    return point, cfg


def _seed(where: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{where}: seed is {text or 'empty'}: must be a whole number")
    return int(text)


def _value(where: str, name: str, given: dict[str, Any], text: str, sweep: plan.Sweep) -> Any:
    """The value of a parameter that a cell contains. Raises UserError if the YAML does not allow it."""
    values = [given["value"]] if "value" in given else given.get("values")
    if values is not None:
        for value in values:
            number = sweep_file.as_number(value)
            if text == show(value) or (number is not None and text == show(number)):
                return value
        listed = ", ".join(map(show, values[:LISTED])) + (", ..." if len(values) > LISTED else "")
        raise UserError(f"{where}: {name} is {text or 'empty'}, but {sweep.path} has {listed}")
    number = sweep_file.as_number(text)
    low, high = _limits(given)
    slack = 1e-9 * max(abs(low), abs(high)) if math.isfinite(low) and math.isfinite(high) else 0.0
    if number is None or not low - slack <= number <= high + slack:
        allowed = f"{low:.6g} to {high:.6g}" if math.isfinite(low) else "numbers"
        raise UserError(f"{where}: {name} is {text or 'empty'}, but {sweep.path} has {allowed}")
    return int(text) if re.fullmatch(r"-?\d+", text) else number


def _limits(given: dict[str, Any]) -> tuple[float, float]:
    """The limits between which a distribution draws; minus and plus infinity if it has none."""
    if "min" not in given:
        return -math.inf, math.inf
    kind, low, high = sweep_file.distribution_of(given), given["min"], given["max"]
    if kind in sweep_file.EXPONENTS:
        sign = -1 if kind.startswith("inv") else 1
        low, high = sorted(math.exp(sign * limit) for limit in (low, high))
    half = given.get("q", 1.0) / 2 if "q" in sweep_file.DISTRIBUTIONS[kind][1] else 0.0
    return low - half, high + half


def _refuse_equal(path: Path, sweep: plan.Sweep, configs: list[Any]) -> None:
    """Raise UserError if two rows are the same run: nobody could say with which of them to compare it."""
    seen: dict[Any, int] = {}
    for line, cfg in enumerate(configs, 2):
        run = (sweep.script.fingerprint(cfg), str(sweep.script.data_flags(cfg)))
        if run in seen:
            raise UserError(f"{path}: lines {seen[run]} and {line} are the same run")
        seen[run] = line


# ---- which are run -------------------------------------------------------------------------------------


def choose(table: Table, n: int) -> list[int]:
    """The indices of `n` rows that can be run again, in the order in which they are chosen.

    They cover as many settings (all flags except the seed) as possible, then as many values of each flag;
    among equals, rows far from those already chosen come first. A larger n begins with the same rows, so that
    more runs can be added later.
    """
    left, chosen = table.repeatable(), []
    settings: Counter[Any] = Counter()
    values: Counter[Any] = Counter()
    while left and len(chosen) < n:

        def rank(i: int) -> tuple[int, int, int, int]:
            row = table.rows[i]
            seed = table.configs[i].seed
            seen = sum(values[pair] for pair in [*row.setting, ("seed", seed)])
            far = min((abs(i - other) for other in chosen), default=0)
            return settings[row.setting], seen, -far, i

        best = min(left, key=rank)
        left.remove(best)
        chosen.append(best)
        settings[table.rows[best].setting] += 1
        values.update([*table.rows[best].setting, ("seed", table.configs[best].seed)])
    return chosen


def sweep_of(table: Table, chosen: Sequence[int], words: list[str]) -> plan.Sweep:
    """The sweep of only these rows. words: the command that continues it, after `python`."""
    given = plan.Given([table.points[i] for i in sorted(chosen)], words)
    note = f"{len(chosen)} of {counted(len(table.rows), 'row')} of {table.path}, run again"
    return plan.at_points(table.sweep, given, note)


# ---- which runs are theirs -----------------------------------------------------------------------------


def runs_of(table: Table, runs: Iterable[Run]) -> dict[int, Run]:
    """The run of each row, by the row's index, as far as `runs` has them: the run with the same values of all
    flags on which numbers depend. Flags that are newer than a run's config.json count as having been at their
    defaults.
    """
    wanted = {_identity(cfg): i for i, cfg in enumerate(table.configs)}
    found: dict[int, Run] = {}
    for run in runs:
        if run.config.get("family", table.sweep.script.family) != table.sweep.script.family:
            continue
        if (i := wanted.get(_identity_of(table, run))) is None:
            continue
        if i not in found or found[i].status.get("status") not in COMPLETE:  # of two, the one that ended
            found[i] = run
    return found


def _identity(cfg: Any) -> str:
    return _text({**result_flags(cfg), "dataset": getattr(cfg, "dataset", None)})


def _identity_of(table: Table, run: Run) -> str | None:
    """`_identity` from a run's own flags; None if the script refuses them."""
    names = {*result_flags(table.configs[0]), "epochs", "steps", "weights", "dataset"}
    flags = {name: value for name, value in run.flags.items() if name in names & {*table.sweep.script.flags}}
    if flags.get("epochs") is not None:
        flags.pop("steps", None)
    try:
        return _identity(table.sweep.script.config(flags))
    except UserError:
        return None


def _text(flags: dict[str, Any]) -> str:
    return json.dumps({name: show(_as_json(value)) for name, value in flags.items()}, sort_keys=True)


def _as_json(value: Any) -> Any:
    """A flag's value as in config.json, where a tuple is a list."""
    return json.loads(json.dumps(value, default=str))


def nearest(table: Table, runs: Sequence[Run]) -> str:
    """The differences between the flags of the row and the run that are most alike, in words; '' if there are
    no runs of this script.
    """
    best: list[str] | None = None
    for run in runs:
        for cfg in table.configs:
            flags = {**result_flags(cfg), "dataset": getattr(cfg, "dataset", None)}
            pairs = {
                name: (show(_as_json(run.flags[name])), show(_as_json(flags[name])))
                for name in flags
                if name in run.flags
            }
            differ = [f"{name} {a}, in the table {b}" for name, (a, b) in pairs.items() if a != b]
            if pairs and (best is None or len(differ) < len(best)):
                best = differ
    return "; ".join(best[:LISTED]) if best else ""
