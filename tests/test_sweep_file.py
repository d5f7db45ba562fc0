"""The keys of a sweep file: what is refused and with which words, what is printed, and that no key is
ignored.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.sweep import plan, sweep_file
from launch.sweep.points import Points, plain, seed_engine
from research.common.messages import UserError
from tests.test_bayes import own_path as own_path  # a fixture, for every test

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
ROOT = Path(__file__).resolve().parents[1]
HEAD = "program: tests/stand_in.py\nmethod: {method}\n{cap}parameters:\n"


def refused(path: Path, text: str, **how) -> str:
    """The one line with which reading a YAML of this text ends, without the file's name."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        plan.read(str(path), **how)
    message = str(error.value)
    assert message.startswith(f"--sweep={path}: ") and "\n" not in message
    return message.removeprefix(f"--sweep={path}: ")


def sweep_of(parameters: str, method: str = "random") -> str:
    """A sweep with these lines of YAML."""
    lines = "".join(f"  {line}\n" for line in parameters.splitlines())
    return HEAD.format(method=method, cap="" if method == "grid" else "run_cap: 3\n") + lines


TOP = "program: tests/stand_in.py\nmethod: grid\nparameters: {x: {values: [0.1, 0.2]}}\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "early_stopping: {type: hyperband}",
            "early_stopping: not a key of a sweep; did you mean early_terminate?",
        ),
        ("run_caps: 3", "run_caps: not a key of a sweep; did you mean run_cap?"),
        ("zzz: 3", "zzz: not a key of a sweep"),
        ("3: 4", "3: not a key of a sweep"),
        ("method: random", "method appears twice, in lines 2 and 4: give it once"),
        ("run_cap: 0", "run_cap: 0: must be a whole number of at least 1"),
        ("run_cap: -1", "run_cap: -1: must be a whole number of at least 1"),
        ("run_cap: 1e2", "run_cap: 1e2: must be a whole number: write 100"),
        ("run_cap: 20.0", "run_cap: 20.0: must be a whole number: write 20"),
        ("run_cap: true", "run_cap: True: must be a whole number of at least 1"),
        ("run_cap: many", "run_cap: many: must be a whole number of at least 1"),
        (
            "metric: val/loss_best",
            "metric: val/loss_best: written as metric: {name: val/loss_best, goal: minimize}",
        ),
        ("metric: {goal: minimize}", "metric: name: None: must be the name of a figure"),
        (
            "metric: {name: val/loss_best, goal: maximise}",
            "metric: goal: maximise: must be minimize or maximize; did you mean maximize?",
        ),
        ("metric: {name: val/loss_best, gaol: minimize}", "metric: gaol: not a key of metric"),
        ("metric: {name: val/loss_best, target: 0.1}", "metric: target is not followed here: leave it out"),
        ("metric: {name: loss}", "metric: tests/stand_in.py logs no loss; its headline is val/loss_best"),
        (
            "metric: {name: val/loss_best, goal: maximize}",
            "goal: maximize, but tests/stand_in.py is judged by val/loss_best the other way round: write "
            "goal: minimize",
        ),
        (
            "metric: {name: val/x, goal: minimize, impute: first}",
            "metric: impute: first: must be one of latest, best, worst",
        ),
        (
            "metric: {name: val/x, impute_while_running: false}",
            'False: must be one of latest, best, worst, false: write "false" in quotes',
        ),
        ("~: 3", "null: not a key of a sweep"),
        (
            "metrics: [{name: a}, {name: b}]",
            "metrics: several metrics are not followed: give one of them as metric",
        ),
        ("scheduler: {engine: wandb}", "scheduler: schedulers are not followed: leave it out"),
        ("job: x", "job: W&B Launch is not used here: give program, a script"),
        ("controller: {type: local}", "controller: {'type': 'local'}: must be {type: cloud}, or left out"),
        ("kind: job", "kind: job: must be sweep"),
        ("name: 7", 'name: 7: must be text: write "7" in quotes'),
        ("project: ''", "project: : must be text"),
        (
            "early_terminate: hyperband",
            "early_terminate: hyperband: written as early_terminate: {type: hyperband",
        ),
        (
            "early_terminate: {type: hyperband, max_iterations: 9}",
            "max_iterations: not a key of early_terminate; did you mean max_iter?",
        ),
        ("description: *nowhere", "not readable as YAML (line 4: found undefined alias 'nowhere')"),
        (
            "command: [${env}, python]",
            """line 4: expected ',' or ']', but got '{'; inside [ ] write "${args}" with quotes)""",
        ),
        ("name\tx", "YAML allows no tabs: use spaces)"),
        ("method grid\nname: x", "; a key is followed by a colon)"),
        ("goal: minimize", "goal: not a key of a sweep; it is one of metric"),
        ("min: 3", "min: not a key of a sweep; it is one of a parameter"),
        ("description: 2026-13-45", "not readable as YAML (ValueError: month must be in 1..12)"),
    ],
)
def test_keys_of_a_sweep_that_are_refused(tmp_path, more, message):
    assert message in refused(tmp_path / "s.yaml", TOP + more + "\n")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            "x: {min: 1e-5, max: 0.1}",
            "parameter x: min: 1e-5: must be a number (YAML reads 1e-5 as text: write 1.0e-05)",
        ),
        (
            "x: {min: 0, max: 1e3}",
            "parameter x: max: 1e3: must be a number (YAML reads 1e3 as text: write 1000)",
        ),
        ("x: {min: low, max: 3}", "parameter x: min: low: must be a number"),
        ("x: {min: .nan, max: 3}", "parameter x: min: nan: must be a finite number"),
        ("x: {min: true, max: 3}", "parameter x: min: True: must be a number"),
        (
            "x: {distribution: log_uniform_values, min: 0, max: 0.1}",
            "parameter x: min: 0: log_uniform_values needs a number above 0",
        ),
        (
            "x: {distribution: log_uniform, min: 16, max: 1024}",
            "1024: an exponent of e, at most 700; limits that are values are written with log_uniform_values",
        ),
        (
            "x: {distribution: loguniform, min: 1, max: 2}",
            "parameter x: distribution: loguniform; did you mean log_uniform_values?",
        ),
        (
            "x: {distribution: zipf, min: 1, max: 2}",
            "parameter x: distribution: zipf; allowed: constant, categorical",
        ),
        ("x: {distribution: [normal]}", "parameter x: distribution: ['normal']; "),
        ("x: {value: 1, values: [1, 2]}", "parameter x: value and values: give one of the two"),
        ("x: {value: 1, min: 0}", "parameter x: min: constant takes value"),
        ("x: {values: [1], min: 0}", "parameter x: min: categorical takes values"),
        ("x: [1, 2]", "parameter x: [1, 2]: written as x: {values: [1, 2]}"),
        ("x: 3", "parameter x: 3: written as x: {value: 3}"),
        ("x:", "parameter x: None: written as x: {value: ...}"),
        ("x: {}", "parameter x: nothing is given: give value, values, min and max, or a distribution"),
        (
            "x: {mu: 0, sigma: 1}",
            "parameter x: mu, sigma: give value, values, min and max, or a distribution",
        ),
        ("x: {min: 1}", "parameter x: uniform needs max and min; max is missing"),
        ("x: {min: 2, max: 1}", "parameter x: min 2 is not less than max 1"),
        ("x: {min: 1, max: 2, q: 0.5}", "parameter x: q: int_uniform takes max and min"),
        ("x: {distribution: q_uniform, min: 1, max: 2, q: 0}", "parameter x: q: 0: must be above 0"),
        ("x: {distribution: normal, sigma: 0}", "parameter x: sigma: 0: must be above 0"),
        (
            "x: {distribution: int_uniform, min: 0, max: 2.5}",
            "parameter x: max: 2.5: int_uniform needs a whole number",
        ),
        (
            "x: {values: [1, 2], probabilities: [0.5, 0.6]}",
            "probabilities: [0.5, 0.6]: their sum is 1.1, and must be 1",
        ),
        (
            "x: {values: [1, 2, 3], probabilities: [0.5, 0.5]}",
            "parameter x: probabilities: 2 for 3 values: must be one",
        ),
        (
            "x: {values: [1, 2], probabilities: [1.5, -0.5]}",
            "parameter x: probabilities: -0.5: must be at least 0",
        ),
        (
            "x: {values: [1, 2], probabilities: [1, 0e0.5]}",
            "parameter x: probabilities: 0e0.5: must be a number",
        ),
        (
            "x: {probabilities: [1]}",
            "parameter x: categorical_w_probabilities needs probabilities and values; values is",
        ),
        ("x: {vals: [1, 2]}", "parameter x: vals: not a key of a parameter; did you mean values?"),
        (
            "x: {choices: [1, 2]}",
            "parameter x: choices: not a key of a parameter; did you mean values?",
        ),
        ("x: {parameters: {y: {value: 1}}}", "parameter x: parameters: nested parameters are not followed"),
        ("x: {values: 3}", "parameter x: values: 3: must be a list of at least one value: write [3]"),
        (
            "x: {values: 0, 1, 2}",
            "parameter x: 1: not a key of a parameter; a list is written in [ ], as in values: [0, 1]",
        ),
        ("x: {value: [2, 8]}", "parameter x: [2, 8]: must be one value; for several write values: [2, 8]"),
        ("lr: {value: 1}", "parameter lr is not a flag of tests/stand_in.py; did you mean learning_rate?"),
        ("x: {values: [[1, 2]]}", "parameter x: [1, 2]: must be one value"),
        ("x: {value: .inf}", 'parameter x: inf: write "inf" in quotes'),
        (
            "kind: {values: [2026-11-30]}",
            'parameter kind: 2026-11-30: YAML does not read it as text: write "2026-11-30" in',
        ),
        ("x: {values: [1, 2]}\nx: {values: [3]}", "x appears twice, in lines 5 and 6: give it once"),
        (
            "y: {value: 1}",
            "parameter y is not a flag of tests/stand_in.py; python tests/stand_in.py --help lists them",
        ),
        ("out: {value: x}", "parameter out: the launcher's own --out says where the runs are"),
        ("name: {value: x}", "parameter name: the launcher's own --name names the sweep's folder"),
        ("fresh: {value: true}", "parameter fresh: each start of a trial would begin anew"),
        ("task: {value: evaluate}", "parameter task: a sweep's trials only train"),
        ("kind: {values: [c]}", "--kind=c: must be one of a, b"),
    ],
)
def test_parameters_that_are_refused(tmp_path, parameter, message):
    text = sweep_of(parameter) + "metric: {name: val/loss_best}\n"
    assert message in refused(tmp_path / "s.yaml", text)


@pytest.mark.parametrize("kind", [k for k in sweep_file.DISTRIBUTIONS if k not in sweep_file.IN_A_GRID])
def test_a_grid_has_an_end(tmp_path, kind):
    required, _ = sweep_file.DISTRIBUTIONS[kind]
    given = {"min": 1.0, "max": 2.0, "values": [1, 2], "probabilities": [0.5, 0.5]}
    parameter = {"distribution": kind} | {k: given[k] for k in required}
    said = refused(tmp_path / "s.yaml", sweep_of(f"x: {json.dumps(parameter)}", "grid"))
    assert "a grid needs values, or int_uniform or q_uniform; or write method: random" in said


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("research/none.py", "program: research/none.py is not a training script of this repository"),
        ("vae_mnist.py", "is not a training script of this repository; did you mean research/vae_mnist.py?"),
        ("research/vae_mnsit.py", "did you mean research/vae_mnist.py?"),
        ("sweeps/bvae.yaml", "program: sweeps/bvae.yaml is not a training script"),
        ("research", "program: research is not a training script"),
        ("/etc/passwd", "program: /etc/passwd is not a training script"),
        ("../elsewhere/x.py", "program: ../elsewhere/x.py is not a training script"),
        ("launch/report.py", "program: launch/report.py is not a training script"),
        ("[research/charlm.py]", "program: ['research/charlm.py'] is not a training script"),
        ("", "program: None is not a training script"),
    ],
)
def test_programs_that_are_none(tmp_path, program, message):
    assert message in refused(tmp_path / "s.yaml", TOP.replace("tests/stand_in.py", program))


@pytest.mark.parametrize(
    "path",
    [
        "./tests/stand_in.py",
        "tests/../tests/stand_in.py",
        str(ROOT / "tests/stand_in.py"),
        f"../{ROOT.name}/tests/stand_in.py",
    ],
)
def test_paths_that_lead_to_the_script(tmp_path, path):
    (tmp_path / "s.yaml").write_text(TOP.replace("tests/stand_in.py", path))
    sweep = plan.read(str(tmp_path / "s.yaml"))
    assert sweep.program == "tests/stand_in.py" and sweep.script.family == "stand_in"


def test_a_script_that_cannot_be_imported_is_told_in_one_line(tmp_path):
    script = ROOT / "tests" / "broken_for_a_test.py"
    script.write_text("import nothing_of_this_name\n")
    try:
        said = refused(tmp_path / "s.yaml", TOP.replace("stand_in", "broken_for_a_test"))
    finally:
        script.unlink()
    assert "cannot be imported (ModuleNotFoundError: No module named 'nothing_of_this_name')" in said


# ---- the table -----------------------------------------------------------------------------------------


def test_the_keys_are_those_of_the_engines_schema():
    schema = json.loads((Path(__import__("sweeps").__file__).parent / "config/schema.json").read_text())
    parts = schema["definitions"]
    assert {key.name for key in sweep_file.KEYS["sweep"]} == schema["properties"].keys()
    assert {key.name for key in sweep_file.KEYS["metric"]} == parts["metric"]["properties"].keys()
    hyperband = parts["hyperband_stopping"]["properties"].keys()
    assert {key.name for key in sweep_file.KEYS["early_terminate"]} == hyperband
    found, every = {}, {"parameters"}
    for ref in parts["parameter"]["anyOf"]:
        part = parts[ref["$ref"].rpartition("/")[2]]
        part = part["anyOf"][0] if "anyOf" in part else part
        every |= part["properties"].keys()
        if "distribution" in part["properties"]:
            (kind,) = part["properties"]["distribution"]["enum"]
            takes, required = set(part["properties"]), set(part["required"])
            found[kind] = (required - {"distribution"}, takes - required - {"distribution"})
    assert {key.name for key in sweep_file.KEYS["parameter"]} == every
    assert found == sweep_file.DISTRIBUTIONS


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "key", [(where, key.name) for where, keys in sweep_file.KEYS.items() for key in keys], ids="-".join
)
def test_each_key_is_followed_or_refused_as_the_table_says(tmp_path, key, online):
    """A key that is followed reaches the sweep; for one that is refused, the message is that of the table."""
    where, name = key
    content = yaml.safe_load(TOP) | {"metric": {"name": "val/loss_best", "goal": "minimize"}}
    samples = {
        "sweep": {
            "command": ["python", "${program}", "${args}"],
            "run_cap": 1,
            "kind": "sweep",
            "controller": {"type": "cloud"},
        }
        | {"metrics": [{"name": "a"}, {"name": "b"}], "scheduler": {"engine": "wandb"}}
        | {"early_terminate": {"type": "hyperband", "min_iter": 2}},
        "metric": {"target": 0.1, "impute": "worst", "impute_while_running": "false"},
        "early_terminate": {
            "type": "hyperband",
            "max_iter": 9,
            "s": 2,
            "min_iter": 2,
            "eta": 3,
            "strict": True,
        },
        "parameter": {
            "values": [0.1],
            "value": 0.1,
            "parameters": {"y": {"value": 1}},
            "distribution": "categorical",
        },
    }
    sample = samples[where].get(name, "text")
    if where == "sweep":
        content.setdefault(name, sample)
    elif where == "metric":
        content["metric"].setdefault(name, sample)
    elif where == "early_terminate":
        pair = ("max_iter", "s") if name in ("max_iter", "s") else ("min_iter",)
        content[where] = {k: samples[where][k] for k in ("type", name, *pair)}
    elif name in ("value", "parameters"):
        content["parameters"]["x"] = {name: sample}
    elif name not in ("values", "distribution"):
        kind = next(k for k, (a, b) in sweep_file.DISTRIBUTIONS.items() if name in a | b)
        given = {"min": 1, "max": 9, "values": [0.1, 0.2], "probabilities": [0.5, 0.5], "q": 2}
        required, _ = sweep_file.DISTRIBUTIONS[kind]
        content["parameters"]["n"] = {"distribution": kind} | {
            k: given[k] for k in {*required, name} if k in given
        }
        content["parameters"]["n"].setdefault(name, 1.0)
        content |= {"method": "random", "run_cap": 2}
        content["parameters"]["x"] = content["parameters"].pop("n")
    content |= {"command": samples["sweep"]["command"]} if name == "command" else {}
    path = tmp_path / "s.yaml"
    words = next(k for k in sweep_file.KEYS[where] if k.name == name).refusal(online)
    text = yaml.safe_dump(content)
    if words:
        assert words in refused(path, text, online=online)
    else:
        path.write_text(text)
        assert plan.read(str(path), online=online).content == content


def test_the_table_in_the_docs_is_made_from_the_code():
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert sweep_file.table() in text
    check = [sys.executable, "docs/sweep_keys.py", "--check"]
    assert subprocess.run(check, cwd=ROOT, capture_output=True).returncode == 0


# ---- what is said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "note"),
    [
        (
            {"distribution": "log_uniform", "min": 0.00001, "max": 0.1},
            "parameter x: the limits of log_uniform are exponents of e: it draws 1.00001 to 1.10517; "
            "limits that are values are written with log_uniform_values",
        ),
        (
            {"distribution": "inv_log_uniform", "min": 1, "max": 2},
            "parameter x: the limits of inv_log_uniform are exponents of e: it draws 0.135335 to 0.367879; "
            "limits that are values are written with inv_log_uniform_values",
        ),
        (
            {"distribution": "q_uniform", "min": 10, "max": 250, "q": 16},
            "parameter x: q_uniform rounds to multiples of 16: it draws 16 to 256",
        ),
        (
            {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 8},
            "parameter x: q_log_uniform_values rounds to multiples of 8: it draws 0 to 96",
        ),
        ({"distribution": "q_uniform", "min": 16, "max": 256, "q": 16}, None),
        ({"distribution": "log_uniform_values", "min": 0.00001, "max": 0.1}, None),
    ],
)
def test_what_people_do_not_expect_is_said(parameter, note):
    assert sweep_file.notes({"x": parameter}, "random") == ([note] if note else [])
    if note:  # and it is true: many draws come to these ends and not beyond
        drawn = [p["x"] for p in Points({"method": "random", "run_cap": 400, "parameters": {"x": parameter}})]
        ends = [float(word.rstrip(";")) for word in note.split("it draws ")[1].split()[:3:2]]
        low, high = min(drawn), max(drawn)
        assert ends[0] - 1e-5 <= low and high <= ends[1] + 1e-5
        assert low - ends[0] < 0.1 * (ends[1] - ends[0]) and ends[1] - high < 0.1 * (ends[1] - ends[0])


def test_a_random_sweep_of_few_points_says_how_many_there_are(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        sweep_of("kind: {values: [a, b]}\nn: {min: 1, max: 2}").replace("run_cap: 3", "run_cap: 50")
    )
    sweep = plan.read(str(path))
    assert plan.notes(sweep, 4) == [
        "run_cap 50: its draws give 4 different runs: the parameters allow 4 different points; none is run "
        "twice"
    ]
    assert plan.notes(sweep, 50) == []


# ---- any YAML ------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-3, 300),
    st.floats(-3, 300, allow_nan=False).map(lambda x: round(x, 3)),
    st.sampled_from([0, 1, 1e-5, "1e-5", True, None, "low", float("inf"), [1], 10**400]),
)
scalars = st.one_of(numbers, st.sampled_from(["a", "b", "a: b", "", "é", "--x"]))
entries = st.dictionaries(
    st.sampled_from(["value", "values", "min", "max", "q", "mu", "sigma", "a", "b", "vals", "parameters"]),
    numbers,
    max_size=3,
)
drawn_from = st.builds(
    lambda kind, given: {"distribution": kind} | given,
    st.sampled_from([*sweep_file.DISTRIBUTIONS, "gauss"]),
    st.fixed_dictionaries({}, optional=dict.fromkeys(["min", "max", "q", "mu", "sigma", "a", "b"], numbers)),
)
limits = st.builds(lambda low, width: {"min": low, "max": low + width}, st.integers(0, 9), st.integers(1, 9))
choices = st.builds(lambda values: {"values": values}, st.lists(scalars, max_size=4))
weighted = st.builds(
    lambda values, chances: {"values": values, "probabilities": chances},
    st.lists(scalars, min_size=1, max_size=3),
    st.sampled_from([[1], [0.5, 0.5], [0.2, 0.3, 0.5], [0.5, 0.6]]),
)
parameter = st.one_of(entries, drawn_from, limits, choices, weighted, scalars, st.builds(dict, value=scalars))
small = st.floats(0.01, 0.9).map(lambda x: round(x, 3))
sound = {  # parameters that the stand-in takes, by flag
    "x": st.one_of(
        st.builds(
            lambda values: {"values": values}, st.lists(st.one_of(small, st.just(1)), min_size=1, max_size=4)
        ),
        st.builds(lambda low: {"min": low, "max": low + 0.05}, small),
        st.builds(
            lambda kind, low, q: (
                {"distribution": kind, "min": low, "max": low + 0.3} | ({"q": q} if kind[0] == "q" else {})
            ),
            st.sampled_from(
                [k for k in sweep_file.DISTRIBUTIONS if k.endswith(("uniform", "uniform_values"))]
            ),
            small,
            st.sampled_from([0.05, 0.1, 1]),
        ),
        st.builds(
            lambda kind, more: {"distribution": kind} | more,
            st.sampled_from(["normal", "log_normal", "q_normal", "q_log_normal"]),
            st.fixed_dictionaries({}, optional={"mu": small, "sigma": small}),
        ),
        st.sampled_from([{"distribution": "beta", "a": 2, "b": 3}, {"distribution": "q_beta", "q": 0.25}]),
        st.sampled_from([{"values": [1, 1.0, 2]}, {"values": ["0.5", 0.5]}, {"value": 1}]),
    ),
    "n": st.one_of(
        st.builds(lambda low, width: {"min": low, "max": low + width}, st.integers(0, 9), st.integers(1, 4)),
        st.builds(lambda values: {"values": values}, st.lists(st.integers(0, 5), min_size=1, max_size=4)),
        st.builds(
            lambda q: {"distribution": "q_uniform", "min": 1, "max": 9, "q": q},
            st.sampled_from([1, 2, 2.5, 0.7]),
        ),
    ),
    "kind": st.sampled_from(
        [{"value": "a"}, {"values": ["a", "b"]}, {"values": ["b", "a"], "probabilities": [0.25, 0.75]}]
    ),
    "compile": st.sampled_from([{"value": False}, {"values": [True, False]}]),
    "entity": st.sampled_from([{"values": [None, "é", "a: b"]}, {"value": "x y"}]),
    "seed": st.sampled_from([{"value": 3}, {"values": [0, 1]}]),
}
top = st.fixed_dictionaries(
    {
        "program": st.just("tests/stand_in.py"),
        "method": st.sampled_from(["grid", "random", "bayes"]),
        "run_cap": st.integers(1, 6),
        "metric": st.just({"name": "val/loss_best", "goal": "minimize"}),
        "parameters": st.fixed_dictionaries({}, optional=sound).filter(bool),
    },
    optional={
        "command": st.just(["python", "${program}", "--steps=3", "${args}"]),
        "early_terminate": st.just({"type": "hyperband", "min_iter": 2}),
        "name": st.just("x"),
    },
)
broken = st.one_of(
    st.tuples(st.sampled_from(["x", "n", "kind", "seed", "y"]), parameter),
    st.tuples(st.just("run_cap"), st.sampled_from([0, "3", 2.0, None])),
    st.tuples(st.just("method"), st.sampled_from(["grids", None, 3])),
    st.tuples(
        st.just("metric"), st.sampled_from([{"name": "loss"}, "loss", {}, {"name": "val/x", "goal": "up"}])
    ),
    st.tuples(
        st.just("command"),
        st.sampled_from([[], ["${args}"], "x", ["bash", "x.sh"], ["python", "${program}"]]),
    ),
    st.tuples(st.just("early_terminate"), st.sampled_from([[], {}, {"type": "hyperband", "min_iter": "2"}])),
)


def with_fault(content: dict, fault: tuple | None) -> dict:
    if fault is None:
        return content
    name, value = fault
    if name in ("x", "n", "kind", "seed", "y"):
        return content | {"parameters": content["parameters"] | {name: value}}
    return content | {name: value}


contents = st.builds(with_fault, top, st.one_of(st.none(), broken))


def engine_points(content: dict) -> list[dict]:
    """The points as W&B's own engine gives them one after the other, with its draws seeded like ours."""
    from sweeps import RunState, SweepRun, next_run

    made, seen = [], []
    config = {k: content[k] for k in ("method", "parameters")}
    while len(made) < content.get("run_cap", 10**6):
        if content["method"] == "random":
            seed_engine(content["parameters"], len(made))
        point = next_run(config, seen)
        if point is None:
            break
        made.append({k: plain(v["value"]) for k, v in point.config.items()})
        if content["method"] == "grid":
            seen.append(SweepRun(config=point.config, state=RunState.finished))
    return made


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(contents)
def test_any_yaml_is_refused_in_one_line_or_gives_the_engines_points(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(content))
    random.seed(0)
    try:
        sweep = plan.read(str(path))
        n = len(sweep.survey.different)
    except UserError as error:
        assert str(error).startswith(f"--sweep={path}: ") and "\n" not in str(error)
        return
    if content["method"] == "bayes":
        return
    made = list(sweep.points)
    assert 1 <= n <= len(made)
    # the same types, too: 1 and 1.0 are written differently on a command line
    assert repr(made) == repr(engine_points(content))
