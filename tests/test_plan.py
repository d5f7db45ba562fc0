"""A sweep YAML as it is read: what is refused, in one line, before anything is written."""

import pytest
import yaml

from launch.sweep import begin, plan
from research.common.identity import ROOT
from research.common.messages import UserError
from tests.test_bayes import own_path as own_path  # a fixture, for every test
from tests.test_begin import grid

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
LOG = {"distribution": "log_uniform_values"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"metric": None}, "a bayes sweep needs metric"),
        (
            {"metric": {"name": "val/mse_best", "goal": "maximize"}},
            "is judged by val/mse_best the other way round",
        ),
        ({"metric": {"name": "val/mse_best", "goal": "lower"}}, "goal: lower: must be minimize or maximize"),
        ({"metric": {"name": "val/mse_best", "goal": "minimize", "target": 0.1}}, "target is not followed"),
        (
            {"metric": {"name": "mse_best", "goal": "minimize"}},
            "logs no mse_best; its headline is val/mse_best",
        ),
        ({"metric": {"name": "train/mse_best", "goal": "minimize"}}, "its headline is val/mse_best"),
        ({"metric": {"name": "time/step_ms", "goal": "minimize"}}, "logs no time/step_ms;"),
        ({"metric": {"name": "val/mig_best", "goal": "maximize"}}, "its headline is val/mse_best"),
        ({"metric": {"name": "test/mse", "goal": "minimize"}}, "logs no test/mse"),
        ({"run_cap": None}, "a bayes sweep needs run_cap"),
        ({"run_cap": 0}, "run_cap: 0: must be a whole number of at least 1"),
        ({"beta": {"min": 4.0, "max": 1.0}}, "min 4.0 is not less than max 1.0"),
        ({"beta": {"min": 0.5}}, "parameter beta: uniform needs max and min; max is missing"),
        (
            {"beta": {"values": [1, 2], "probabilities": [0.5, 0.5]}},
            "beta: probabilities: W&B's engine can't learn",
        ),
        ({"beta": {"distribution": "log_uniform", "min": -3.0, "max": 1.0}}, "log_uniform_values"),
        ({"beta": {"value": 1}}, "Need at least one searchable parameter"),
        ({"beta": {"min": -1.0, "max": 4.0}}, "--beta=-1.0: must be"),
        ({"beta": {"distribution": "normal", "mu": 0.5, "sigma": 1.0}}, "--beta=-"),
        ({"latent_dim": {"min": 2.0, "max": 8.0}}, "must be a whole number"),
        ({"latent_dim": {"distribution": "q_uniform", "min": 1, "max": 8, "q": 4}}, "--latent_dim=0"),
        ({"image_size": {"min": 32, "max": 128}}, "--image_size="),
        ({"seed": {"values": [0, 1]}}, "parameter seed: a bayes sweep needs one value"),
        ({"confirm": 2, "seed": {"min": 0, "max": 9}, "method": "random"}, "the sweep varies seed"),
        ({"confirm": 2, "seed": {"value": 2**31 - 2}}, "seed 2147483646 and 2 more: must be at most"),
        ({"metric": {"name": "val/", "goal": "minimize"}}, "logs no val/;"),
        ({"seed": 3}, "parameter seed: 3: written as seed: {value: 3}"),
        ({"seed": {"values": 0}}, "parameter seed: values: 0: must be a list of at least one value"),
        ({"seed": {"values": None}, "method": "grid"}, "values: None: must be a list of at least one value"),
        ({"seed": {"values": []}, "method": "grid"}, "values: []: must be a list of at least one value"),
        ({3: {"value": 1}}, 'parameter 3: a flag\'s name must be text: write "3" in quotes'),
        ({"confirm": 2, "seed": {"values": [0, 1]}, "method": "grid"}, "--confirm=2: the sweep varies seed"),
        ({"confirm": 2, "metric": None, "method": "grid"}, "--confirm=2 needs metric"),
        ({"early_terminate": {"type": "hyperband"}, "method": "grid"}, "give min_iter, or max_iter and s"),
    ],
)
def test_refused_in_one_line_before_anything_is_written(tmp_path, change, part):
    content = {
        "program": "research/bvae_faces.py",
        "method": "bayes",
        "run_cap": 4,
        "metric": {"name": "val/mse_best", "goal": "minimize"},
        "parameters": {},
    }
    for name, value in change.items():
        at_top = name in ("metric", "run_cap", "method", "early_terminate")
        (content if at_top else content["parameters"])[name] = value
    confirm = content["parameters"].pop("confirm", None)
    content = {k: v for k, v in content.items() if v is not None}
    if "beta" not in content["parameters"]:
        values = {"values": [1]} if content["method"] == "grid" else {"min": 0.0, "max": 9.0}
        content["parameters"]["beta"] = values
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        begin.freeze(plan.read(str(path), confirm=confirm), tmp_path / "runs", False, False)
    assert part in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_random_sweep_may_take_several_seeds(tmp_path):
    sweep = grid(tmp_path / "s.yaml", {"seed": {"values": [0, 1]}}, method="random", run_cap=9)
    assert len(begin.freeze(sweep, tmp_path / "runs", False, False).trials()) == 2


BINARIZED = "val/elbo_nats_bin_best"


@pytest.mark.parametrize(
    ("binarize", "metric", "refused"),
    [
        ({"value": "dynamic"}, BINARIZED, None),
        ({"value": "dynamic"}, "val/elbo_nats_bin", None),
        ({"value": "dynamic"}, "val/elbo_nats_best", f"its headline is {BINARIZED}; other figures"),
        ({"value": "none"}, "val/elbo_nats_best", None),
        ({"value": "none"}, BINARIZED, "its headline is val/elbo_nats_best; other figures"),
        ({"values": ["none", "static"]}, "val/elbo_nats_best", None),  # some of its runs log it
        ({"values": ["none", "static"]}, BINARIZED, None),
        (
            {"values": ["none", "static"]},
            "val/iw_nats_best",
            f"its headline is val/elbo_nats_best or {BINARIZED}; other figures",
        ),
    ],
)
@pytest.mark.parametrize("method", ["bayes", "grid"])
def test_the_metric_may_be_the_headline_of_any_point(tmp_path, method, binarize, metric, refused):
    """Its name may depend on the flags: with binarised pixels the ELBO is another figure."""
    content = {
        "program": "research/vae_mnist.py",
        "method": method,
        "metric": {"name": metric, "goal": "maximize"},
        "parameters": {"binarize": binarize, "latent_dim": {"values": [2, 4]}},
    }
    if method == "bayes":
        content["run_cap"] = 4
    else:
        content["early_terminate"] = {"type": "hyperband", "min_iter": 2}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    if refused:
        with pytest.raises(UserError, match=f"research/vae_mnist.py logs no {metric}; {refused}"):
            plan.read(str(path))
    else:
        assert plan.read(str(path)).content == content
    content.pop("early_terminate", None)
    path.write_text(yaml.safe_dump(content | {"method": "grid"}))
    if refused:  # also where nothing is decided by it: its tables would be empty
        with pytest.raises(UserError, match=f"logs no {metric}; {refused}"):
            plan.read(str(path))


@pytest.mark.parametrize(
    "metric", ["val/mse_best", "val/mse", "val/kl_nats", "train/loss", "val/mse_bets", "val/a/mig"]
)
def test_metrics_that_the_script_may_log_are_taken(tmp_path, metric):
    content = {
        "program": "research/bvae_faces.py",
        "method": "bayes",
        "run_cap": 4,
        "metric": {"name": metric, "goal": "minimize"},
        "parameters": {
            "beta": {"min": 0.0, "max": 9.0},
            "seed": {"value": 3},
            "learning_rate": LOG | {"min": 0.0001, "max": 0.1},
            "latent_dim": {"distribution": "q_uniform", "min": 2, "max": 8, "q": 2},
            "image_size": {"values": [32, 64]},
        },
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    sweep = plan.read(str(path), confirm=2)
    configs = [sweep.config(point) for point in plan._probes(sweep)]
    assert sweep.points == [] and {cfg.image_size for cfg in configs} == {32, 64}
    assert {cfg.seed for cfg in configs} == {3} and list(sweep.survey.headlines) == [("val/mse", "minimize")]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"confirm": 0}, "--confirm=0: must be at least 1"),
        ({"confirm": 2, "wandb": "online"}, "--confirm=2: not with --wandb=online"),
    ],
)
def test_confirm_flags_that_are_refused(flags, part):
    with pytest.raises(UserError, match=part):
        plan.SweepFlags(sweep="x.yaml", **flags)


# ---- what else people write ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("=5", "--set==5: written as --set flag=value"),
        ("beta", "--set=beta: written as --set flag=value"),
        (f"beta={'[' * 3000}", "its value is not readable as YAML"),
        ("beta={a: 1, a: 2}", "--set=beta={a: 1, a: 2}: its value is not readable as YAML"),
        ("beta={min: 0, max: 1}", "parameter beta: {'min': 0, 'max': 1}: must be one value"),
        ("out=x", "parameter out: the launcher's own --out"),
        (f"seed={'9' * 5000}", " ... "),
    ],
)
def test_sets_that_are_refused(tmp_path, change, message):
    grid(tmp_path / "s.yaml", {"x": {"values": [0.1]}})
    with pytest.raises(UserError) as refused:
        sweep = plan.read(str(tmp_path / "s.yaml"), (change,))
        begin.freeze(sweep, tmp_path / "runs", False, False)
    assert message in str(refused.value) and len(str(refused.value)) < 1000


def test_a_flag_that_is_set_twice_is_refused(tmp_path):
    grid(tmp_path / "s.yaml", {"x": {"values": [0.1]}})
    with pytest.raises(UserError, match="--set=n=2: n is set twice"):
        plan.read(str(tmp_path / "s.yaml"), ("n=1", "n=2"))


def test_a_set_with_a_line_break_leaves_a_yaml_that_can_be_read(tmp_path):
    grid(tmp_path / "s.yaml", {"x": {"values": [0.1]}})
    sweep = plan.read(str(tmp_path / "s.yaml"), ("steps=1\n",))
    assert yaml.safe_load(sweep.text) == sweep.content and "# Changed   steps=1: what" in sweep.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"parameters": {"seed": {"min": 0, "max": 2_000_000_000}}},
            "parameters: a grid of 2,000,000,001: at most",
        ),
        (
            {"parameters": {name: {"min": 0, "max": 2_000_000_000} for name in ("n", "seed", "steps")}},
            "at most 1,000,000 points are planned; give a run_cap of that or less",
        ),
        (
            {"method": "random", "run_cap": 10**8},
            "run_cap: 100,000,000: at most 1,000,000 points are planned",
        ),
    ],
)
def test_more_points_than_anybody_runs_are_refused(tmp_path, more, message):
    sweep = grid(tmp_path / "s.yaml", **({"parameters": {"x": {"values": [0.1]}}} | more))
    with pytest.raises(UserError) as refused:
        begin.freeze(sweep, tmp_path / "runs", False, False)
    assert message in str(refused.value) and not (tmp_path / "runs").exists()


def test_the_first_points_of_an_endless_grid(tmp_path):
    parameters = {name: {"min": 0, "max": 2_000_000_000} for name in ("n", "seed")}
    sweep = grid(tmp_path / "s.yaml", parameters, run_cap=3)
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    assert [trial.flags for trial in queue.trials()] == [{"n": 0, "seed": k} for k in range(3)]


def test_a_script_that_ends_when_it_is_imported(tmp_path):
    script = ROOT / "tests" / "ends_for_a_test.py"
    script.write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    try:
        with pytest.raises(
            UserError, match=r"program: tests/ends_for_a_test\.py cannot be imported \(SystemExit: 0\)"
        ):
            grid(tmp_path / "s.yaml", {"x": {"value": 1}}, program="tests/ends_for_a_test.py")
    finally:
        script.unlink()
