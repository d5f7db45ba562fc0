"""What mattered in a sweep: how strongly a figure depends on each flag, and whether that is more than chance.

What    `what_mattered` judges every varied flag, the seed included, by a random forest that predicts a run's
        figure from its flags; `plots` gives each flag's values and the runs' figures for charts.
Runs    Only finished runs count. A diverged or failed run has no figure, and a run that was stopped early has
        the figure of fewer steps; both are counted in `left_out`. A trial that others confirm was chosen for
        its luck and is left out too, as in read.summarise_over_seeds. Flags that make runs fail show in
        `results`, the share of runs that came to a result.
Figure  The figure's values are replaced by their ranks (equal values share a rank). So one run that nearly
        diverged does not decide alone, and a loss and its logarithm give the same answer. A difference that
        is small but certain counts, too: the means in `plots` show its size.
Flags   A tree only asks which values are smaller. Each flag is therefore one column of ranks: numbers in
        order, on whatever scale; words, truth values and lists in an order that does not depend on the
        figure; None before all others. Seeds are categories. `log` says that a chart should have a log
        scale: all numbers are positive and the largest is more than 20 times the smallest.
Unit    The runs of one configuration differ only in their seed. They are held out together and shuffled
        together, because a forest that has seen one of them would recognise the others by any flag whose
        values are unique. If runs fill a grid, with several for most combinations, no flag identifies a
        configuration, and the unit is the run; otherwise a sweep of one flag, whose values are its
        configurations, could not be judged.
Forest  Regression trees that choose among all flags at each split, each trained on a random two thirds of the
        units (of at most a few hundred runs) and tested on the last third: cross-validation, repeated. A
        forest gains nothing by memorising.
Importance
        By how much the squared error on held-out runs grows when a flag's values are shuffled among the
        units, divided by twice the variance of the figure's ranks. For independent flags it estimates the
        share of the variance that the flag explains, alone and together with others, its total Sobol index:
        Breiman 2001 (doi:10.1023/A:1010933404324), §10, and Jansen 1999 (doi:10.1016/S0010-4655(98)00154-4).
        About 0: the forest does not need the flag; 1: the flag decides alone; below 0: by chance only.
Intervals
        95 % for each number by itself, from a bootstrap that resamples configurations: the seeds of one stay
        together, because they are not independent settings. Below 8 configurations it resamples runs, and the
        interval is about those settings only. The forest is not retrained, so an interval leaves out the luck
        of its training; therefore the verdict does not rest on it alone.
Verdict A flag matters if it passes one of two tests. The seed is tested in the same way, as a yardstick.
        `noise`: its interval lies above 0, and its importance exceeds the largest that any flag had in each
        of 39 sweeps whose figures were shuffled among the units (Westfall & Young 1993). If no flag
        matters, one passes in 1 of 40 sweeps, however many flags there are. Flags that pass are then kept,
        and the others are compared with sweeps in which only the errors of a forest on those are shuffled,
        so that a large effect does not hide a smaller one; this step is approximate.
        `chance`: the figures are shuffled among runs that differ only in this flag, as in a grid; at most 1
        in 100 · (number of flags) shuffles sets its values as far apart. This finds effects that are small
        but certain, even if the forest finds nothing.
        Together: if no flag matters, about 3.5 % of sweeps at most have one that passes.
Too few Fewer than 8 finished runs, of which a tree sees 5; or, for a flag, so few ways to shuffle its values
        that even the clearest possible effect passes neither test. 8 runs of 4 + 4 are too few, because 2 of
        70 shuffles restore the groups, more than 1 in 40; 12 runs of 6 + 6 are enough for eleven flags. A
        value that occurs once beside one other needs 40 units for each flag.
Limits  A forest shows what predicts, not what causes. Flags that vary together (as `bayes` makes them, or
        where a YAML couples them) share their importance or take it from each other; a grid has no such
        trouble, but says nothing between its values. Importance is over the values that were tried: a wider
        range makes a flag more important. Interactions count for each flag involved and are not shown apart.
        "Not distinguishable from noise" does not mean "has no effect": few runs find only large effects.
Cost    On one core 20 runs take 0.1 to 0.5 s, 500 runs of 12 flags 1 to 5 s, 5,000 runs 7 s; a sweep in which
        more flags matter takes longer.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launch.results.read import flag_columns
from launch.results.values import show
from research.common.folder import ENDED

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MATTERS = "matters"
NOISE = "not distinguishable from noise"
TOO_FEW = "too few runs to tell"
ONE_VALUE = "one value only"
NOTHING = "nothing to compare"

MIN_RUNS = 8
MIN_CONFIGURATIONS = 8  # below, the bootstrap resamples runs
SHUFFLED = 39  # sweeps with shuffled figures: without an effect, the true one is the largest in 1 of 40 cases
MATCHED_LEVEL = 0.01  # chance that any flag without an effect passes among runs that differ only in it
RESAMPLES = 1000
FOLDS = 3
REPEATS = 60  # of the cross-validation, with one tree for each fold
REPEATS_SHUFFLED = 5
MAX_ROWS = 200  # on which a tree is trained, or a fifth of all if that is more: this keeps large sweeps quick
LOG_SPAN = 20
MAX_GROUPS = 50  # values of a flag; with more of them, too few runs have each
MAX_VALUES = 12  # numbers that a chart shows one by one; more are put into BINS groups
BINS = 8
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
NAN = math.nan


@dataclass(frozen=True)
class Share:
    """Of the runs with one value of a flag (or a group of values), how many ended, and how many of these
    finished.
    """

    label: str
    ended: int
    finished: int


@dataclass(frozen=True)
class Importance:
    """What is known about one flag; NaN stands for values that cannot be known. The module explains the
    fields.
    """

    flag: str
    kind: str  # number or category
    log: bool
    n_values: int  # number of different values in the runs that count
    importance: float = NAN
    low: float = NAN
    high: float = NAN
    noise: float = NAN  # NaN if too few units vary in the flag
    chance: float = NAN  # of so large a difference by luck; NaN without runs that differ only in this flag
    spearman: float = NAN  # rank correlation of value and figure over the runs; NaN for categories
    spearman_low: float = NAN
    spearman_high: float = NAN
    better: str | None = None  # larger or smaller values, if the correlation's interval excludes 0
    verdict: str = NOTHING
    # by value; empty if all shares are equal, or if most values have a single run
    results: list[Share] = field(default_factory=list)


@dataclass(frozen=True)
class WhatMattered:
    """The flags of a sweep, the most important first and the seed last, and facts about the whole sweep."""

    figure: str
    goal: str
    verdict: str
    why: str  # one sentence
    n_runs: int
    n_used: int
    n_configurations: int  # among the runs that count
    unit: str  # configuration or run
    left_out: dict[str, int]  # why -> number of runs
    r2: float = NAN  # of the forest on held-out runs
    r2_low: float = NAN
    r2_high: float = NAN
    flags: list[Importance] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Runs with one value of a flag, or with numbers from low to high. The mean is None without figures."""

    label: str
    x: float | None  # the value, or the median of several; the place of a category; None for the value None
    low: float | None
    high: float | None
    ended: int
    finished: int
    n: int  # runs that count
    mean: float | None


@dataclass(frozen=True)
class Plot:
    """A figure against one flag. x, y, group, row: an item for each run that counts; group: its index."""

    flag: str
    figure: str
    kind: str  # number or category
    log: bool
    groups: list[Group]
    x: list[float | None]
    y: list[float]
    group: list[int]
    row: list[int]  # the run's place in the table


def for_json(record: Any) -> Any:
    """A dataclass of this module as values that JSON can represent, with None for NaN."""
    if dataclasses.is_dataclass(record):
        record = dataclasses.asdict(record)
    if isinstance(record, dict):
        return {name: for_json(value) for name, value in record.items()}
    if isinstance(record, list):
        return [for_json(value) for value in record]
    return None if isinstance(record, float) and math.isnan(record) else record


# ------------------------------------------------------------------------------------------- values of flags


@dataclass
class Flag:
    """A flag's column: the label and the number of each run's value (None if it is not a number), and the
    order of the labels.
    """

    name: str
    labels: list[str]
    values: list[float | None]
    order: dict[str, int]  # label -> place
    kind: str
    log: bool


def _read_value(value: Any) -> tuple[str, float | None]:
    """The label of a value, and the number if it is one. A table and the CSV made from it give the same."""
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # numpy's scalars
        value = value.item()
    text = value if isinstance(value, str) else ""
    if isinstance(value, bool):
        return str(value), None
    if isinstance(value, str) and len(value) < 400 and re.fullmatch(NUMBER, value, re.ASCII):
        value = float(value) if re.search(r"[.eE]", value) else int(value)
    if isinstance(value, numbers.Real):
        try:
            number = float(value)
        except OverflowError:
            return hex(int(value)), None  # Python may refuse to write so large an integer in decimal digits
        if math.isfinite(number):
            return text or show(value if isinstance(value, int) else number), number
        return ("None", None) if math.isnan(number) else (text or show(number), None)
    text = show(value)
    return ("None" if text in ("None", "", "<NA>") else text), None


def _read_flag(df: pd.DataFrame, name: str) -> Flag:
    read = [_read_value(value) for value in df[name].astype(object)]
    number_of = dict(read)
    # inf does not count as a number: an axis has no place for it
    is_number = name != "seed" and all(x is not None for label, x in read if label != "None")
    is_number = is_number and any(x is not None for _, x in read)

    def place(label: str) -> tuple:
        number = number_of[label]
        return label != "None", number is None, number or 0.0, label

    order = {label: i for i, label in enumerate(sorted(number_of, key=place))}
    values = [x if is_number else None for _, x in read]
    found = [x for x in values if x is not None]
    log = bool(found) and min(found) > 0 and max(found) / LOG_SPAN > min(found)
    return Flag(name, [label for label, _ in read], values, order, "number" if is_number else "category", log)


@dataclass
class Table:
    """A sweep's runs as this module sees them. used: places of the runs that count; y: their figures."""

    flags: list[Flag]
    status: list[str]
    used: list[int]
    y: list[float]
    left_out: dict[str, int]


def _read_table(df: pd.DataFrame, figure: str) -> Table:
    if "status" not in df.columns:
        raise ValueError("the table has no column status: it is neither read.table's nor a results CSV")
    names = flag_columns(df)
    if figure in names:
        raise ValueError(f"figure must be a column after status, got the flag {figure}")
    status = [show(value) for value in df["status"].astype(object)]
    if figure in df.columns:
        figures = [_read_value(value)[1] for value in df[figure].astype(object)]
    else:
        figures = [None] * len(df)
    confirmed = set(df.attrs.get("confirmed") or ())
    chosen = [key in confirmed for key in (df["key"] if confirmed else df["status"])]
    reasons = []
    for state, value, is_chosen in zip(status, figures, chosen):
        if state != "finished":
            reasons.append(state or "no status")
        elif is_chosen:
            reasons.append("confirmed by others")
        else:
            reasons.append("finished without the figure" if value is None else "")
    return Table(
        flags=[_read_flag(df, name) for name in names],
        status=status,
        used=[i for i, reason in enumerate(reasons) if not reason],
        y=[value for value, reason in zip(figures, reasons) if not reason],
        left_out=dict(sorted(Counter(reason for reason in reasons if reason).items())),
    )


def _groups(flag: Flag) -> dict[str, int]:
    """The number of each label's group, in order. Each label is a group of its own; if there are many
    numbers, groups have about equally many runs.
    """
    if flag.kind == "category" or len(flag.order) <= MAX_VALUES:
        return flag.order
    count, below, bins = Counter(flag.labels), 0, {}
    total = len(flag.labels) - count["None"]
    for label in flag.order:
        if label == "None":
            bins[label] = -1
        else:
            bins[label] = int(BINS * (below + count[label] / 2) / total)
            below += count[label]
    number = {one: i for i, one in enumerate(sorted(set(bins.values())))}
    return {label: number[one] for label, one in bins.items()}


def _shares(table: Table, flag: Flag) -> list[Share]:
    """For each group of values, how many runs ended and how many finished."""
    group_of = _groups(flag)
    labels, ended, finished = {}, Counter(), Counter()
    for label, group in group_of.items():
        labels.setdefault(group, []).append(label)
    for label, state in zip(flag.labels, table.status):
        ended[group_of[label]] += state in ENDED
        finished[group_of[label]] += state == "finished"
    number_of, shares = dict(zip(flag.labels, flag.values)), []
    for i, inside in labels.items():
        ends = " … ".join(show(number_of[label], 3) for label in (inside[0], inside[-1]))
        shares.append(Share(inside[0] if len(inside) == 1 else ends, ended[i], finished[i]))
    return shares


# ---------------------------------------------------------------------------------------------------- charts


def plots(df: pd.DataFrame, figure: str) -> list[Plot]:
    """The figure against each varied flag, in the table's order: what a chart needs, without NaN.

    df, figure and ValueError as in `what_mattered`. More than 12 numbers are put into 8 groups of about
    equally many runs. If all runs with a value lack the figure, its group has no mean.
    """
    table = _read_table(df, figure)
    return [_plot(table, flag, figure) for flag in table.flags]


def _plot(table: Table, flag: Flag, figure: str) -> Plot:
    number_of = dict(zip(flag.labels, flag.values))
    group_of = _groups(flag)
    group = [group_of[flag.labels[row]] for row in table.used]
    labels, figures = {}, {}
    for label, i in group_of.items():
        labels.setdefault(i, []).append(label)
    for i, value in zip(group, table.y):
        figures.setdefault(i, []).append(value)
    groups = []
    for i, share in enumerate(_shares(table, flag)):
        if flag.kind == "number":
            x, low, high = (number_of[labels[i][j]] for j in (len(labels[i]) // 2, 0, -1))
        else:
            x, low, high = float(i), None, None
        y = figures.get(i, [])
        groups.append(Group(share.label, x, low, high, share.ended, share.finished, len(y), _mean(y)))
    if flag.kind == "number":
        x = [flag.values[row] for row in table.used]
    else:
        x = [float(i) for i in group]
    return Plot(flag.name, figure, flag.kind, flag.log, groups, x, table.y, group, table.used)


def _mean(values: list[float]) -> float | None:
    """The mean, even if the sum is too large for a float; None if there are no values."""
    if not values:
        return None
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


# ------------------------------------------------------------------------------------------------ importance


def what_mattered(df: pd.DataFrame, figure: str, goal: str = "minimize", rng_seed: int = 0) -> WhatMattered:
    """How much each varied flag matters for a figure; the module says how this is found and what it means.

    df: from read.table, or a results CSV; the columns before `status` are the varied flags. figure: a later
    column. goal: minimize or maximize; it only decides which values are `better`. rng_seed: for all random
    draws; equal runs give equal numbers, whatever their order.
    ValueError, in one line: the table has no status, the goal is another word, or the figure is a flag. If
    anything else is missing or cannot be known, `why` and the verdicts say so.
    """
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"goal must be minimize or maximize, got {goal!r}")
    table = _read_table(df, figure)
    names = [flag.name for flag in table.flags if flag.name != "seed"]
    settings = [tuple(flag.labels[i] for flag in table.flags if flag.name != "seed") for i in table.used]
    n_configurations = len(set(settings))
    repeated = sum(n > 1 for n in Counter(settings).values())
    is_grid = bool(names) and 2 * repeated > n_configurations
    is_grid &= n_configurations == math.prod(len(set(column)) for column in zip(*settings))
    rows = []
    for flag in table.flags:
        n_values = len({flag.labels[i] for i in table.used})
        shares = _shares(table, flag)
        differ = len({share.finished / share.ended for share in shares if share.ended}) > 1
        if not differ or sum(share.ended for share in shares) < 2 * len(shares):
            shares = []
        rows.append(Importance(flag.name, flag.kind, flag.log, n_values, results=shares))
    found = WhatMattered(
        figure=figure,
        goal=goal,
        verdict=NOTHING,
        why="",
        n_runs=len(df),
        n_used=len(table.used),
        n_configurations=n_configurations,
        unit="run" if is_grid else "configuration",
        left_out=table.left_out,
        flags=rows,
    )
    if not table.used:
        why = "there are no runs" if not len(df) else f"no finished run has the figure {figure}"
        return dataclasses.replace(found, why=why + _left_out(found))
    n_runs = _count(len(table.used), "finished run")
    if not any(row.n_values > 1 for row in rows if row.flag != "seed"):
        varies = "only the seed varies" if any(row.n_values > 1 for row in rows) else "no flag varies"
        return _undecided(found, NOTHING, f"{varies} in {n_runs}")
    if len(set(table.y)) == 1:
        return _undecided(found, NOTHING, f"{figure} is the same in {n_runs}")
    if len(table.used) < MIN_RUNS:
        return _undecided(found, TOO_FEW, f"only {n_runs} with the figure; at least {MIN_RUNS} are needed")
    return _judge(found, table, rng_seed)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _left_out(found: WhatMattered) -> str:
    """The end of a sentence, about the runs that don't count; '' if all count."""
    if not found.left_out:
        return ""
    reasons = ", ".join(f"{n} {reason}" for reason, n in found.left_out.items())
    return f"; {sum(found.left_out.values())} of {_count(found.n_runs, 'run')} left out: {reasons}"


def _undecided(found: WhatMattered, verdict: str, why: str) -> WhatMattered:
    """The result without numbers: one verdict for the sweep and for each flag that varies."""
    flags = []
    for row in found.flags:
        flags.append(dataclasses.replace(row, verdict=ONE_VALUE if row.n_values < 2 else verdict))
    return dataclasses.replace(found, verdict=verdict, why=why + _left_out(found), flags=flags)


def _judge(found: WhatMattered, table: Table, rng_seed: int) -> WhatMattered:
    """The verdicts, for at least 8 runs with different figures and a flag that varies in them."""
    import numpy as np
    from scipy.stats import rankdata

    # sorted, because random numbers depend on the order: that of the given runs and flags must not matter
    flags = {flag.name: flag for flag in table.flags}
    varied = sorted((row.flag for row in found.flags if row.n_values > 1), key=lambda f: (f == "seed", f))
    places = np.array([[flags[name].order[flags[name].labels[i]] for name in varied] for i in table.used])
    order = np.lexsort([np.array(table.y), *places.T[::-1]])
    x = np.column_stack([rankdata(column, "dense") for column in places[order].T])  # (N, F)
    x = x.astype(np.float32)  # the type that trees take
    y = _standardised(rankdata(np.array(table.y)[order]))  # (N,)
    by_run = [len(varied) - 1] if varied[-1] == "seed" else []
    configuration = np.unique(x[:, : len(varied) - len(by_run)], axis=0, return_inverse=True)[1].ravel()
    unit = np.arange(len(y)) if found.unit == "run" else configuration
    rng = np.random.default_rng(rng_seed)

    # which flags could be distinguished from noise at all: by the forest; by runs that differ only in the
    # flag
    enough, matches = [], []
    first = np.unique(unit, return_index=True)[1]
    for f, name in enumerate(varied):
        column = x[:, f] if f in by_run else x[first, f]
        if _chance_of_equal(column, flags[name].kind) * len(varied) <= 1 / (SHUFFLED + 1):
            enough.append(f)
        group_of = _groups(flags[name])
        group = np.array([group_of[flags[name].labels[i]] for i in table.used])[order]
        others = [other for other in range(len(varied)) if other != f and other not in by_run]
        matches.append(Matched.of(group, x[:, others], y))
    level = MATCHED_LEVEL / len(varied)
    can_tell = [f in enough or matched.least_chance() <= level for f, matched in enumerate(matches)]
    if not any(can_tell[f] for f in range(len(varied)) if f not in by_run):
        runs = _count(len(first), found.unit)
        why = f"with {runs}, even a flag that alone decides the figure would look like chance"
        return _undecided(found, TOO_FEW, why)

    predicted, gain = _forest(x, y, unit, by_run, rng, REPEATS)
    importance = gain.mean(0)
    noise, passed = _beyond_noise(x, y, unit, by_run, rng, importance, enough)

    # intervals
    cluster = configuration if found.n_configurations >= MIN_CONFIGURATIONS else np.arange(len(y))
    draws = _draws(cluster, rng)

    def interval(values: np.ndarray) -> list[float]:
        values = values[np.isfinite(values)]
        return np.quantile(values, (0.025, 0.975)).tolist() if len(values) else [NAN, NAN]

    sums = draws(np.column_stack([np.ones(len(y)), (y - predicted) ** 2, gain]))
    error, drawn = (sums[:, 1:] / sums[:, :1])[:, 0], (sums[:, 1:] / sums[:, :1])[:, 1:]
    judged = {}
    for f, name in enumerate(varied):
        low, high = interval(drawn[:, f])
        values = np.array([flags[name].values[i] for i in table.used], dtype=float)[order]
        spearman, *ends = _spearman(values, y, draws)
        ends = interval(ends[0]) if ends else [NAN, NAN]
        chance = matches[f].chance(rng, level)
        if (f in passed and low > 0) or chance <= level:
            verdict = MATTERS
        else:
            verdict = NOISE if can_tell[f] else TOO_FEW
        better = None
        if verdict == MATTERS and (ends[0] > 0 or ends[1] < 0):
            better = "larger" if (ends[0] > 0) == (found.goal == "maximize") else "smaller"
        judged[name] = {
            "importance": float(importance[f]),
            "low": low,
            "high": high,
            "noise": noise[f],
            "chance": chance,
            "spearman": spearman,
            "spearman_low": ends[0],
            "spearman_high": ends[1],
            "better": better,
            "verdict": verdict,
        }
    rows = []
    for row in found.flags:
        rows.append(dataclasses.replace(row, **judged.get(row.flag, {"verdict": ONE_VALUE})))
    rows.sort(key=lambda row: (row.flag == "seed", row.n_values < 2, -row.importance))
    mattering = [row.flag for row in rows if row.verdict == MATTERS]
    if len(mattering) > 1:
        said = f"{', '.join(mattering[:-1])} and {mattering[-1]} matter"
    else:
        said = f"{mattering[0]} matters" if mattering else "no flag is distinguishable from noise"
    r2, (low, high) = float(1 - ((y - predicted) ** 2).mean()), interval(1 - error)
    said += f"; a forest predicts runs that it has not seen with an R² of {r2:.2f} ({low:.2f} to {high:.2f})"
    return dataclasses.replace(
        found,
        verdict=MATTERS if mattering else NOISE,
        why=said + _left_out(found),
        r2=r2,
        r2_low=low,
        r2_high=high,
        flags=rows,
    )


def _standardised(y: np.ndarray) -> np.ndarray:
    """y (N,) with mean 0 and variance 1; all 0 if its values are equal."""
    y = y - y.mean()
    return y / (y.std() or 1)


def _chance_of_equal(column: np.ndarray, kind: str) -> float:
    """The probability that shuffling a flag's values (N,) gives the same groups: numbers in the same order or
    reversed, categories in any order that their sizes allow.
    """
    import numpy as np

    sizes = np.unique(column, return_counts=True)[1].tolist()
    log = sum(math.lgamma(size + 1) for size in sizes) - math.lgamma(len(column) + 1)
    if kind == "number":
        return math.exp(log) * (2 if sizes == sizes[::-1] else 1)
    return math.exp(log + sum(math.lgamma(same + 1) for same in Counter(sizes).values()))


@dataclass
class Matched:
    """Runs that differ only in one flag (and in the seed): do their figures depend on its value?

    Runs that agree in all other flags are a stratum. The mean of its stratum is subtracted from each figure
    (aligned ranks, Hodges & Lehmann 1962, doi:10.1214/aoms/1177704575). The statistic is the sum over values
    of (sum of the figures with that value)² / their number. If the flag has no effect, shuffling the figures
    within each stratum does not change its distribution, so the test is exact.
    """

    group: np.ndarray  # (N,) index of the flag's value, from 0
    stratum: np.ndarray  # (N,) ascending
    y: np.ndarray  # (N,) with mean 0 in each stratum

    @classmethod
    def of(cls, group: np.ndarray, others: np.ndarray, y: np.ndarray) -> Matched:
        """group: (N,) index of the flag's value; others: (N, K) values of the other flags except the seed; y:
        (N,) figures.
        """
        import numpy as np

        stratum = np.zeros(len(y), int)
        if others.shape[1]:
            stratum = np.unique(others, axis=0, return_inverse=True)[1].ravel()
        cells = np.unique(np.column_stack([stratum, group]), axis=0)
        rows = np.flatnonzero((np.bincount(cells[:, 0]) > 1)[stratum])
        rows = rows[np.argsort(stratum[rows], kind="stable")]
        group, stratum = (np.unique(part[rows], return_inverse=True)[1] for part in (group, stratum))
        if not len(rows) or group.max() >= MAX_GROUPS:
            return cls(group[:0], stratum[:0], y[:0])
        mean = np.bincount(stratum, y[rows]) / np.bincount(stratum)
        return cls(group, stratum, y[rows] - mean[stratum])

    def least_chance(self) -> float:
        """The `chance` of the clearest possible effect: how often a shuffle gives the same groups, in any
        order.
        """
        import numpy as np

        if not len(self.y):
            return 1.0
        cells = np.unique(self.stratum * (self.group.max() + 1) + self.group, return_counts=True)[1]
        ways = sum(math.lgamma(n + 1) for n in np.bincount(self.stratum).tolist())
        ways -= sum(math.lgamma(n + 1) for n in cells.tolist())
        return min(math.exp(math.lgamma(self.group.max() + 2) - ways), 1.0)

    def chance(self, rng: np.random.Generator, level: float) -> float:
        """The share of shuffles whose statistic is at least as large; the data themselves count as one of
        them.

        NaN if there are no such runs. It shuffles until two reach the statistic, or until so often that even
        one of them would make the share less than the level.
        """
        import numpy as np

        if not len(self.y):
            return NAN
        member = np.eye(self.group.max() + 1)[self.group]
        size = member.sum(0)
        least = ((self.y @ member) ** 2 / size).sum() - 1e-9
        n_deals = math.ceil(2 / level) - 1
        reached = done = 0
        while done < n_deals and reached < 2:
            now = min(200, n_deals - done)
            deal = np.argsort(rng.random((now, len(self.y))) + self.stratum, axis=1)
            reached += int((((self.y[deal] @ member) ** 2 / size).sum(1) >= least).sum())
            done += now
        return (1 + reached) / (1 + done)


def _forest(
    x: np.ndarray, y: np.ndarray, unit: np.ndarray, by_run: list[int], rng: np.random.Generator, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for held-out runs (N,), and for each run and flag (N, F) half the growth of its squared
    error when the flag's values are shuffled among the units.

    x: (N, F) float32; y: (N,) with variance 1; unit: (N,) indices from 0; by_run: flags that are shuffled
    among runs instead. In each repeat every unit is held out of one tree.
    """
    import numpy as np
    from sklearn.tree import DecisionTreeRegressor

    n, n_flags = x.shape
    first = np.unique(unit, return_index=True)[1]
    n_deals = int(np.clip(12_000 // n if repeats == REPEATS else 1_000 // n, 2, 30))
    dealt = np.empty((n_flags, n_deals, n), np.float32)
    for f in range(n_flags):
        for d in range(n_deals):
            if f in by_run:
                dealt[f, d] = x[rng.permutation(n), f]
            else:
                dealt[f, d] = x[rng.permutation(first)[unit], f]
    max_rows = max(MAX_ROWS, n // 5)
    min_leaf = max(3, min(2 * n // 3, max_rows) // 60)  # a leaf of one run would memorise its noise
    # one state for all trees, because seeding takes as long as training
    state = np.random.RandomState(int(rng.integers(2**31)))
    predicted, predicted_dealt = np.zeros(n), np.zeros((n_flags, n_deals, n))
    for _ in range(repeats):
        fold = (rng.permutation(len(first)) % FOLDS)[unit]
        for held in range(FOLDS):
            out, seen = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
            if not len(out):  # with two units, one of the three folds is empty
                continue
            if len(seen) > max_rows:
                seen = rng.permutation(seen)[:max_rows]
            tree = DecisionTreeRegressor(min_samples_leaf=min_leaf, random_state=state)
            tree.fit(x[seen], y[seen], check_input=False)
            asked = np.tile(x[out], (n_flags * n_deals + 1, 1, 1))
            for f in range(n_flags):
                asked[f * n_deals : (f + 1) * n_deals, :, f] = dealt[f][:, out]
            answers = tree.predict(asked.reshape(-1, n_flags), check_input=False)
            answers = answers.reshape(-1, len(out))
            predicted[out] += answers[-1] / repeats
            predicted_dealt[:, :, out] += answers[:-1].reshape(n_flags, n_deals, -1) / repeats
    gain = ((y - predicted_dealt) ** 2).mean(1) - (y - predicted) ** 2  # (F, N)
    return predicted, gain.T / 2


def _beyond_noise(
    x: np.ndarray,
    y: np.ndarray,
    unit: np.ndarray,
    by_run: list[int],
    rng: np.random.Generator,
    importance: np.ndarray,
    enough: list[int],
) -> tuple[list[float], set[int]]:
    """The `noise` with which each flag in `enough` was compared (NaN for others), and the flags that exceed
    it.
    """
    import numpy as np

    noise, passed = [NAN] * len(importance), []
    while rest := [f for f in enough if f not in passed]:
        explained = np.zeros(len(y))
        if passed:
            known = [passed.index(f) for f in by_run if f in passed]
            explained = _forest(np.ascontiguousarray(x[:, passed]), y, unit, known, rng, REPEATS)[0]
        largest = 0.0
        for _ in range(SHUFFLED):
            shuffled = _standardised(explained + _deal(y - explained, unit, rng))
            gain = _forest(x, shuffled, unit, by_run, rng, REPEATS_SHUFFLED)[1]
            largest = max(largest, gain.mean(0)[rest].max())
            if largest >= importance[rest].max():  # none of the flags can pass any more
                break
        for f in rest:
            noise[f] = float(largest)
        new = [f for f in rest if importance[f] > largest]
        if not new:
            break
        passed = sorted(passed + new)
    return noise, set(passed)


def _deal(y: np.ndarray, unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """y (N,) shuffled: each unit gets the values of another, in random order; a larger unit repeats them."""
    import numpy as np

    sizes = np.bincount(unit)
    start = np.cumsum(sizes) - sizes
    by_unit = np.argsort(unit, kind="stable")
    place = np.empty(len(y), int)
    place[by_unit] = np.arange(len(y)) - start[unit[by_unit]]  # of a run within its unit
    source = rng.permutation(len(sizes))[unit]
    mixed = np.lexsort([rng.random(len(y)), unit])
    return y[mixed[start[source] + place % sizes[source]]]


def _draws(cluster: np.ndarray, rng: np.random.Generator) -> Any:
    """A function that sums rows (N, K) over each bootstrap sample of the clusters (N,): (RESAMPLES, K)."""
    import numpy as np

    n = cluster.max() + 1
    times = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)

    def sums(rows: np.ndarray) -> np.ndarray:
        return times @ np.column_stack([np.bincount(cluster, column, n) for column in rows.T])

    return sums


def _spearman(values: np.ndarray, y: np.ndarray, draws: Any) -> tuple:
    """Rank correlation of a flag's numbers (N,) with y (N,), and that of each bootstrap sample (RESAMPLES,).

    Runs without a number do not count. (NaN,) if there are no two different numbers. A sample keeps the ranks
    of the whole.
    """
    import numpy as np
    from scipy.stats import rankdata

    has = np.isfinite(values)
    if len(set(values[has].tolist())) < 2 or len(set(y[has].tolist())) < 2:
        return (NAN,)
    a, b = np.zeros(len(y)), np.zeros(len(y))
    a[has], b[has] = _standardised(rankdata(values[has])), _standardised(rankdata(y[has]))
    n, sum_a, sum_b, aa, bb, ab = draws(np.column_stack([has, a, b, a * a, b * b, a * b])).T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (aa - sum_a**2 / n) * (bb - sum_b**2 / n)
        drawn = (ab - sum_a * sum_b / n) / np.sqrt(np.where(spread > 1e-12, spread, NAN))
    return float(np.clip((a * b).sum() / has.sum(), -1, 1)), np.clip(drawn, -1, 1)
