"""Sweep files as people write them: `wandb agent` and launch/local.py start the same commands for them."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from launch.sweep import begin, plan
from tests import online
from tests.forks import run_each
from tests.online import ROOT
from tests.test_bayes import own_path as own_path  # a fixture, for every test
from tests.wandb_server import Server, Sweep

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so

GRID = """
program: tests/stand_in.py
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  x: {values: [0.1, 0.25]}
  kind: {values: [a, b]}
  steps: {value: 2}
"""
PLAIN = "  x: {values: [0.1, 0.25]}\n  steps: {value: 2}\n"
HEAD = "program: tests/stand_in.py\nmethod: grid\n"
FORMS = {
    "grid": GRID,
    "random": """
program: tests/stand_in.py
method: random
run_cap: 2
parameters:
  steps: {value: 2}
  learning_rate:
    distribution: log_uniform_values
    min: 0.0001
    max: 0.01
  n: {distribution: q_uniform, min: 2, max: 8, q: 2}
""",
    "probabilities": """
program: tests/stand_in.py
method: random
run_cap: 2
parameters:
  seed: {value: 3}
  kind: {values: [a, b], probabilities: [0.75, 0.25]}
  x: {min: 0.0, max: 0.5}
  steps: {value: 2}
""",
    "literal-before": f"""{HEAD}
command:
  - ${{env}}
  - python
  - ${{program}}
  - --save_every=7
  - --deterministic
  - ${{args}}
parameters:
{PLAIN}""",
    "literal-after": f"""{HEAD}
command: ["${{env}}", "${{interpreter}}", "${{program}}", "${{args}}", "--save_every", 7, --kind=b]
parameters:
{PLAIN}""",
    "no-boolean-flags": f"""{HEAD}
command: ["${{env}}", "${{interpreter}}", "${{program}}", "${{args_no_boolean_flags}}"]
parameters:
  deterministic: {{values: [true, false]}}
{PLAIN}""",
    "no-equals": f"""{HEAD}
command: ["${{interpreter}}", "${{program}}", "${{args_no_equals}}"]
parameters:
  compile: {{value: false}}
  dataset: {{value: two words}}
{PLAIN}""",
    "envvar": f"""{HEAD}
command:
  - ${{env}}
  - ${{interpreter}}
  - ${{program}}
  - --dataset=${{envvar:STAND_IN_DATA}}/${{envvar:STAND_IN_SET}}
  - ${{args}}
parameters:
{PLAIN}""",
    "dot-path": f"program: ./tests/stand_in.py\nmethod: grid\nparameters:\n{PLAIN}",
    "absolute-path": f"program: {ROOT}/tests/stand_in.py\nmethod: grid\nparameters:\n{PLAIN}",
    "merge-keys": """
program: tests/stand_in.py
method: grid
parameters:
  eval_every: &often {value: 1}
  log_every: *often
  x: &two {values: [0.1, 0.25]}
  learning_rate: {<<: *two, values: [0.01, 1.0e-05]}
  steps: {<<: *often, value: 2}
""",
    "int-uniform": """
program: tests/stand_in.py
method: grid
run_cap: 3
parameters:
  n: {distribution: int_uniform, min: 1, max: 4}
  steps: {value: 2}
  epochs: {value: null}
  compile: {value: False}
""",
    "one-value": "program: tests/stand_in.py\nmethod: grid\nparameters: {steps: {values: [2]}}\n",
    "unbuffered": f"""{HEAD}
command: [python3, -u, tests/stand_in.py, "${{args}}"]
parameters:
{PLAIN}""",
}
QUICK = ("random", "literal-before", "no-boolean-flags")
LIMITS = {"learning_rate": (0.0001, 0.01), "n": (2, 8), "x": (0.0, 0.5)}  # of what is drawn
# what local.py's trials have besides: flags that say where they lie and how W&B is used
OF_THE_LAUNCHER = re.compile(r"--(out|name|wandb|project|entity|threads)=")
# the real commands, one after the other in a process; the agent looks at its run more often than every 5 s
COMMANDS = """
import sys
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent

Agent.POLL_INTERVAL = 0.1
for words in sys.argv[2:]:
    cli([*sys.argv[1].split(), words], prog_name="wandb", standalone_mode=False)
"""
SLOW = ("sweeps", "pandas", "sklearn.ensemble", "jinja2")  # what local.py imports
ENVIRONMENT = {"STAND_IN_DATA": "some where", "STAND_IN_SET": "set=1"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the root of the project, so that the agents' runs go to its `runs`."""
    folder = tmp_path_factory.mktemp("here")
    for name in ("research", "data", "launch", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def noted(file: Path) -> list[list[str]]:
    """The arguments of each start of the stand-in, in the order of the starts."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def shared_out(starts: list[list[str]], counts: Sequence[int]) -> list[list[list[str]]]:
    """The starts of each sweep, where one sweep ran after the other."""
    assert len(starts) == sum(counts)
    left = iter(starts)
    return [[next(left) for _ in range(n)] for n in counts]


def make_sweeps(server: Server, here: Path, files: Sequence[Path], home: Path) -> list[str]:
    """The names of the sweeps at W&B that `wandb sweep FILE` makes from these files."""
    known = set(server.sweeps)
    command = [sys.executable, "-c", COMMANDS, "sweep --project=forms", *map(str, files)]
    with online.Process(command, server, home, "sweeps", here) as made:
        assert made.ended() == 0, made.said()
    return [name for name in server.sweeps if name not in known]  # in the order of their making


def through_local(here: Path, files: Sequence[Path], home: Path) -> list[list[list[str]]]:
    """The arguments of each file's trials when launch/local.py starts them."""
    flags = [f"--out={home / 'runs'}", "--wandb=disabled", "--workers=1", "--threads=1"]
    commands = [["launch/local.py", str(file), *flags] for file in files]
    argv = {"STAND_IN_ARGV": str(home / "argv.jsonl")}
    ended = run_each(commands, home / "said", here, imported=SLOW, **argv, **ENVIRONMENT)
    for one in ended:
        assert one.returncode == 0, one.stdout + one.stderr
    counts = [len(list((home / "runs" / file.stem / "trials").glob("*.json"))) for file in files]
    return shared_out(noted(home / "argv.jsonl"), counts)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(QUICK, id="three"),
        pytest.param([n for n in FORMS if n not in QUICK], id="others", marks=pytest.mark.soak),
    ],
)
def test_agents_and_local_start_the_same_commands(server: Server, here, tmp_path, names) -> None:
    server.impatient = True  # the stand-in does not tell W&B of its runs, so the server never sees one end
    files = [tmp_path / f"{name}.yaml" for name in names]
    for file in files:
        file.write_text(FORMS[file.stem].lstrip(), encoding="utf-8")
    sweeps, home = make_sweeps(server, here, files, tmp_path / "agents"), tmp_path / "agents"
    paths = [f"tester/forms/{name}" for name in sweeps]
    command = [sys.executable, "-c", COMMANDS, "agent --forward-signals", *paths]
    argv = {"STAND_IN_ARGV": str(home / "argv.jsonl")}
    with online.Process(command, server, home, "agents", here, **argv, **ENVIRONMENT) as agents:
        local = through_local(here, files, tmp_path / "local")
        assert agents.ended() == 0, agents.said()
    counts = [len(server.sweeps[name].given) for name in sweeps]
    for file, theirs, ours in zip(files, shared_out(noted(home / "argv.jsonl"), counts), local, strict=True):
        ours = [[word for word in words if not OF_THE_LAUNCHER.match(word)] for words in ours]
        assert ours and sum(map(len, ours)) > 0
        if "method: random" in FORMS[file.stem]:
            assert [form(words) for words in ours] == [form(words) for words in theirs], file.stem
        else:
            assert sorted(ours) == sorted(theirs), file.stem


def form(words: list[str]) -> list[str]:
    """A drawn point without its drawn values, which must be within their limits."""
    found = []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name in LIMITS:
            low, high = LIMITS[name]
            assert low <= float(value) <= high, word
            assert name != "n" or float(value) % 2 == 0, word
        elif name == "kind":
            assert value in ("a", "b"), word
        else:
            name = word
        found.append(name)
    return found


WORDED = FORMS["envvar"].replace("[0.1, 0.25]", "[0.25]") + "name: What x does\ndescription: by hand\n"


def check_words(sweep: Sweep) -> None:
    """The server has the words and the names of WORDED, with places that each agent fills in."""
    kept = yaml.safe_load(sweep.config)
    assert (sweep.project.name, kept["name"], kept["description"]) == ("two words", "What x does", "by hand")
    assert kept["command"] == [
        "${env}",
        "${interpreter}",
        "${envvar:RUN_CODE}/tests/stand_in.py",
        "--dataset=${envvar:STAND_IN_DATA}/${envvar:STAND_IN_SET}",
        "${args}",
        "--out=${envvar:RUN_SWEEP}",
    ]


def test_w_and_b_keeps_a_sweeps_words_and_name(server: Server, tmp_path, monkeypatch) -> None:
    """With --wandb=online, the launcher replaces neither by what it has to add."""
    online.log_in_here(monkeypatch, server, tmp_path / "w")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "worded.yaml").write_text(WORDED, encoding="utf-8")
    known, out = set(server.sweeps), str(tmp_path / "runs")
    flags = plan.SweepFlags(sweep=str(tmp_path / "worded.yaml"), wandb="online", project="two words", out=out)
    begin.prepare(flags, plan.read(flags.sweep, online=True))
    (name,) = set(server.sweeps) - known
    check_words(server.sweeps[name])


@pytest.mark.soak
def test_trials_that_w_and_b_directs_get_the_literal_flags(server: Server, here, tmp_path) -> None:
    server.impatient = True
    (tmp_path / "worded.yaml").write_text(WORDED, encoding="utf-8")
    command = [sys.executable, "launch/local.py", str(tmp_path / "worded.yaml"), "--wandb=online"]
    command += [f"--out={tmp_path / 'runs'}", "--project=two words", "--workers=1"]
    known, argv = set(server.sweeps), {"STAND_IN_ARGV": str(tmp_path / "argv.jsonl")}
    with online.Process(command, server, tmp_path / "w", "local", here, **argv, **ENVIRONMENT) as local:
        assert local.ended() == 0, local.said()
    (name,) = set(server.sweeps) - known
    check_words(server.sweeps[name])
    out = f"--out={tmp_path / 'runs' / 'worded'}"
    assert noted(tmp_path / "argv.jsonl") == [["--dataset=some where/set=1", "--steps=2", "--x=0.25", out]]


def test_commands_that_local_cannot_follow(here, tmp_path) -> None:
    """Each is refused in one line with exit code 2, and nothing is written."""
    cases = {
        '["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]': (
            "${args_no_hyphens}: it gives name=value, and tests/stand_in.py takes --name=value: write ${args}"
        ),
        '["${program}", "${args_json}"]': (
            "${args_json}: it gives one text in JSON, and tests/stand_in.py takes --name=value: write ${args}"
        ),
        '["${interpreter}", "${program}", "--dataset=${envvar:STAND_IN_NONE}", "${args}"]': (
            "--dataset=${envvar:STAND_IN_NONE}: STAND_IN_NONE is not set here "
            "(W&B's agents would write STAND_IN_NONE itself)"
        ),
        '["${interpreter}", "${program}", "${arg}"]': "${arg}: not a macro of W&B; did you mean ${args}?",
        '["${interpreter}", "${program}", "--n=2"]': (
            "one macro has to give the flags of a point, and there is none: write ${args} once"
        ),
    }
    commands = []
    for i, command in enumerate(cases):
        (tmp_path / f"{i}.yaml").write_text(f"{HEAD}command: {command}\nparameters:\n{PLAIN}")
        commands.append(["launch/local.py", str(tmp_path / f"{i}.yaml"), f"--out={tmp_path / 'runs'}"])
    for i, ended in enumerate(run_each(commands, tmp_path / "said", here, COLUMNS="40")):
        line = f"error: --sweep={tmp_path}/{i}.yaml: command: {list(cases.values())[i]}\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", line)
    assert not (tmp_path / "runs").exists()
