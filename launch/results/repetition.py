"""Compares committed results with a repetition of the same runs: which figures are equal, which differ no
more than seeds do, and which differ.

A run that is repeated on another processor, or with another version of torch, does not end in the same
digits: rounding differs, and training magnifies the difference until the run looks like one with another
seed. So a figure that is not equal is compared with its spread over seeds. For one figure of one run:

    d   new value less committed value
    s   standard deviation of a run about the mean of its setting (its flags without the seed), from the
        committed runs that finished, without the run in question: a wrong value must not excuse itself
    t   d / (s √2), since each of the two values varies by s

A figure `differs` if two tests both say so:

1.  |t| is above the quantile of Student's t at 1 - 0.01 / (2 m), where m figures of all runs are compared
    (Bonferroni). For s known beforehand this is the repeatability limit of ISO 5725-6:1994, 4.1.
2.  Among the seeds of its own setting the new value lies outside the 95 % prediction interval of the
    committed ones, or the committed value outside that of the new one and the other seeds. This protects a
    setting that varies more than the others.

In test 1, s is pooled over the settings, as in analysis of variance. If their variances differ by more than
chance, s is that of the setting itself, shrunk towards those of the others, and the degrees of freedom
reflect how well the variances agree: this is the moderated t of Smyth (2004), "Linear models and empirical
Bayes methods for assessing differential expression in microarray experiments", Stat. Appl. Genet. Mol. Biol.
3(1), article 3, sections 4 and 6.2. But s is never less than the pooled one, and there are never more degrees
of freedom.

If all runs are true repetitions, values are normally distributed and all settings have the same variance, the
chance that any figure at all is said to differ is at most 1 %. If the variances of settings are scattered
like an inverse chi-squared variable with 4 degrees of freedom, it is about 6 %. tests/test_reproduce.py
measures both for new runs that have nothing in common with the committed ones; in practice they share the
seeds, which makes the chance smaller.

If two thirds of the figures of a run are equal to the last digit, nothing was magnified, and the spread over
seeds does not excuse a difference. Then a figure of this run differs if it is off by more than a thousandth
of its size and of the spread s; for a share of few cases, by more than 0.8 %. Only figures that are unlikely
to be equal by chance count for these two thirds: those with 5 digits or more that are not near 0 or 1, which
excludes shares of few cases.

The verdict is `can't tell` in these cases: the setting has one seed; nothing is left to estimate s from; only
test 1 says that a figure differs; |t| is above FAR but there are too few seeds for test 1; or test 2 says
that it differs and all other seeds agree to the last digit, which does not show how rare another value is.
All remaining figures are `within the seeds`. With few seeds per setting the test is weak: `allowed` says by
how much a figure may differ before it is noticed.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from launch.results.metric import Metric, is_finite
from launch.results.read import Run, test_figure
from launch.results.values import show
from research.common.folder import ENDED

EQUAL, WITHIN, DIFFERS, UNTOLD = "equal", "within the seeds", "differs", "can't tell"
VERDICTS = (EQUAL, WITHIN, DIFFERS, UNTOLD)
ALPHA = 0.01  # the chance that true repetitions of a whole sweep are said to differ
FAR = 6.0  # a |t| that is never called within the seeds, however few these are
DIGITS = 6  # significant digits of a figure in a results CSV
CLOSE = 1e-3  # of a figure: rounding in an evaluation may change it by so much after the same training
CLOSE_SHARE = 8e-3  # the same for a share of a few hundred cases, of which one may change
LEAST = 1e-4  # of the pooled variance: a setting whose seeds agree gets this when variances are compared
STATUS = "status"


@dataclass(frozen=True)
class Row:
    """A row of committed results. line: its line in the file, from 1; label: the run's name in messages;
    setting: its flags without the seed, as written; figures: their texts, by column; machine: on what it was
    computed, in words.
    """

    line: int
    label: str
    setting: tuple[tuple[str, str], ...]
    status: str
    figures: Mapping[str, str]
    commit: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Again:
    """A row's run, made again. figures: their texts, by column, as a results CSV would have them."""

    status: str
    figures: Mapping[str, str]
    reason: str = ""


@dataclass(frozen=True)
class Compared:
    """The comparison of one figure of one run, or of its status.

    deviation: new minus committed value; sd: the standard deviation s of a run; allowed: the largest
    deviation that is not said to differ; each None if there is none.
    """

    row: Row
    figure: str
    committed: str
    new: str
    verdict: str
    deviation: float | None = None
    sd: float | None = None
    allowed: float | None = None
    why: str = ""

    @property
    def sds(self) -> float | None:
        """The deviation in units of a run's standard deviation; None if one of them is unknown or sd is 0."""
        if self.deviation is None or not self.sd:
            return None
        return self.deviation / self.sd


# ---- values --------------------------------------------------------------------------------------------


def written(value: object) -> str:
    """A figure as a results CSV has it: DIGITS significant digits, '' for what is not a finite number."""
    return show(float(value), DIGITS) if is_finite(value) else ""


def number(text: str) -> float | None:
    """The finite number in a cell; None if there is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _same(committed: str, new: str) -> bool:
    """Whether two cells are equal to the last digit, as 1e-05 and 0.00001 are."""
    a, b = number(committed), number(new)
    return committed == new if a is None or b is None else written(a) == written(b)


def last_place(value: float) -> float:
    """One unit in the last digit of a figure as it is written."""
    return 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1) if value else 0.0


def figures_of(run: Run, columns: Iterable[str], metric: Metric | None) -> dict[str, str]:
    """The figures of a run under the columns of a results CSV, as `read.results_csv` writes them."""
    last = {name: value for row in run.rows for name, value in row.items()}
    headline = run.config.get("headline")
    found = {}
    for column in columns:
        if column == f"{headline}_best":
            value = run.status.get("headline")
        elif metric is not None and column == metric.column:
            value = run.value(metric)
        else:
            value = last.get(column)
        found[column] = written(value)
    return found


# ---- the test ------------------------------------------------------------------------------------------


@functools.cache
def _quantile(p: float, df: float) -> float:
    from scipy.stats import t

    return float(t.ppf(p, df))


def _trigamma(x: float) -> float:
    from scipy.special import polygamma

    return float(polygamma(1, x))


@functools.cache
def _of_log(df: int) -> tuple[float, float]:
    """Mean and variance of ln(X / df), where X is a chi-squared variable with df degrees of freedom."""
    from scipy.special import digamma

    return float(digamma(df / 2)) - math.log(df / 2), _trigamma(df / 2)


def _inverse_trigamma(y: float) -> float:
    """The x > 0 for which the trigamma function is y > 0, to 9 digits: Newton's method (Smyth, appendix)."""
    from scipy.special import polygamma

    if y > 1e7:
        return 1 / math.sqrt(y)
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y
    for _ in range(100):
        step = _trigamma(x) * (1 - _trigamma(x) / y) / float(polygamma(2, x))
        x += step
        if -step < 1e-10 * x:
            break
    return x


def spread(own: tuple[float, int], others: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """(variance, degrees of freedom) of a run about the mean of its setting; (0, 0) if nothing is known.

    own, others: (variance, degrees of freedom) of the setting's own runs, and of the runs of each other
    setting; with one run there are 0 degrees of freedom. The variance is pooled, or moderated if the
    variances of the settings differ by more than chance; see the beginning of this file.
    """
    known = [(variance, df) for variance, df in [own, *others] if df > 0]
    total = sum(df for _, df in known)
    if total == 0:
        return 0.0, 0.0
    pooled = sum(variance * df for variance, df in known) / total
    if pooled == 0 or len(known) < 2:
        return pooled, float(total)
    logs = [math.log(max(variance, LEAST * pooled)) - _of_log(df)[0] for variance, df in known]
    mean = sum(logs) / len(logs)
    by_chance = sum(_of_log(df)[1] for _, df in known) / len(known)
    excess = sum((value - mean) ** 2 for value in logs) / (len(logs) - 1) - by_chance
    if excess <= 0:
        return pooled, float(total)
    prior_df = 2 * _inverse_trigamma(excess)
    prior = math.exp(mean + _digamma(prior_df / 2) - math.log(prior_df / 2))
    variance = (prior_df * prior + own[1] * own[0]) / (prior_df + own[1])
    return max(variance, pooled), min(prior_df + own[1], float(total))


def _digamma(x: float) -> float:
    from scipy.special import digamma

    return float(digamma(x))


def _variance(values: Sequence[float]) -> tuple[float, int]:
    """Sample variance and its degrees of freedom; the variance of equal values is exactly 0."""
    n = len(values)
    if n < 2 or min(values) == max(values):
        return 0.0, max(0, n - 1)
    mean = math.fsum(values) / n
    return math.fsum((value - mean) ** 2 for value in values) / (n - 1), n - 1


def _outside(value: float, others: Sequence[float]) -> bool:
    """Whether a value lies outside the two-sided 95 % prediction interval of at least two others."""
    variance, df = _variance(others)
    n = len(others)
    reach = _quantile(0.975, df) * math.sqrt(variance * (1 + 1 / n))
    return abs(value - math.fsum(others) / n) > reach


class Seeds:
    """The committed values of one figure in the runs that finished, by setting."""

    def __init__(self, rows: Iterable[Row], figure: str):
        self.values: dict[tuple, dict[int, float]] = defaultdict(dict)
        for row in rows:
            value = number(row.figures.get(figure, ""))
            if row.status == "finished" and value is not None:
                self.values[row.setting][row.line] = value
        self._variances = {setting: _variance([*of.values()]) for setting, of in self.values.items()}

    def of(self, row: Row) -> int:
        """How many seeds the row's setting has, including the row's own."""
        return len(self.values.get(row.setting, ()))

    def stands_out(self, row: Row, new: float) -> bool:
        """Whether the new value lies outside the 95 % prediction interval of its setting's committed values,
        or the committed one outside that of the new value and the other seeds.
        """
        own = self.values[row.setting]
        old = own[row.line]
        rest = [value for line, value in own.items() if line != row.line]
        return _outside(new, [*rest, old]) or _outside(old, [*rest, new])

    def without(self, row: Row) -> tuple[float, float]:
        """`spread` from all runs except the row's own."""
        own = [value for line, value in self.values[row.setting].items() if line != row.line]
        others = [found for setting, found in self._variances.items() if setting != row.setting]
        return spread(_variance(own), others)


def compare(rows: Sequence[Row], again: Mapping[int, Again], figures: Sequence[str]) -> list[Compared]:
    """The comparison of each figure of each row whose run was made again, in the order of the rows. If a
    run's status differs, the comparison of the status takes the place of its figures.

    rows: all committed rows; again: a row's line → its run as it ended here.
    """
    pairs = [(row, again[row.line]) for row in rows if row.line in again]
    alike = [(row, run) for row, run in pairs if row.status == run.status]
    m = sum(
        number(row.figures[f]) is not None and number(run.figures[f]) is not None
        for row, run in alike
        if row.status == "finished"
        for f in figures
    )
    seeds = {figure: Seeds(rows, figure) for figure in figures}
    found = []
    for row, run in pairs:
        if row.status != run.status:
            found.append(_status(row, run))
            continue
        is_same = _is_same(row, run, figures)
        for figure in figures:
            if row.figures[figure] or run.figures[figure]:  # what neither run has logged can't be compared
                found.append(_judged(row, run, figure, seeds[figure], m, is_same))
    return found


def _is_same(row: Row, run: Again, figures: Iterable[str]) -> bool:
    """Whether training took the same course: of the figures that are unlikely to be equal by chance, at least
    two, and two thirds, are equal.
    """
    telling = [figure for figure in figures if _tells(row.figures[figure]) or _tells(run.figures[figure])]
    equal = sum(_same(row.figures[figure], run.figures[figure]) for figure in telling)
    return equal >= 2 and 3 * equal >= 2 * len(telling)


def _tells(text: str) -> bool:
    value = number(text)
    if value is None or abs(value) < 0.01 or abs(1 - value) < 0.01:
        return False
    digits = re.sub(r"[eE].*|[^0-9]", "", text).lstrip("0")
    return len(digits) >= 5


def _rounding_allows(row: Row, a: float, b: float, seeds: Seeds) -> float:
    """By how much a figure may be off after the same training: by a thousandth of its size, or of its spread
    over seeds if that is larger (it is for a small difference of large numbers); by more if a single case may
    change it, as in a share of few.
    """
    variance, df = seeds.without(row) if seeds.of(row) else (0.0, 0)
    size = max(abs(a), abs(b), math.sqrt(variance) if df else 0.0)
    return size * (CLOSE if _tells(show(a, DIGITS)) or _tells(show(b, DIGITS)) else CLOSE_SHARE)


def _status(row: Row, run: Again) -> Compared:
    """The comparison of two runs that ended in different ways, such as finished and diverged."""
    ended = run.status in ENDED and run.status != "stopped"
    why = run.reason if ended else f"it was {run.status}{f': {run.reason}' if run.reason else ''}"
    return Compared(row, STATUS, row.status, run.status, DIFFERS if ended else UNTOLD, why=why)


def _judged(row: Row, run: Again, figure: str, seeds: Seeds, m: int, is_same: bool) -> Compared:
    """The comparison of one figure of a run that ended as the committed one did. m: how many figures are
    compared in all; is_same: whether training took the same course.
    """
    committed, new = row.figures[figure], run.figures[figure]
    if _same(committed, new):
        return Compared(row, figure, committed, new, EQUAL, 0.0 if number(new) is not None else None)
    a, b = number(committed), number(new)
    if a is None or b is None:
        why = "no value here" if b is None else "no value in the committed results"
        return Compared(row, figure, committed, new, DIFFERS, why=why)
    deviation = b - a
    if is_same and abs(deviation) > _rounding_allows(row, a, b, seeds):
        why = "most of this run is equal to the last digit"
        return Compared(row, figure, committed, new, DIFFERS, deviation, why=why)
    if row.status != "finished":
        return Compared(row, figure, committed, new, UNTOLD, deviation, why=f"a run that {row.status}")
    if seeds.of(row) < 2:
        return Compared(row, figure, committed, new, UNTOLD, deviation, why="the setting has one seed")
    variance, df = seeds.without(row)
    if df == 0:
        return Compared(row, figure, committed, new, UNTOLD, deviation, why="there are two seeds in all")
    sd, rounding = math.sqrt(variance), max(last_place(a), last_place(b))
    if abs(deviation) <= 1.5 * rounding:  # by one unit of the last digit
        return Compared(row, figure, committed, new, WITHIN, deviation, sd, rounding)
    stands_out, of_two = seeds.stands_out(row, b), math.sqrt(2) * sd
    if sd == 0:
        verdict = UNTOLD if stands_out else WITHIN
        why = "the other seeds agree" if stands_out else ""
        return Compared(row, figure, committed, new, verdict, deviation, 0.0, why=why)
    allowed = _quantile(1 - ALPHA / (2 * m), df) * of_two + rounding
    verdict, why = WITHIN, ""
    if abs(deviation) > allowed and stands_out:
        verdict = DIFFERS
    elif abs(deviation) > allowed:
        verdict, why = UNTOLD, "its own seeds differ widely"
    elif abs(deviation) > FAR * of_two + rounding:
        verdict, why = UNTOLD, "too few seeds"
    return Compared(row, figure, committed, new, verdict, deviation, sd, allowed, why)


# ---- the whole -----------------------------------------------------------------------------------------


def judged_by(figures: Iterable[str]) -> list[str]:
    """Of the figures in a CSV, those by which the sweep is judged: running bests, and the corresponding
    figures of the test part.
    """
    figures = list(figures)
    best = [name for name in figures if name.endswith("_best")]
    return [name for name in figures if name in best or name in map(test_figure, best)]


def verdict(found: Sequence[Compared]) -> str:
    """The verdict for all of them together.

    DIFFERS if any differs; UNTOLD if a figure by which the sweep is judged, or a status, is UNTOLD, or if
    there is no other verdict at all; EQUAL if all are equal; else WITHIN.
    """
    counts = Counter(one.verdict for one in found)
    judging = {STATUS, *judged_by(dict.fromkeys(one.figure for one in found))}
    if counts[DIFFERS]:
        return DIFFERS
    if any(one.verdict == UNTOLD and one.figure in judging for one in found):
        return UNTOLD
    if counts[EQUAL] and counts[EQUAL] == len(found):
        return EQUAL
    return WITHIN if counts[WITHIN] or counts[EQUAL] else UNTOLD


def distance(one: Compared) -> tuple[int, float]:
    """A key that sorts comparisons from good to bad: by verdict, then by deviation in standard deviations."""
    rank = (EQUAL, WITHIN, UNTOLD, DIFFERS).index(one.verdict)
    size = abs(one.sds) if one.sds is not None else (math.inf if one.deviation is None else 0.0)
    return rank, size if one.verdict != EQUAL else 0.0


def worst(found: Sequence[Compared]) -> Compared:
    """The comparison with the largest `distance`; of equal ones the first."""
    return max(found, key=distance)
