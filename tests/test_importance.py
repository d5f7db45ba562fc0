"""What mattered in a sweep: planted effects, pure noise, properties, tables with gaps, committed results."""

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.results import importance, read
from launch.results.importance import (
    MATTERS,
    NOISE,
    NOTHING,
    ONE_VALUE,
    TOO_FEW,
    for_json,
    plots,
    what_mattered,
)
from tests.test_report import make_run

RESULTS = Path(__file__).resolve().parents[1] / "sweeps" / "results"
FIGURE = "val/loss"


def quick():
    """Use a smaller forest, for properties that hold with any forest."""
    return patch.multiple(importance, REPEATS=5, REPEATS_SHUFFLED=2, SHUFFLED=5, RESAMPLES=100)


def table(flags, figure, status="finished", **columns):
    """A table as a results CSV has it."""
    return pd.DataFrame({**flags, "status": status, FIGURE: figure, **columns})


def grid(**flags):
    """Columns of every combination of the flags' values."""
    return dict(zip(flags, zip(*itertools.product(*flags.values()))))


def search(rng, n):
    """Columns of a random search over a rate, a count, a word and a number that may be None."""
    return {
        "learning_rate": 10 ** rng.uniform(-5, -1, n),
        "width": rng.choice([64, 128, 256], n),
        "optimizer": rng.choice(["adam", "sgd", "muon"], n),
        "clip": rng.choice([None, 0.1, 1.0], n),
    }


def by_flag(found):
    return {row.flag: row for row in found.flags}


def mattering(found):
    return {row.flag for row in found.flags if row.verdict == MATTERS}


# ------------------------------------------------------------------------------------------- planted effects


@pytest.mark.parametrize("seed", range(4))
def test_the_flag_that_decides_matters_and_no_other(seed):
    """A random search: the figure depends on one flag, in turn a number, a word or None, plus noise."""
    rng = np.random.default_rng(seed)
    flags = search(rng, 40)
    effects = {
        "learning_rate": (np.log10(flags["learning_rate"]) + 3) ** 2,
        "width": 2 * np.log2(flags["width"]),
        "optimizer": 3.0 * (flags["optimizer"] == "sgd"),
        "clip": 3.0 * (flags["clip"] == np.array(None)),
    }
    flag = list(effects)[seed]
    found = what_mattered(table(flags, effects[flag] + rng.normal(0, 0.5, 40)), FIGURE)
    assert mattering(found) == {flag} and found.verdict == MATTERS and found.unit == "configuration"
    first, *others = found.flags
    assert first.flag == flag and first.low < first.importance < first.high and first.noise < first.importance
    assert first.importance > 0.4 and all(abs(row.importance) < 0.15 for row in others)
    assert found.why.startswith(f"{flag} matters; a forest predicts") and found.r2 > 0.4


@pytest.mark.parametrize("seed", range(2))
def test_a_grid_with_seeds(seed):
    rng = np.random.default_rng(seed)
    flags = grid(beta=[0, 1, 4], mode=["a", "b"], depth=[1, 2], seed=[0, 1, 2])
    figure = 2.0 * np.array(flags["beta"]) + rng.normal(size=36)
    found = what_mattered(table(flags, figure), FIGURE, "maximize")
    assert mattering(found) == {"beta"} and (found.n_configurations, found.unit) == (12, "run")
    assert by_flag(found)["beta"].better == "larger" and found.flags[-1].flag == "seed"


def test_a_word_alone_decides_among_few_configurations():
    """A sweep of one flag with three seeds each, in which no whole configuration can be held out."""
    rng = np.random.default_rng(0)
    flags = grid(model=["lstm", "tcn", "transformer"], seed=[0, 1, 2, 3])
    figure = np.array([{"lstm": 0, "tcn": 5, "transformer": 9}[m] for m in flags["model"]])
    found = what_mattered(table(flags, figure + rng.normal(size=12)), FIGURE)
    model, seed = found.flags
    assert (model.flag, model.kind, model.verdict) == ("model", "category", MATTERS)
    assert math.isnan(model.spearman) and math.isnan(model.spearman_low) and model.better is None
    assert (seed.kind, seed.verdict) == ("category", NOISE) and math.isnan(seed.spearman)


def test_flags_that_only_matter_together():
    """Exclusive or: neither flag changes the mean, and both together decide."""
    rng = np.random.default_rng(0)
    flags = grid(a=[0, 1], b=["x", "y"], c=[0, 1], seed=range(6))
    figure = np.array(flags["a"]) ^ (np.array(flags["b"]) == "y")
    found = what_mattered(table(flags, figure + rng.normal(0, 0.2, 48)), FIGURE)
    assert mattering(found) == {"a", "b"}
    assert abs(by_flag(found)["a"].spearman) < 0.2


def test_a_small_sure_effect_below_a_large_one():
    rng = np.random.default_rng(0)
    flags = grid(latent_dim=[2, 20], rate=[0.001, 0.003], depth=[1, 2], seed=[0, 1, 2])
    figure = 100.0 * np.array(flags["latent_dim"]) + 300 * np.array(flags["rate"])
    found = what_mattered(table(flags, figure + rng.normal(0, 0.1, 24)), FIGURE)
    assert mattering(found) == {"latent_dim", "rate"}
    assert by_flag(found)["latent_dim"].importance > 3 * by_flag(found)["rate"].importance


def test_the_seed_is_a_row_and_may_matter():
    rng = np.random.default_rng(0)
    flags = grid(a=[0, 1, 2], b=[0, 1], seed=[0, 1, 2])
    found = what_mattered(table(flags, 5.0 * np.array(flags["seed"]) + rng.normal(size=18)), FIGURE)
    assert mattering(found) == {"seed"} and found.why.startswith("seed matters")


def test_importance_is_a_share_of_the_variance():
    """For y = 2 a + b with independent a and b, a explains 4/5 and b 1/5; the forest finds a bit less."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 400))
    with patch.multiple(importance, SHUFFLED=1):
        found = by_flag(what_mattered(table({"a": a, "b": b, "c": c}, 2 * a + b), FIGURE))
    assert found["a"].importance == pytest.approx(0.8, abs=0.1)
    assert found["b"].importance == pytest.approx(0.2, abs=0.05)
    assert found["c"].importance == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_monotone_figure_has_rank_correlation_one(sign):
    rate = np.geomspace(1e-6, 0.3, 24)
    df = table({"rate": rate, "other": [0, 1] * 12}, sign * np.exp(30 * rate))
    for goal, better in (("minimize", "smaller"), ("maximize", "larger")):
        row = by_flag(what_mattered(df, FIGURE, goal))["rate"]
        assert (row.spearman, row.spearman_low, row.spearman_high) == pytest.approx((sign, sign, sign))
        assert row.log and row.verdict == MATTERS
        assert row.better == (better if sign == 1 else {"smaller": "larger", "larger": "smaller"}[better])


# ------------------------------------------------------------------------------------------------ pure noise


def noise_sweep(i):
    """One of six designs with figures that do not depend on any flag."""
    rng = np.random.default_rng(i)
    designs = [
        grid(a=[0, 1], b=[0, 1], c=[0, 1], d=["x", "y"], e=[0, 1]),
        grid(a=[0, 1], b=[0, 1, 2], c=["x", "y"], seed=[0, 1]),
        grid(a=[0, 1, 2], seed=[0, 1, 2]),
        grid(a=[1, 2, 4, 8], b=["x", "y", "z"]),
        search(rng, 30),
        {name: np.repeat(values, 3) for name, values in search(rng, 12).items()} | {"seed": [0, 1, 2] * 12},
    ]
    flags = designs[i % len(designs)]
    n = len(next(iter(flags.values())))
    return table(flags, [rng.normal(size=n), rng.standard_cauchy(n)][i % 2])


def test_in_pure_noise_nothing_matters():
    """In at least 19 of 20 sweeps. In 4 of 300 sweeps (python -m tests.test_importance) a flag passed."""
    found = [what_mattered(noise_sweep(i), FIGURE) for i in range(20)]
    assert sum(bool(mattering(one)) for one in found) <= 1
    assert any(one.verdict == NOISE and "no flag is distinguishable from noise" in one.why for one in found)


def test_a_forest_that_memorises_gets_no_importance():
    """Each configuration has a figure of its own, equal over its seeds: any unique value gives it away."""
    rng = np.random.default_rng(1)
    own = rng.normal(size=20)
    flags = {name: np.repeat(rng.uniform(size=20), 4) for name in "abc"} | {"seed": [0, 1, 2, 3] * 20}
    found = what_mattered(table(flags, np.repeat(own, 4)), FIGURE)
    assert not mattering(found) and found.unit == "configuration"
    assert found.r2 < 0.1 and max(row.importance for row in found.flags) < 0.1


def test_seeds_do_not_narrow_an_interval():
    """Runs that repeat a configuration's figure tell nothing new, so intervals stay about as wide."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 30))
    figure = a + rng.normal(0, 0.3, 30)
    with quick():
        one = by_flag(what_mattered(table({"a": a, "b": b}, figure), FIGURE))["a"]
        flags = {"a": np.repeat(a, 9), "b": np.repeat(b, 9), "seed": list(range(9)) * 30}
        many = by_flag(what_mattered(table(flags, np.repeat(figure, 9)), FIGURE))["a"]
    assert many.spearman == pytest.approx(one.spearman, abs=0.01)
    width = one.spearman_high - one.spearman_low
    assert many.spearman_high - many.spearman_low == pytest.approx(width, rel=0.3)
    assert many.high - many.low > 0.5 * (one.high - one.low)


# ------------------------------------------------------------------------------------- what can't be told


def test_too_few_runs():
    found = what_mattered(table({"a": range(7)}, range(7)), FIGURE)
    assert found.verdict == TOO_FEW and found.flags[0].verdict == TOO_FEW
    assert found.why == "only 7 finished runs with the figure; at least 8 are needed"
    eight = table(grid(a=[0, 1], b=[0, 1], c=[0, 1]), [0, 0, 0, 0, 1, 1, 1, 2])  # 2 of 70 deals are as clear
    found = what_mattered(eight, FIGURE)
    assert (
        found.verdict == TOO_FEW
        and "a flag that alone decides the figure would look like chance" in found.why
    )
    assert all(math.isnan(row.importance) for row in found.flags)
    # of many runs, but with one that has another value
    rng = np.random.default_rng(0)
    odd = table({"a": rng.uniform(size=12), "b": ["x"] * 11 + ["y"]}, rng.normal(size=12))
    found = by_flag(what_mattered(odd, FIGURE))
    assert found["b"].verdict == TOO_FEW and found["a"].verdict == NOISE and math.isnan(found["b"].noise)


@pytest.mark.parametrize(
    ("df", "figure", "verdict", "why"),
    [
        (table({"a": []}, []), FIGURE, NOTHING, "there are no runs"),
        (table({"a": [1]}, [2.0]), FIGURE, NOTHING, "no flag varies in 1 finished run"),
        (table({}, [2.0] * 9), FIGURE, NOTHING, "no flag varies in 9 finished runs"),
        (table({"seed": range(9)}, range(9)), FIGURE, NOTHING, "only the seed varies in 9 finished runs"),
        (table({"a": range(9)}, [2.0] * 9), FIGURE, NOTHING, "val/loss is the same in 9 finished runs"),
        (table({"a": [1, 2]}, [math.nan] * 2), FIGURE, NOTHING, "no finished run has the figure val/loss"),
        (table({"a": [1, 2]}, [math.inf, None]), FIGURE, NOTHING, "no finished run has the figure val/loss"),
        (table({"a": [1, 2]}, [1, 2]), "test/gone", NOTHING, "no finished run has the figure test/gone"),
        (table({"a": [1, 2]}, ["x", "y"]), FIGURE, NOTHING, "no finished run has the figure val/loss"),
    ],
)
def test_nothing_to_compare(df, figure, verdict, why):
    found = what_mattered(df, figure)
    assert found.verdict == verdict and found.why.startswith(why)
    assert all(math.isnan(row.importance) and row.verdict != MATTERS for row in found.flags)
    assert len(plots(df, figure)) == len(read.flag_columns(df))


def test_runs_without_a_figure_are_counted():
    rng = np.random.default_rng(0)
    flags = grid(a=[0, 1, 2], b=["x", "y"], seed=[0, 1, 2])
    status = ["finished"] * 18
    status[0], status[1], status[2], status[17] = "diverged", "diverged", "failed", "running"
    figure = np.where(np.array(flags["b"]) == "x", 0.0, 5) + rng.normal(size=18)
    figure[16] = math.nan
    found = what_mattered(table(flags, figure, status), FIGURE)
    assert found.left_out == {"diverged": 2, "failed": 1, "finished without the figure": 1, "running": 1}
    assert (found.n_runs, found.n_used) == (18, 13)
    reasons = "2 diverged, 1 failed, 1 finished without the figure, 1 running"
    assert found.why.endswith(f"; 5 of 18 runs left out: {reasons}")
    shares = [(share.label, share.finished, share.ended) for share in by_flag(found)["b"].results]
    assert shares == [("x", 6, 9), ("y", 8, 8)]
    alone = table({"a": [0, 0, 1, 1] * 3}, range(12), ["finished", "diverged"] * 6)
    assert by_flag(what_mattered(alone, FIGURE))["a"].results == []  # both values: half of their runs


def test_all_failed():
    found = what_mattered(table({"a": [1, 2]}, [1.0, 2.0], ["failed", "diverged"]), FIGURE)
    assert found.why == "no finished run has the figure val/loss; 2 of 2 runs left out: 1 diverged, 1 failed"
    assert [group.mean for group in plots(table({"a": [1]}, [1.0], "failed"), FIGURE)[0].groups] == [None]


def test_one_value_beside_others():
    df = table({"a": range(20), "b": ["x"] * 20, "c": [None] * 20}, range(20))
    with quick():
        found = by_flag(what_mattered(df, FIGURE))
    assert [found[name].verdict for name in "bc"] == [ONE_VALUE, ONE_VALUE]
    assert math.isnan(found["b"].importance) and not math.isnan(found["a"].importance)


def test_a_chosen_trial_that_others_confirm_is_left_out():
    df = table({"a": range(12)}, range(12), key=[f"k{i}" for i in range(12)])
    df.attrs["confirmed"] = ["k3"]
    assert what_mattered(df, FIGURE).left_out == {"confirmed by others": 1}


def test_bad_input_is_refused_in_one_line():
    df = table({"a": [1, 2]}, [1, 2])
    for call, words in (
        (lambda: what_mattered(df, FIGURE, "best"), "goal must be minimize or maximize, got 'best'"),
        (lambda: what_mattered(df, "a"), "figure must be a column after status, got the flag a"),
        (lambda: plots(df.drop(columns="status"), FIGURE), "the table has no column status"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)) as error:
            call()
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ properties


@st.composite
def sweeps(draw):
    """Columns of flags and figures of 8 to 24 runs, with ties."""
    n = draw(st.integers(8, 24))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    flags = {
        "rate": column(st.sampled_from([1e-5, 0.001, 0.1, 0.3])),
        "count": column(st.integers(1, 1000)),
        "word": column(st.sampled_from(["x", "y", "z"])),
        "seed": column(st.integers(0, 2)),
    }
    return flags, column(st.integers(0, 50))


@settings(max_examples=8, deadline=None)
@given(sweeps(), st.randoms(use_true_random=False))
def test_neither_order_nor_scale_changes_anything(sweep, random):
    """Rows and columns in another order, another scale of a flag, a monotone function of the figure."""
    flags, figure = sweep
    with quick():
        one = what_mattered(table(flags, figure), FIGURE)
        assert repr(what_mattered(table(flags, figure), FIGURE)) == repr(one)
        rows = list(range(len(figure)))
        random.shuffle(rows)
        names = [*random.sample(["rate", "count", "word"], 3), "seed"]
        other = {name: [flags[name][i] for i in rows] for name in names}
        other["rate"] = [math.log(rate) for rate in other["rate"]]
        other["count"] = [count**60 * 1.0 for count in other["count"]]
        two = what_mattered(table(other, [math.exp(5 * figure[i]) for i in rows]), FIGURE)
    assert two.why == one.why
    assert repr(
        {name: dataclasses.replace(row, log=False) for name, row in sorted(by_flag(one).items())}
    ) == (repr({name: dataclasses.replace(row, log=False) for name, row in sorted(by_flag(two).items())}))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([5e-324, 1e308, -1e308, 10**400, -(10**5000), "1e999", "None", "", "9" * 5000, pd.NA]),
    st.text(st.characters(), max_size=4),  # surrogates and zeros, too
    st.lists(st.integers(0, 2), max_size=2),
)
STATUS = st.sampled_from(["finished"] * 6 + ["diverged", "failed", "stopped", "running", "", None])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_table_gets_an_answer(data):
    """No exception, no NaN in JSON, every run accounted for, means among their runs' figures."""
    n = data.draw(st.one_of(st.integers(0, 9), st.integers(10, 20)))

    def column(values):
        return pd.Series(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=object)

    few = data.draw(st.lists(ODD, min_size=1, max_size=3))
    figure = column(data.draw(st.sampled_from([ODD, st.floats(), st.integers(-3, 3)])))
    df = table({"a": column(ODD), "b": column(st.sampled_from(few)), "seed": column(ODD)}, figure)
    df["status"] = column(data.draw(st.sampled_from([STATUS, st.just("finished")])))
    with quick():
        found = what_mattered(df, FIGURE)
    json.dumps(for_json(found), allow_nan=False)
    assert {found.verdict, *(row.verdict for row in found.flags)} <= {
        MATTERS,
        NOISE,
        TOO_FEW,
        ONE_VALUE,
        NOTHING,
    }
    assert found.n_used + sum(found.left_out.values()) == found.n_runs == n
    assert found.why and sorted(by_flag(found)) == ["a", "b", "seed"]
    for row in found.flags:
        assert math.isnan(row.importance) or row.importance <= 1.5
        assert math.isnan(row.spearman) or -1 <= row.spearman_low <= row.spearman_high <= 1
    for plot in plots(df, FIGURE):
        json.dumps(dataclasses.asdict(plot), allow_nan=False)
        assert sum(group.n for group in plot.groups) == found.n_used == len(plot.x) == len(plot.y)
        for i, group in enumerate(plot.groups):
            inside = [y for y, of in zip(plot.y, plot.group) if of == i]
            assert len(inside) == group.n and (group.mean is None) == (not inside)
            if inside:
                span = max(map(abs, inside)) * 1e-9
                assert min(inside) - span <= group.mean <= max(inside) + span
        assert all(df["status"][row] == "finished" for row in plot.row)


# ---------------------------------------------------------------------------------------------------- charts


def test_plots_of_each_kind():
    flags = {
        "rate": [0.1, 0.001, 0.1, 0.001, None],
        "size": [3, 1, 2, 1, 2],
        "word": ["ü</script>", "b", "ü</script>", "b", "b"],
        "--steps": [True, False, True, False, True],
        "seed": [11, 2, 11, 2, 2],
    }
    status = ["finished", "finished", "finished", "diverged", "finished"]
    found = {plot.flag: plot for plot in plots(table(flags, [1.0, 2, 3, 4, 1e308], status), FIGURE)}
    assert list(found) == list(flags)
    rate, size, word = found["rate"], found["size"], found["word"]
    assert (rate.kind, rate.log, size.log) == ("number", True, False)
    assert [(g.label, g.x, g.low, g.n, g.mean, g.finished, g.ended) for g in rate.groups] == [
        ("None", None, None, 1, 1e308, 1, 1),
        ("0.001", 0.001, 0.001, 1, 2.0, 1, 2),
        ("0.1", 0.1, 0.1, 2, 2.0, 2, 2),
    ]
    assert rate.x == [0.1, 0.001, 0.1, None] and rate.y == [1, 2, 3, 1e308]
    assert rate.row == [0, 1, 2, 4] and rate.group == [2, 1, 2, 0]
    assert (word.kind, [g.label for g in word.groups], word.x) == (
        "category",
        ["b", "ü</script>"],
        [1, 0, 1, 0],
    )
    assert [g.label for g in found["--steps"].groups] == ["False", "True"]
    assert found["seed"].kind == "category" and [g.label for g in found["seed"].groups] == ["2", "11"]


def test_many_numbers_are_put_into_groups():
    rate = [None, *np.geomspace(1e-300, 1e300, 80)]
    (plot,) = plots(table({"rate": rate}, range(81)), FIGURE)
    assert [group.n for group in plot.groups] == [1] + [10] * 8 and plot.log
    assert plot.groups[1].label == f"1e-300 … {rate[10]:.3g}"
    assert [group.mean for group in plot.groups] == [0.0, *(10 * i + 5.5 for i in range(8))]
    assert all(group.low < group.x < group.high for group in plot.groups[1:])


# ----------------------------------------------------------------------------- tables and committed results


def test_a_table_and_its_csv_give_the_same(tmp_path):
    for i, (rate, depth, seed) in enumerate(itertools.product([None, 0.5, 4], ["auto", 2], [0, 1])):
        state = "diverged" if i == 5 else "finished"
        make_run(tmp_path / "s" / f"r{i}", int(2 * (rate or 0)), seed, state, 50, rate=rate, depth=depth)
    sweep = read.read_sweep(tmp_path / "s")
    read.results_csv(sweep, tmp_path / "s.csv")
    df, back = read.table(sweep), pd.read_csv(tmp_path / "s.csv")
    with quick():
        one, two = what_mattered(df, df.attrs["by"]), what_mattered(back, "val/mse_best")
    assert one.left_out == {"diverged": 1} and set(by_flag(one)) == {"beta", "rate", "depth", "seed"}
    assert by_flag(one)["rate"].kind == "number" and by_flag(one)["depth"].kind == "category"
    assert repr(one.flags) == repr(two.flags)


CSV = {path.stem: pd.read_csv(path) for path in sorted(RESULTS.glob("*.csv"))}
SWEEPS = [name for name, df in CSV.items() if "status" in df and len(df) >= 8]


@pytest.mark.parametrize("name", SWEEPS)
def test_committed_sweeps(name):
    df = CSV[name]
    figures = [c for c in df.columns[list(df.columns).index("status") + 1 :] if c not in read.ORIGIN]
    for figure in (figures[0], figures[-1]):
        with quick():
            found = what_mattered(df, figure)
        assert len(found.flags) == len(read.flag_columns(df)) and found.why
        json.dumps(for_json(found), allow_nan=False)
    for plot in plots(df, figures[0]):
        json.dumps(dataclasses.asdict(plot), allow_nan=False)


def test_what_mattered_in_a_committed_sweep():
    """Two latents instead of twenty cost most; rate and beta matter less, but certainly; the seed does not
    matter.
    """
    found = what_mattered(CSV["vae_mnist"], "val/elbo_nats_best", "maximize")
    assert [row.flag for row in found.flags] == ["latent_dim", "learning_rate", "beta", "seed"]
    assert mattering(found) == {"latent_dim", "learning_rate", "beta"}
    assert found.flags[0].better == "larger"


if __name__ == "__main__":  # the rate that test_in_pure_noise_nothing_matters states
    passed = [i for i in range(300) if mattering(what_mattered(noise_sweep(i), FIGURE))]
    print(f"{len(passed)} of 300 sweeps of pure noise have a flag that matters: {passed}")
