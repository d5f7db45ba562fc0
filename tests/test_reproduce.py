"""`python launch/reproduce.py`: the statistical test, rows as trials, and the real command."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from launch import reproduce
from launch.results import repetition, verdict, words
from launch.results.metric import Metric
from launch.results.read import Run, read_sweep
from launch.results.repetition import DIFFERS, EQUAL, UNTOLD, WITHIN, Again, Row, compare, spread
from launch.sweep import begin, plan, rows
from launch.sweep.pool import LocalFlags
from research.common.folder import write_json
from research.common.identity import ROOT
from research.common.messages import UserError
from tests.forks import fork, run_script

LOSS = "test/loss"


def table_of(settings: dict[str, list[float]], figure: str = LOSS) -> list[Row]:
    """Committed rows: for each setting, a run for each value."""
    found = []
    for setting, values in settings.items():
        for seed, value in enumerate(values):
            label = f"{setting} seed={seed}"
            figures = {figure: repetition.written(value)}
            found.append(Row(len(found) + 2, label, (("a", setting),), "finished", figures))
    return found


def judge(rows_: list[Row], line: int, value: float, figure: str = LOSS) -> repetition.Compared:
    """One run made again that has this value."""
    (one,) = compare(rows_, {line: Again("finished", {figure: repetition.written(value)})}, [figure])
    return one


# ---- the test ------------------------------------------------------------------------------------------


def test_spread_is_that_of_an_analysis_of_variance():
    # two settings, of 3 and 2 runs: (2 · 1.0 + 1 · 4.0) / 3
    assert spread((1.0, 2), [(4.0, 1)]) == (2.0, 3.0)
    assert spread((0.0, 0), [(0.0, 0)]) == (0.0, 0.0)
    assert spread((0.0, 0), [(0.25, 2), (0.0, 0)]) == (0.25, 2.0)


def test_spread_is_moderated_where_variances_are_scattered():
    """The prior by Smyth (2004), section 6.2: e = log s² - ψ(d/2) + log(d/2), ψ'(d0/2) = var e - ψ'(d/2)."""
    from scipy.special import digamma, polygamma

    variances, df = [0.01, 0.1, 1.0, 25.0], 2
    e = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = e.var(ddof=1) - polygamma(1, df / 2)
    variance, total = spread((25.0, df), [(v, df) for v in variances[:3]])
    prior_df = total - df
    assert polygamma(1, prior_df / 2) == pytest.approx(excess, rel=1e-6)
    prior = np.exp(e.mean() + digamma(prior_df / 2) - np.log(prior_df / 2))
    assert variance == pytest.approx((prior_df * prior + df * 25.0) / (prior_df + df), rel=1e-6)
    assert variance > np.mean(variances) and total < 8
    # of a setting that varies little, no less than the pooled variance
    assert spread((0.01, df), [(v, df) for v in variances[1:]])[0] == pytest.approx(np.mean(variances))


@given(st.floats(1e-5, 1e6))
def test_the_inverse_of_the_trigamma_function(y):
    assert repetition._trigamma(repetition._inverse_trigamma(y)) == pytest.approx(y, rel=1e-6)


def test_known_limits():
    """Four settings of two seeds ± 0.1: without the row's own setting s² = 0.02 with 3 degrees of freedom."""
    from scipy.stats import t

    rows_ = table_of({str(i): [i - 0.1, i + 0.1] for i in range(1, 5)})
    one = judge(rows_, 2, 0.95)
    limit = t.ppf(0.995, 3) * math.sqrt(2 * 0.02)
    assert (one.verdict, one.deviation) == (WITHIN, pytest.approx(0.05))
    assert one.sd == pytest.approx(math.sqrt(0.02)) and one.allowed == pytest.approx(limit, rel=1e-5)
    assert one.sds == pytest.approx(0.05 / math.sqrt(0.02))
    # test 1 is passed below its limit; beyond it the setting's own two seeds, 0.2 apart, excuse 11 times that
    assert judge(rows_, 2, 0.9 + limit).verdict == WITHIN
    assert judge(rows_, 2, 0.9 + 1.1 * limit).verdict == UNTOLD
    assert judge(rows_, 2, 9.0).verdict == DIFFERS


def test_equal_to_the_last_digit():
    rows_ = table_of({"a": [0.123456, 0.2]})
    assert judge(rows_, 2, 0.12345649).verdict == EQUAL
    assert judge(rows_, 2, 0.123457).verdict == UNTOLD  # nothing is left to estimate from
    assert repetition._same("1e-05", "0.00001") and not repetition._same("", "0")
    assert repetition._same("True", "True")
    # one unit of the last digit is what writing it does
    rows_ = table_of({"a": [0.5, 0.5, 0.5]})
    assert judge(rows_, 2, 0.500001).verdict == WITHIN


@pytest.mark.parametrize("factor", [1.2, 2, 100, -1])
def test_a_wrong_value_does_not_excuse_itself(factor):
    """The row's own value does not widen the spread, however wrong it is: with two seeds and with three."""
    rng = np.random.default_rng(0)
    for n in (2, 3):
        values = {str(s): list(10 + s + 0.01 * rng.normal(size=n)) for s in range(5)}
        true = values["2"][0]
        values["2"][0] = factor * true
        found = judge(table_of(values), 2 * n + 2, true + 0.005)
        assert found.verdict == DIFFERS and found.why == ""


def test_what_can_not_be_told():
    assert judge(table_of({"a": [1.0], "b": [2.0, 2.1, 2.2]}), 2, 1.3).why == "the setting has one seed"
    assert judge(table_of({"a": [1.0, 1.1]}), 2, 1.3).why == "there are two seeds in all"
    agree = table_of({"a": [32, 32, 32], "b": [32, 32, 32]})
    assert judge(agree, 2, 31).why == "the other seeds agree"
    assert judge(agree, 2, 32).verdict == EQUAL
    # where its own seeds differ, others need not
    assert judge(table_of({"a": [30, 32, 32], "b": [32, 32, 32]}), 2, 31).verdict == WITHIN
    # 25 standard deviations from 3 seeds: neither within them, nor for certain
    few = judge(table_of({"a": [1.0, 1.1, 1.2]}), 2, 1.0 + 25 * math.sqrt(0.005))
    assert (few.verdict, few.why) == (UNTOLD, "too few seeds") and few.sds == pytest.approx(25, rel=1e-4)
    # where two seeds agree by chance, another value is far away and still not for certain
    assert judge(table_of({"a": [0.28, 0.281, 0.5]}), 2, 0.0).verdict == WITHIN
    assert judge(table_of({"a": [0.5, 0.28, 0.281]}), 2, 0.0).verdict == UNTOLD
    assert judge(table_of({"a": [0.281, 0.27, 0.285]}), 2, 0.0).why == "too few seeds"
    # of settings that differ widely, no conclusion for the wide one
    tight = {str(i): [i, i + 0.001, i + 0.002] for i in range(9)}
    wide = judge(table_of(tight | {"wide": [5, 9, 7]}), 29, 12)
    assert wide.verdict in (WITHIN, UNTOLD)


def test_a_run_that_is_equal_but_for_a_figure():
    """If training took the same course, the spread over seeds does not excuse a difference."""
    figures = [LOSS, "test/bpc", "test/kl", "test/share"]
    texts = {LOSS: "1.62474", "test/bpc": "2.34401", "test/kl": "20.5312", "test/share": "0.999889"}
    committed = [Row(2, "seed=0", (), "finished", texts), Row(3, "seed=1", (), "finished", texts)]

    def verdicts(**changed: str) -> dict[str, str]:
        again = Again("finished", texts | {f"test/{k}": v for k, v in changed.items()})
        return {one.figure: one.verdict for one in compare(committed, {2: again}, figures)}

    assert set(verdicts().values()) == {EQUAL}
    assert verdicts(loss="1.64")[LOSS] == DIFFERS
    assert verdicts(share="0.99")["test/share"] == DIFFERS
    assert verdicts(share="0.9962")["test/share"] != DIFFERS  # one case of 270
    assert verdicts(loss="1.62475")[LOSS] == UNTOLD  # rounding in the evaluation, and two seeds in all
    assert verdicts(loss="1.64", bpc="2.4")[LOSS] == UNTOLD  # not the same course
    # shares near 1 may be equal by chance: that says nothing of the course
    texts |= {"test/bpc": "0.999778", "test/kl": "0.999667"}
    assert verdicts(loss="1.64")[LOSS] == UNTOLD


def test_states_and_missing_values():
    committed = table_of({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    committed += [Row(6, "c", (("a", "c"),), "diverged", {LOSS: "7"})]

    def one(line: int, status: str, text: str, reason: str = "") -> repetition.Compared:
        (found,) = compare(committed, {line: Again(status, {LOSS: text}, reason)}, [LOSS])
        return found

    failed = one(2, "failed", "", "out of memory")
    assert (failed.figure, failed.verdict, failed.why) == ("status", DIFFERS, "out of memory")
    assert one(2, "diverged", "1").verdict == DIFFERS
    assert one(2, "stopped", "1").verdict == UNTOLD and one(2, "unreadable", "").verdict == UNTOLD
    assert one(6, "finished", "7").verdict == DIFFERS
    assert one(6, "diverged", "7").verdict == EQUAL and one(6, "diverged", "8").verdict == UNTOLD
    assert one(2, "finished", "").verdict == DIFFERS
    none = [dataclasses.replace(row, figures={LOSS: ""}) for row in committed]
    assert compare(none, {2: Again("finished", {LOSS: ""})}, [LOSS]) == []
    assert compare(none, {2: Again("finished", {LOSS: "1"})}, [LOSS])[0].verdict == DIFFERS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1000, 1000), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(-5000, 5000),
    st.sampled_from([0.125, 1, 32]),
    st.integers(0, 3),
)
def test_properties(values, new, scale, pick):
    """Scale and order of rows don't matter; the deviation is right; a larger one is never
    judged more mildly.
    """
    named = {str(i): [v / 8 for v in of] for i, of in enumerate(values)}
    rows_ = table_of(named)
    line = rows_[pick % len(rows_)].line
    old = float(rows_[pick % len(rows_)].figures[LOSS])
    one = judge(rows_, line, old + new / 8)
    scaled = table_of({k: [v * scale for v in of] for k, of in named.items()})
    other = judge(scaled, line, (old + new / 8) * scale)
    assert judge(rows_[::-1], line, old + new / 8).verdict == one.verdict
    if one.deviation is not None and abs(new) > 1:
        assert other.verdict == one.verdict
        assert one.deviation == pytest.approx(new / 8, abs=1e-2)
    rank = (EQUAL, WITHIN, UNTOLD, DIFFERS).index
    far = judge(rows_, line, old + 1000 * new / 8)
    assert far.deviation is None or rank(far.verdict) >= rank(one.verdict)


def repeated(rng: np.random.Generator, k: int, n: int, n_figures: int, df: int | None) -> str:
    """The verdict of a sweep of k settings and n seeds whose runs are all repeated by others of the same law.

    df: of the inverse chi-squared variances of the settings; None: they are equal.
    """
    figures = [f"test/{i}" for i in range(n_figures)]
    sd = np.ones(k) if df is None else np.sqrt(df / rng.chisquare(df, size=k))
    committed, again = [], {}
    for s in range(k):
        for _ in range(n):
            old, new = ({f: repetition.written(9 * s + sd[s] * rng.normal()) for f in figures} for _ in "12")
            committed.append(Row(len(committed) + 2, "", (("s", str(s)),), "finished", old))
            again[len(committed) + 1] = Again("finished", new)
    return repetition.verdict(compare(committed, again, figures))


@pytest.mark.parametrize(
    ("k", "n", "n_figures", "df", "n_sweeps", "most"),
    [
        (4, 3, 2, None, 100, 4),
        (8, 2, 2, None, 100, 4),
        (1, 3, 3, None, 300, 9),
        (5, 3, 2, 4, 60, 10),
    ],
)
def test_false_alarms(k, n, n_figures, df, n_sweeps, most):
    """True repetitions: at most 1 % of sweeps are said not to hold where settings vary equally, some 6 %
    where they do not. At these rates `most` is exceeded with a chance of 1 in 200 (binomial).
    """
    rng = np.random.default_rng(7)
    found = Counter(repeated(rng, k, n, n_figures, df) for _ in range(n_sweeps))
    assert found[DIFFERS] <= most, found
    assert found[WITHIN] > 0.8 * n_sweeps, found


def test_a_shift_of_all_runs_is_seen():
    """A change of the code made every run worse by 30 standard deviations; the seeds'
    spread stayed the same.
    """
    rng = np.random.default_rng(1)
    values = {str(s): list(rng.normal(s, 0.1, size=3)) for s in range(4)}
    committed = table_of(values)
    again = {
        row.line: Again("finished", {LOSS: repetition.written(float(row.figures[LOSS]) + 3)})
        for row in committed
    }
    found = compare(committed, again, [LOSS])
    assert Counter(one.verdict for one in found)[DIFFERS] >= 10
    assert repetition.verdict(found) == DIFFERS


def test_the_verdict_of_a_sweep():
    row = table_of({"a": [1.0]})[0]

    def of(*pairs: tuple[str, str]) -> str:
        return repetition.verdict([repetition.Compared(row, f, "1", "2", v) for f, v in pairs])

    best, test, other = "val/loss_best", "test/loss", "test/other"
    assert repetition.judged_by([best, other, test]) == [best, test]
    assert of() == UNTOLD and of((best, EQUAL), (test, EQUAL)) == EQUAL
    assert of((best, EQUAL), (other, WITHIN)) == WITHIN
    assert of((best, WITHIN), (other, UNTOLD)) == WITHIN  # not what the sweep is judged by
    assert of((best, WITHIN), (test, UNTOLD)) == UNTOLD == of((best, WITHIN), ("status", UNTOLD))
    assert of((best, UNTOLD), (other, DIFFERS)) == DIFFERS
    assert of((best, EQUAL), (other, UNTOLD)) == WITHIN


def test_figures_of_a_run():
    run = Run(Path("x"), {"headline": "val/mse"}, {"status": "finished", "headline": 0.12345678})
    run.rows = [
        {"val/mse": 0.2, "val/mig": 0.1},
        {"val/mig": 0.3},
        {"test/mse": 0.25, "val/mig": 0.2, "test/x": None},
    ]
    columns = ["val/mig_best", "val/mse_best", "test/mse", "test/x", "test/gone"]
    found = repetition.figures_of(run, columns, Metric("val/mig", "maximize"))
    assert list(found.values()) == ["0.3", "0.123457", "0.25", "", ""]


# ---- what is shown -------------------------------------------------------------------------------------


def many(n: int = 3) -> list[repetition.Compared]:
    """Comparisons of every kind, with long names."""
    values = {f"model=transformer learning_rate={s}": [s + 0.01 * i for i in range(3)] for s in range(1, n)}
    committed = table_of(values, "test/kernel_distance_floor")
    found = []
    for line, new in ((2, 1.0), (3, 1.02), (4, 900.0)):
        found.append(judge(committed, line, new, "test/kernel_distance_floor"))
    return [
        *found,
        dataclasses.replace(
            found[0], verdict=UNTOLD, figure="test/x", new="1.1", deviation=0.1, why="one seed"
        ),
    ]


@pytest.mark.parametrize("width", range(60, 161, 10))
def test_the_table_at_every_width(width):
    out = Console(file=io.StringIO(), width=width, highlight=False)
    verdict.print_table(many(), out)
    for line in verdict.lines(many()):
        verdict.say(line, out)
    verdict.say(verdict.conclusion(many(), 3), out)
    text = out.file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    (row,) = [
        line.split() for line in text.splitlines() if line.split()[:1] == ["test/kernel_distance_floor"]
    ]
    assert row[1:5] == ["1", "1", "1", "0"]  # equal, within the seeds, differs, can't tell
    assert (
        "does not hold: of 4 figures of 3 runs 1 equal, 1 within the seeds, 1 differs, 1 can't be told"
        in (" ".join(text.split()))
    )
    if width >= 160:
        assert row[5:] == ["4", *row[6:8], "1.02", "900", "model=transformer", "learning_rate=1", "seed=2"]


def test_the_worst_comes_first():
    said = verdict.lines(many())
    assert said[0].startswith(
        "differs: test/kernel_distance_floor of model=transformer learning_rate=1 seed=2: "
        "1.02 committed, 900 here, +"
    )
    assert said[1].endswith("1 committed, 1.1 here, +10 %; one seed") and len(said) == 2
    lots = verdict.lines(many()[2:3] * 25)
    assert len(lots) == 21 and lots[-1] == "and 5 more; --json has all"
    assert verdict.lines(many()[:1]) == [] and verdict.lines(many()[:2])[0].startswith("within the seeds: ")


def test_a_weak_test_is_called_so():
    few = judge(table_of({"a": [1.0, 1.1, 1.2]}), 2, 1.05)
    assert few.verdict == WITHIN and verdict.weakness([few]).endswith(
        "off by 90 standard deviations or more would be said to differ"
    )
    many_seeds = {str(s): [s, s + 0.1, s + 0.2] for s in range(6)}
    assert verdict.weakness([few, judge(table_of(many_seeds), 2, 0.05)]) == "" == verdict.weakness([])


@pytest.mark.parametrize(
    ("header", "line", "likely"),
    [
        (
            "1 to 2 minutes a run on one of two\n#           busy cores; the 24 took 22 minutes.",
            None,
            "3 to 6 minutes",
        ),
        ("3 minutes of a core each (AMD EPYC).", None, "9 minutes"),
        ("13 min on 2 cores, beside another training (2 min a run).", None, "6 minutes"),
        ("21 min on 2 cores: 3 min a run that draws, 9 one that reads.", None, ""),
        ("to be measured", None, ""),
    ],
)
def test_how_long_it_will_take(header, line, likely):
    found = reproduce.time_line(f"# Question  x\n# Time      {header}\n# Finding   none\nprogram: x\n")
    assert found == " ".join(header.replace("\n#", "").split())
    assert reproduce.likely_minutes(found, 5, 2) == (
        f"so 5 runs on 2 workers may take about {likely} on such a machine" if likely else ""
    )
    assert reproduce.time_line("program: x\n") == ""


# ---- rows as trials ------------------------------------------------------------------------------------

SWEEP = {
    "program": "research/vae_mnist.py",
    "method": "grid",
    "metric": {"name": "val/elbo_nats_best", "goal": "maximize"},
    "parameters": {
        "dataset": {"value": "digits"},
        "width": {"value": 16},
        "depth": {"value": 2},
        "iw_samples": {"value": 2},
        "steps": {"value": 30},
        "eval_every": {"value": 15},
        "sample_every": {"value": 1000},
        "latent_dim": {"values": [2, 4]},
        "seed": {"values": [0, 1]},
    },
}
HEADER = ["latent_dim", "seed", "status", "val/elbo_nats_best", "test/elbo_nats", "commit"]
ROWS = [
    [2, 0, "finished", -584.489, -583.978, "9c86844dbc"],
    [2, 1, "finished", -545.007, -545.035, "9c86844dbc"],
    [4, 0, "finished", -576.196, -579.388, "9c86844dbc"],
    [4, 1, "diverged", -641.65, "", "9c86844dbc"],
]


def write(folder: Path, header=HEADER, cells=ROWS, **changes) -> Path:
    """A sweep and its committed results."""
    path = folder / "tiny.yaml"
    text = "# Question  does it run?\n# Time      1 minute a run.\n"
    path.write_text(text + yaml.safe_dump(SWEEP | changes, sort_keys=False))
    (folder / "results").mkdir(exist_ok=True)
    with open(folder / "results" / "tiny.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *cells])
    return path


def read_table(path: Path) -> rows.Table:
    return rows.read(plan.read(str(path)))


def with_parameters(**parameters: dict) -> dict:
    return {"parameters": SWEEP["parameters"] | parameters}


COMMITTED = sorted(
    path
    for path in (ROOT / "sweeps").glob("*.yaml")
    if (path.parent / "results" / f"{path.stem}.csv").exists()
)


@pytest.mark.parametrize("sweep", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_table_can_be_run_again(sweep):
    """No data are loaded, and nothing is run."""
    table = read_table(sweep)
    path = sweep.parent / "results" / f"{sweep.stem}.csv"
    cells = list(csv.DictReader(path.open()))
    assert len(table.rows) == len(cells) and table.figures
    assert {i for i, row in enumerate(cells) if row["status"] in ("finished", "diverged")} == {
        *table.repeatable()
    }
    for row, cfg in zip(cells, table.configs):
        assert "seed" not in row or cfg.seed == int(row["seed"])
    chosen = rows.choose(table, 3)
    again = rows.sweep_of(table, chosen, ["x"])
    assert [again.points[i] for i in range(len(chosen))] == [table.points[i] for i in sorted(chosen)]
    content = yaml.safe_load(again.text)
    assert content == again.content and plan.sweep_file.refusal(content, False) is None


def test_points_are_those_of_the_grid(tmp_path):
    sweep = plan.read(str(write(tmp_path)))
    table = rows.read(sweep)
    assert table.points == [*sweep.points]  # so a run has the key that it had
    assert [row.label for row in table.rows][:2] == ["latent_dim=2 seed=0", "latent_dim=2 seed=1"]
    assert table.rows[0].setting == (("latent_dim", "2"),) and table.repeatable() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("parameters", "text", "value"),
    [
        ({"learning_rate": {"values": ["1e-3", 0.01]}}, "0.001", "1e-3"),
        ({"learning_rate": {"values": [1.0, 2.0]}}, "1", 1.0),
        ({"learning_rate": {"min": 0.001, "max": 0.01}}, "0.005926488783617365", 0.005926488783617365),
        ({"learning_rate": {"distribution": "log_uniform", "min": -9, "max": -2}}, "0.1", 0.1),
        ({"learning_rate": {"distribution": "log_normal", "mu": 0, "sigma": 1}}, "31.5", 31.5),
        ({"learning_rate": {"distribution": "q_uniform", "min": 0.3, "max": 1, "q": 0.5}}, "1", 1),
        ({"batch_size": {"min": 8, "max": 64}}, "33", 33),
    ],
)
def test_values_of_every_kind(tmp_path, parameters, text, value):
    (name,) = parameters
    path = write(
        tmp_path,
        [name, *HEADER],
        [[text, *row] for row in ROWS],
        **with_parameters(**parameters),
        method="random",
        run_cap=4,
    )
    point = read_table(path).points[0]
    assert (point[name], type(point[name])) == (value, type(value))


def test_confirming_seeds_and_rows_that_were_stopped(tmp_path):
    changes = with_parameters(seed={"value": 0}) | {
        "method": "bayes",
        "run_cap": 3,
        "early_terminate": {"type": "hyperband", "min_iter": 3},
    }
    cells = [[2, 0, "stopped", -1, "", "x"], *ROWS[1:3], [4, 7, "failed", "", "", "x"]]
    table = read_table(write(tmp_path, cells=cells, **changes))
    assert [point["seed"] for point in table.points] == [0, 1, 0, 7] and table.repeatable() == [1, 2]
    assert table.left_out().startswith("2 rows can't be run again (1 stopped, 1 failed)")
    again = rows.sweep_of(table, [2, 1], ["launch/reproduce.py"])
    assert again.content["method"] == "grid" and not {"early_terminate", "run_cap"} & set(again.content)
    assert "# Points    2 of 4 rows of" in again.text and "Time" not in again.text
    assert len(again.points) == 2


@pytest.mark.parametrize(
    ("header", "cells", "changes", "parts"),
    [
        (
            ["latent", *HEADER[1:]],
            ROWS,
            {},
            ("column latent is not a flag of research/vae_mnist.py", "did you mean"),
        ),
        (HEADER, [[3, *ROWS[0][1:]]], {}, ("tiny.csv, line 2: latent_dim is 3, but", "tiny.yaml has 2, 4")),
        (HEADER, [[2, 5, *ROWS[0][2:]]], {}, ("line 2: seed is 5", "has 0, 1")),
        (
            HEADER,
            [[2, "x", *ROWS[0][2:]]],
            with_parameters(seed={"value": 0}),
            ("line 2: seed is x: must be a whole",),
        ),
        (HEADER[1:], [row[1:] for row in ROWS], {}, ("has no column latent_dim, which", "varies")),
        (HEADER, [ROWS[0], ROWS[1], ROWS[0]], {}, ("lines 2 and 4 are the same run",)),
        (["depth", *HEADER], [[3, *ROWS[0]]], {}, ("line 2: depth is 3, but", "has 2")),
        (["beta", *HEADER], [[3, *ROWS[0]]], {}, ("line 2: beta is 3, but", "makes it 1")),
        (HEADER, [[2, 0, "finished"]], {}, ("line 2: 3 cells, but there are 6 columns",)),
        (HEADER, [], {}, ("holds no runs",)),
        (HEADER[:3], [row[:3] for row in ROWS], {}, ("holds no figures",)),
        (["latent_dim", "seed"], [[2, 0]], {}, ("not the results of a sweep",)),
        ([], [], {}, ("not the results of a sweep",)),
        (
            ["learning_rate", *HEADER],
            [[0.2, *ROWS[0]]],
            with_parameters(learning_rate={"min": 0.001, "max": 0.01}) | {"method": "random", "run_cap": 4},
            ("learning_rate is 0.2, but", "has 0.001 to 0.01"),
        ),
        (
            ["learning_rate", *HEADER],
            [["", *ROWS[0]]],
            with_parameters(learning_rate={"values": [0.001, 0.01]}),
            ("learning_rate is empty, but",),
        ),
        (
            ["learning_rate", *HEADER],
            [[-1, *ROWS[0]]],
            with_parameters(learning_rate={"distribution": "log_normal"})
            | {"method": "random", "run_cap": 4},
            ("line 2: --learning_rate=-1.0: must be a number above 0",),
        ),
    ],
)
def test_a_table_that_is_another_sweeps(tmp_path, header, cells, changes, parts):
    path = write(tmp_path, header, cells, **changes)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_table_that_is_not_there(tmp_path):
    sweep = plan.read(str(write(tmp_path)))
    (tmp_path / "results/tiny.csv").unlink()
    with pytest.raises(
        UserError, match=r"^no results were committed for .*tiny.yaml: there is no .*tiny.csv"
    ):
        rows.read(sweep)
    with pytest.raises(UserError, match=r"^--csv=.*other.csv: no such file"):
        rows.read(sweep, tmp_path / "other.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a table"):
        rows.read(sweep, tmp_path / "binary.csv")


def test_chosen_rows_spread_over_settings_first(tmp_path):
    values = [2, 3, 4, 5, 6]
    cells = [[d, seed, *ROWS[0][2:]] for d in values for seed in (0, 1, 2)]
    parameters = with_parameters(latent_dim={"values": values}, seed={"values": [0, 1, 2]})
    table = read_table(write(tmp_path, cells=cells, **parameters))
    sequence = rows.choose(table, 99)
    assert sorted(sequence) == list(range(15))
    for n in range(1, 16):
        assert rows.choose(table, n) == sequence[:n]  # a few runs can become more
        settings_ = Counter(table.rows[i].setting for i in sequence[:n])
        assert max(settings_.values()) - min(settings_[(("latent_dim", str(d)),)] for d in values) <= 1
    assert {table.configs[i].seed for i in sequence[:3]} == {0, 1, 2}
    assert {table.configs[i].latent_dim for i in sequence[:2]} == {2, 6}  # the ends before what lies between


def flags_of(path: Path, **changes) -> reproduce.Flags:
    places = {} if "compare" in changes else {"out": str(path.parent / "runs")}
    return reproduce.Flags(sweep=str(path), **places, **changes)


def test_how_many_rows(tmp_path):
    path = write(tmp_path)
    table = read_table(path)
    assert sorted(reproduce.chosen_rows(flags_of(path), table)) == [0, 1, 2, 3]
    assert reproduce.chosen_rows(flags_of(path, runs=2), table) == [0, 3]
    with pytest.raises(UserError, match=r"^--runs=5: .*tiny.csv has 4 rows to run again"):
        reproduce.chosen_rows(flags_of(path, runs=5), table)
    with pytest.raises(UserError, match=r"^--runs=0: must be at least 1"):
        flags_of(path, runs=0)
    with pytest.raises(UserError, match=r"^--workers=0: must be at least 1"):
        flags_of(path, workers=0).of_sweep(table.sweep)
    for place in (tmp_path, tmp_path / "gone" / "x.json"):
        with pytest.raises(UserError, match=r"^--json=.*: must be a file in an existing folder"):
            flags_of(path, json=place)
    ignored = ({"out": "x"}, {"wandb": "offline"}, {"retry": True}, {"fresh": True}, {"reuse": True})
    for flag in ({"runs": 1}, {"name": "x"}, {"workers": 2}, {"threads": 1}, {"runs_per_gpu": 2}, *ignored):
        with pytest.raises(UserError, match="must be left out with --compare, which runs nothing"):
            flags_of(path, compare=tmp_path, **flag)
    stopped = read_table(write(tmp_path, cells=[[2, 0, "stopped", -1, "", "x"]]))
    with pytest.raises(UserError, match="no row finished or diverged"):
        reproduce.chosen_rows(flags_of(path), stopped)


def test_the_folder_of_a_repetition(tmp_path, monkeypatch):
    """Its trials are the rows, and it can grow. A whole sweep can't continue in its folder, nor can it in
    that of a sweep.
    """
    path = write(tmp_path)
    table = read_table(path)
    flags = flags_of(path, runs=2)
    monkeypatch.chdir(ROOT)
    own = flags.of_sweep(table.sweep)

    def prepare(chosen: list[int]):
        return begin.prepare(own, rows.sweep_of(table, chosen, reproduce.words_of(flags)))

    folder = begin.folder_of(own, table.sweep)
    assert folder == tmp_path / "runs" / "tiny_again" and reproduce.with_those_begun(table, [0], folder) == [
        0
    ]
    queue, planned = prepare([0, 3])
    assert planned == 2 and [trial.flags for trial in queue.trials()] == [table.points[0], table.points[3]]
    assert reproduce.with_those_begun(table, [1], folder) == [1, 0, 3]
    queue, planned = prepare([1, 0, 3])
    assert planned == 3 and table.points[1] in [trial.flags for trial in queue.trials()]
    # a worker that finds too few makes points of the table, and no others
    for file in (folder / "trials").glob("*.json"):
        file.unlink()
    fresh = begin.Queue(folder)
    assert begin.Proposer(fresh, yaml.safe_load((folder / "sweep.yaml").read_text())).make(
        begin.leases.Watch()
    )
    assert [trial.flags for trial in fresh.trials()] == [table.points[i] for i in (0, 1, 3)]

    local = LocalFlags(sweep=str(path), out=str(tmp_path / "runs"), name="tiny_again")
    with pytest.raises(UserError, match=r"holds single points, and python launch/reproduce.py .*tiny.yaml"):
        begin.prepare(local, plan.read(str(folder / "sweep.yaml")))
    again = words.sweep_command(read_sweep(folder))
    assert again == f"python launch/reproduce.py {path} --runs=2 --out={tmp_path}/runs"
    whole = dataclasses.replace(local, name="tiny")
    begin.prepare(whole, table.sweep)
    with pytest.raises(UserError, match="holds a whole sweep, not single points: choose another --name"):
        begin.prepare(dataclasses.replace(own, name="tiny"), rows.sweep_of(table, [0], ["x"]))


def run_of(folder: Path, table: rows.Table, i: int, status: str = "finished", **changes) -> Path:
    """A run folder like one that a script leaves, with the figures of row i."""
    flags = json.loads(json.dumps(dataclasses.asdict(table.configs[i]), default=str))
    segment = {"host": "x", "torch": "2.9", "device": "cpu", "threads": 1}
    row = table.rows[i]
    folder.mkdir(parents=True)
    config = {
        "family": "vae_mnist",
        "key": folder.name,
        "flags": flags | changes,
        "headline": "val/elbo_nats",
    }
    write_json(folder / "config.json", config | {"goal": "maximize"})
    best = float(row.figures["val/elbo_nats_best"])
    write_json(folder / "status.json", {"status": status, "headline": best, "segments": [segment]})
    test = row.figures["test/elbo_nats"]
    (folder / "metrics.jsonl").write_text(json.dumps({"test/elbo_nats": float(test)} if test else {}) + "\n")
    return folder


def test_runs_that_are_there_already(tmp_path, capsys):
    """--compare: runs are found by their flags, whatever their folders are called."""
    path = write(tmp_path)
    table = read_table(path)
    made = tmp_path / "made"
    run_of(made / "a", table, 1)
    run_of(made / "b", table, 3, "diverged")
    run_of(made / "other", table, 0, steps=31)
    assert {i: run.folder.name for i, run in rows.runs_of(table, read_sweep(made).runs).items()} == {
        1: "a",
        3: "b",
    }
    flags = flags_of(path, compare=made, json=tmp_path / "x.json")
    assert reproduce.report(flags, table, made, table.repeatable()) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 rows of" in text and "without a run in" in text
    assert text.endswith("tiny: holds exactly: all 3 figures of 2 runs are equal to the last digit")
    assert "torch 2.9, cpu, 1 thread" in text and "the CSV does not record torch's version" in text
    elsewhere = [
        dataclasses.replace(row, machine="torch 2.8, cuda, 1 thread, NVIDIA H200") for row in table.rows
    ]
    runs = rows.runs_of(table, read_sweep(made).runs)
    new = "the new runs: torch 2.9, cpu, 1 thread"
    other = dataclasses.replace(table, rows=elsewhere)
    assert reproduce.of_machine(other, runs) == [
        new,
        f"2 committed runs: {elsewhere[0].machine}",
    ]
    partly = dataclasses.replace(table, rows=[*table.rows[:2], *elsewhere[2:]])
    assert reproduce.of_machine(partly, runs) == [
        new,
        f"1 committed run: {elsewhere[0].machine}",
        "the CSV does not record torch's version, processor and threads of 1 committed run",
    ]
    same = [dataclasses.replace(row, machine="torch 2.9, cpu, 1 thread") for row in table.rows]
    same = dataclasses.replace(table, rows=same)
    assert reproduce.of_machine(same, runs) == [
        new,
        "the committed runs: the same torch, device, threads and processor",
    ]
    kept = json.loads((tmp_path / "x.json").read_text())
    assert (kept["verdict"], kept["exit_code"], kept["runs"]) == ("holds exactly", 0, 2)
    assert [one["figure"] for one in kept["figures"]] == [
        "val/elbo_nats_best",
        "test/elbo_nats",
        "val/elbo_nats_best",
    ]

    # a run that failed, and one that is not at its end
    failed = run_of(tmp_path / "failed" / "a", table, 1, "failed")
    assert reproduce.report(flags_of(path, compare=failed), table, failed, [1]) == 1
    text = capsys.readouterr().out
    assert "differs: status of latent_dim=2 seed=1: finished committed, failed here" in text
    assert "1 run failed here\n" in text
    run_of(made / "c", table, 2, "preempted")
    assert reproduce.report(flags, table, made, table.repeatable()) == 75
    text = capsys.readouterr().out
    assert "so far it holds exactly" in text and text.endswith("not ended: 1 of 4 runs\n")

    with pytest.raises(UserError, match="no such folder"):
        reproduce.found_in(tmp_path / "gone", table)
    with pytest.raises(UserError, match="holds no runs"):
        reproduce.found_in(tmp_path / "results", table)
    run_of(tmp_path / "others" / "x", table, 0, steps=31)
    with pytest.raises(
        UserError, match=r"none of its runs is a row of .*; the nearest has steps 31, in the table 30"
    ):
        reproduce.found_in(tmp_path / "others", table)


def test_what_is_said_of_the_code(tmp_path, monkeypatch):
    table = read_table(write(tmp_path))
    monkeypatch.setattr(reproduce, "since", lambda commit, family: f"since {commit} {family}")
    (line,) = reproduce.of_code(table)
    assert line.startswith("code: 4 rows by 9c86844dbc, ") and line.endswith(": since 9c86844dbc vae_mnist")


def test_since_a_commit():
    git = ["git", "-C", str(ROOT), "log", "--format=%h"]
    found = subprocess.run([*git, "-1", "--", "research/vae_mnist.py"], capture_output=True, text=True)
    if found.returncode or not found.stdout.strip():
        assert "not" in reproduce.since("0" * 10, "vae_mnist")
        return
    assert reproduce.since("0" * 10, "vae_mnist") == "that commit is not in this clone"
    assert reproduce.since("--output=x", "vae_mnist") == "--output=x is not a commit"
    assert "changes that were not committed" in reproduce.since(f"{found.stdout.strip()}-dirty", "vae_mnist")
    assert re.fullmatch(
        r"(\d+ of )?the \d+ files behind vae_mnist (are the same|have changed since)",
        reproduce.since(found.stdout.strip(), "vae_mnist"),
    )


# ---- the real command ----------------------------------------------------------------------------------

ENV = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "RUN_LEASE", "SLURM"))}
ENV |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def begun(place: Path, script: str, *args: str) -> int:
    """Start a launcher in a fork of this process, which has imported torch already; its process id. What it
    says goes to files `out` and `err`.
    """
    command = [str(ROOT / "launch" / script), *args]
    return fork(lambda: run_script(command, place), place / "out", place / "err", ENV)


def ended(place: Path, pid: int) -> tuple[int, str, str]:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, (place / "out").read_text(), (place / "err").read_text()


def call(place: Path, script: str, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a launcher."""
    return ended(place, begun(place, script, *args))


def test_a_sweep_is_run_again(tmp_path):
    """A sweep is run, committed and reproduced; interrupted and continued; and then somebody changes a
    figure.
    """
    write(tmp_path)
    machine = ["--workers=1", "--threads=1"]
    code, _, err = call(tmp_path, "local.py", "tiny.yaml", *machine)
    assert code == 0, err
    table = tmp_path / "results" / "tiny.csv"
    code, _, err = call(tmp_path, "report.py", "runs/tiny", f"--csv={table}", f"--out={tmp_path / 'x.html'}")
    assert code == 0, err

    # Ctrl-C while it trains, then the same command
    folder = tmp_path / "runs" / "tiny_again"
    pid = begun(tmp_path, "reproduce.py", "tiny.yaml", "--runs=3", *machine)
    try:
        deadline = time.monotonic() + 600
        while not list(folder.glob("[0-9a-f]*/lease.*")):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(pid, signal.SIGINT)
        code, out, err = ended(tmp_path, pid)
    assert code == 75, out + err
    assert "of 3 runs; the same command continues" in " ".join(out.split())
    code, out, err = call(tmp_path, "reproduce.py", "tiny.yaml", "--runs=3", *machine, "--json=a.json")
    assert code == 0 and out.endswith("are equal to the last digit\n"), out + err
    assert "3 of 4 rows of results/tiny.csv" in err and "line 2: latent_dim=2 seed=0" in err
    assert "time, according to the sweep's header: 1 minute a run." in err
    kept = json.loads((tmp_path / "a.json").read_text())
    assert (kept["verdict"], kept["runs"], kept["rows"]) == ("holds exactly", 3, 4)
    assert {one["verdict"] for one in kept["figures"]} == {"equal"} and len(kept["figures"]) >= 18

    # a figure that was changed
    lines = list(csv.reader(table.open()))
    at = lines[0].index("test/rec_nats")
    lines[1][at] = f"{float(lines[1][at]) * 1.05:.6g}"
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    code, out, err = call(tmp_path, "reproduce.py", "tiny.yaml", "--compare=runs/tiny_again")
    assert code == 1, out + err
    said = " ".join(out.split())
    assert f"differs: test/rec_nats of latent_dim=2 seed=0: {lines[1][at]} committed, " in said
    assert "tiny: does not hold: of " in said and "1 differs" in said
    assert "1 row of results/tiny.csv without a run in runs/tiny_again: not compared" in said

    # a mistake is one line
    code, out, err = call(tmp_path, "reproduce.py", "tiny.yaml", "--runs=5")
    assert (code, out, err) == (2, "", "error: --runs=5: results/tiny.csv has 4 rows to run again\n")
