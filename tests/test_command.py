"""The `command:` of a sweep: its words are those that W&B's agent would start the script with."""

import copy
import sys
from pathlib import Path

import pytest
import yaml

from launch.sweep import agent, begin, command, plan, proposer, worker
from launch.sweep.command import Command
from launch.sweep.program import DataHashes
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common.messages import UserError
from tests import stand_in
from tests.test_bayes import METRIC, ended
from tests.test_bayes import own_path as own_path  # a fixture, for every test

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
HEAD, X = ["${env}", "${interpreter}", "${program}"], {"x": {"values": [0.1, 0.2]}}


def sweep_of(path: Path, words: list | str, parameters: dict = X, **more) -> plan.Sweep:
    content = {"program": "tests/stand_in.py", "method": "grid", "command": words, "parameters": parameters}
    path.write_text(yaml.safe_dump(content | more), encoding="utf-8")
    return plan.read(str(path))


def of_wandb(words: list, point: dict) -> list[str]:
    """What W&B's agent starts for a point, by its own functions and loop."""
    from wandb.sdk.launch.sweeps import utils

    found = []
    macros = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in point.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": ["tests/stand_in.py"]}
    for word in map(str, utils.create_sweep_command(copy.copy(words))):
        found += macros.get(word[2:-1]) or [] if word.startswith("${") and word.endswith("}") else [word]
    return found


@pytest.mark.parametrize(
    "words",
    [
        [*HEAD, "${args}"],
        [*HEAD, "--n=2", "--kind", "b", "${args}"],
        [*HEAD, "${args}", "--steps", 7],
        [*HEAD, "--deterministic", "${args}"],
        [*HEAD, "${args_no_boolean_flags}"],
        [*HEAD, "${args_no_equals}", "--n=2"],
        ["python3", "-u", "tests/stand_in.py", "--entity=${envvar:WORD}-${envvar:WORD}", "${args}"],
        ["/usr/bin/env", "python", "./tests/stand_in.py", "${args}"],
        ["${interpreter}", "-m", "tests.stand_in", "${args}"],
        [sys.executable, str(Path(stand_in.__file__)), "${args}"],
    ],
    ids=lambda words: " ".join(map(str, words))[-60:],
)
def test_the_words_after_the_script_are_those_of_w_and_b(tmp_path, monkeypatch, words):
    monkeypatch.setenv("WORD", "a b")
    parameters = X | {"compile": {"values": [True, False]}, "project": {"value": "it's"}}
    sweep = sweep_of(tmp_path / "s.yaml", words, parameters)
    for point in sweep.points:
        theirs, ours = of_wandb(words, point), sweep.command.args(sweep.flags(point))
        assert theirs[-len(ours) :] == ours
        before = theirs[: -len(ours)]
        assert (
            Path(before[-1]).name in ("stand_in.py", "tests.stand_in") and "python" in before[0] + before[1]
        )
        cfg = sweep.config(point)
        assert (cfg.x, cfg.compile, cfg.project) == (point["x"], point["compile"], "it's")


def test_literal_flags_are_part_of_each_trial_and_of_its_key(tmp_path):
    words = [*HEAD, "--n", "2", "--deterministic", "${args}", "--kind=b"]
    sweep, plain = sweep_of(tmp_path / "s.yaml", words), sweep_of(tmp_path / "p.yaml", [*HEAD, "${args}"])
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    for trial in queue.trials():
        cfg = sweep.script.config(trial.flags)
        assert (cfg.n, cfg.kind, cfg.deterministic) == (2, "b", True)
        assert trial.key == sweep.script.key(cfg, stand_in.Data.content_hash)
        assert trial.flags == {"n": "2", "kind": "b", "deterministic": "True", "x": trial.flags["x"]}
        words = ["--n", "2", "--deterministic", f"--x={trial.flags['x']}", "--kind=b"]
        assert command.of_folder(queue.folder).args(trial.flags) == words
    other = begin.freeze(plain, tmp_path / "plain", False, False)
    assert not {t.key for t in queue.trials()} & {t.key for t in other.trials()}


def test_a_trial_that_confirms_has_its_own_seed_although_the_command_has_another(tmp_path):
    sweep = sweep_of(tmp_path / "s.yaml", [*HEAD, "--seed=3", "${args}"], metric=METRIC)
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    for trial in queue.trials():
        ended(queue, trial, [trial.flags["x"]])
    proposer.ask_to_confirm(queue.folder, 2)
    search = Proposer(Queue(queue.folder), sweep.content)
    assert search.make(worker.Watch())
    found = [t for t in search.queue.trials() if t.confirms]
    args = [search.command.args(t.flags) for t in found]
    assert args == [["--seed=3", "--x=0.1", "--seed=4"], ["--seed=3", "--x=0.1", "--seed=5"]]
    assert [sweep.script.module.Config(x=0.1, seed=s).seed for s in (4, 5)] == [
        worker_config(line).seed for line in args
    ]


def worker_config(args: list[str]):
    from research.common.commandline import parse

    return parse(stand_in.Config, args)


def test_bayes_proposes_beside_literal_flags(tmp_path):
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    sweep = sweep_of(
        tmp_path / "s.yaml", [*HEAD, "--n=2", "${args}"], parameters, method="bayes", run_cap=3, metric=METRIC
    )
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    search = Proposer(queue, sweep.content)
    assert search.make(worker.Watch()) and search.make(worker.Watch())
    first, second = queue.trials()
    assert first.flags["n"] == second.flags["n"] == "2" and first.flags["x"] != second.flags["x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("python x.py", 'command: python x.py: must be a list of words, as in ["${env}", "${interpreter}"'),
        ([], "command: []: must be a list of words"),
        ([*HEAD, True, "${args}"], "command: True: each word must be text; put it in quotes"),
        (
            [*HEAD, "${args_no_hyphens}"],
            "command: ${args_no_hyphens}: it gives name=value, and tests/stand_in.py",
        ),
        (
            [*HEAD, "${args_json}"],
            "command: ${args_json}: it gives one text in JSON, and tests/stand_in.py takes",
        ),
        ([*HEAD, "--config", "${args_json_file}"], "it gives the name of a file in JSON"),
        ([*HEAD, "${args_append_hydra}"], "it gives +name=value"),
        ([*HEAD, "${arg}"], "command: ${arg}: not a macro of W&B; did you mean ${args}?"),
        ([*HEAD, "--x=${args}"], "command: --x=${args}: a macro must be a word of its own"),
        ([*HEAD, "--n=${envvar:NOT_SET}", "${args}"], "--n=${envvar:NOT_SET}: NOT_SET is not set here"),
        (
            [*HEAD, "--n=2"],
            "command: one macro has to give the flags of a point, and there is none: write ${args}",
        ),
        ([*HEAD, "${args}", "${args}"], "and there is ${args} and ${args}: write ${args} once"),
        (
            [*HEAD, "--x=0.5", "${args}"],
            "command: --x=0.5: is given there and in the parameters: give one of the two",
        ),
        (
            [*HEAD, "--n=1", "${args}", "--n=2"],
            "command: --n=2: is given there and in --n=1: give one of the two",
        ),
        ([*HEAD, "--m=1", "${args}"], "command: unknown flag --m"),
        ([*HEAD, "--n", "${args}"], "command: --n needs a value: a whole number"),
        ([*HEAD, "n=1", "${args}"], "command: 'n=1' is not a flag"),
        ([*HEAD, "--n=many", "${args}"], "--n=many: must be a whole number"),
        ([*HEAD, "--out=x", "${args}"], "command: --out: the launcher's own --out says where the runs are"),
        ([*HEAD, "--task=test", "${args}"], "command: --task: a sweep's trials only train"),
        ([*HEAD, "--help", "${args}"], "command: --help: trains nothing"),
        ([*HEAD, "--_wandb=1", "${args}"], "command: --_wandb=1: W&B's own, not a flag of tests/stand_in.py"),
        (["${program}", "${args}"], "command: it starts ${program}, but here the script is started by"),
        (["torchrun", "${program}", "${args}"], "command: it starts torchrun, but here"),
        (["python2", "${program}", "${args}"], "command: it starts python2, but here"),
        (
            ["/nowhere/bin/python", "${program}", "${args}"],
            "command: it starts /nowhere/bin/python, but here",
        ),
        (
            ["${env}", "A=1", "python", "${program}", "${args}"],
            "command: A=1: set it in the shell that starts",
        ),
        (
            ["python", "research/charlm.py", "${args}"],
            "command: research/charlm.py: expected ${program}, tests/st",
        ),
        (["python", "${args}"], "command: ${args}: expected ${program}, tests/stand_in.py"),
        (["python", "-O", "${program}", "${args}"], "command: -O: expected ${program}"),
        ([*HEAD, "${env}", "${args}"], "command: ${env}: not behind the script"),
    ],
)
def test_commands_that_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(UserError) as error:
        begin.freeze(sweep_of(tmp_path / "s.yaml", words), tmp_path / "runs", False, False)
    text = str(error.value)
    assert message in text and text.startswith(f"--sweep={tmp_path / 's.yaml'}: ") and "\n" not in text
    assert not (tmp_path / "runs").exists()


def test_a_false_that_would_be_lost_is_refused(tmp_path, monkeypatch):
    words = [*HEAD, "${args_no_boolean_flags}"]
    parameters = {"compile": {"values": [True, False]}}
    assert sweep_of(tmp_path / "s.yaml", words, parameters).command.args({"compile": False}) == []
    monkeypatch.setattr(stand_in.Config, "compile", True)
    with pytest.raises(UserError, match="leaves out --compile=False, and then compile is True: write"):
        sweep_of(tmp_path / "s.yaml", words, parameters)


def test_what_a_variable_stood_for_is_kept(tmp_path, monkeypatch):
    words = [*HEAD, "--n=${envvar:N}", "${args}"]
    monkeypatch.setenv("N", "2")
    queue = begin.freeze(sweep_of(tmp_path / "s.yaml", words), tmp_path / "runs", False, False)
    monkeypatch.delenv("N")  # on another machine
    kept = command.of_folder(queue.folder)
    assert kept.args(queue.trials()[0].flags) == ["--n=2", "--x=0.1"] and kept.literals == {"n": "2"}
    monkeypatch.setenv("N", "1")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=r"was begun with the command \.\.\. --n=2 '\$\{args\}', and now it is"
    ):
        begin.freeze(sweep_of(tmp_path / "s.yaml", words), tmp_path / "runs", False, False)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setenv("N", "2")
    assert len(begin.freeze(sweep_of(tmp_path / "s.yaml", words), queue.folder, False, False).trials()) == 2


def test_a_command_that_is_taken_out_is_not_followed_in_silence(tmp_path):
    words = [*HEAD, "--log_every=7", "${args}"]  # which is in no key
    begin.freeze(sweep_of(tmp_path / "s.yaml", words), tmp_path / "runs", False, False)
    content = yaml.safe_load((tmp_path / "s.yaml").read_text())
    del content["command"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"begun with the command \.\.\. --log_every=7 .*, and now it is \.\.\. '"
    ):
        begin.freeze(plan.read(str(tmp_path / "s.yaml")), tmp_path / "runs", False, False)


def test_an_older_folder_with_a_command_that_adds_nothing_goes_on(tmp_path):
    sweep = sweep_of(tmp_path / "s.yaml", [*HEAD, "${args}"])
    begin.freeze(sweep, tmp_path / "runs", False, False)
    (tmp_path / "runs" / command.KEPT).unlink()  # as code that knew of no command left it
    assert len(begin.freeze(sweep, tmp_path / "runs", False, False).trials()) == 2


def test_a_folder_whose_command_was_not_followed_is_not_gone_on_with(tmp_path):
    sweep = sweep_of(tmp_path / "s.yaml", [*HEAD, "--n=2", "${args}"])
    begin.freeze(sweep, tmp_path / "runs", False, False)
    (tmp_path / "runs" / command.KEPT).unlink()  # as code that knew of no command left it
    with pytest.raises(
        UserError, match=r"was begun with the command \.\.\. '\$\{args\}', and now it is \.\.\. --n=2"
    ):
        begin.freeze(sweep, tmp_path / "runs", False, False)


def test_w_and_bs_agents_get_the_words_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setenv("N", "2")
    words = ["python", "-u", "./tests/stand_in.py", "--n=${envvar:N}", "${args_no_equals}"]
    sweep = sweep_of(tmp_path / "s.yaml", words)
    kept = command.as_written(sweep.content, sweep.script)
    made = agent.command_of(sweep.program, kept)
    assert made[:3] == ["${env}", "${interpreter}", "${envvar:RUN_CODE}/tests/stand_in.py"]
    assert made[3:] == ["--n=${envvar:N}", "${args_no_equals}", "--out=${envvar:RUN_SWEEP}"]
    plain = plan.Sweep(
        sweep.path, "", {k: v for k, v in sweep.content.items() if k != "command"}, sweep.script
    )
    assert command.as_written(plain.content, plain.script) == ["${args}"]


def test_keys_do_not_change_where_a_command_says_nothing_new(tmp_path):
    """A sweep with the usual command is the same sweep as one without."""
    with_command = sweep_of(tmp_path / "s.yaml", [*HEAD, "${args}"])
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump({k: v for k, v in with_command.content.items() if k != "command"})
    )
    plain = plan.read(str(tmp_path / "p.yaml"))
    keys = []
    for sweep in (with_command, plain):
        hashes = DataHashes(sweep.script)
        keys.append([sweep.script.key(cfg := sweep.config(p), hashes.of(cfg)) for p in sweep.points])
    assert keys[0] == keys[1] and plain.command.args({"x": 0.1}) == Command(["${args}"], {}).args({"x": 0.1})
