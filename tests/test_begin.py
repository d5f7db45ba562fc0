"""The beginning of a sweep: which trials its folder gets, what is refused, and how many
trials are planned.
"""

from pathlib import Path

import pytest
import yaml

from launch.results import read
from launch.sweep import begin, plan, proposer
from launch.sweep.program import DataHashes
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common import lease as leases
from research.common.folder import write_json
from research.common.messages import UserError
from tests.test_bayes import METRIC, confirm_all, ended
from tests.test_bayes import own_path as own_path  # a fixture, for every test

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so


def grid(path: Path, parameters: dict, **more) -> plan.Sweep:
    content = {"program": "tests/stand_in.py", "method": "grid", "parameters": parameters} | more
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
    return plan.read(str(path))


@pytest.mark.parametrize(
    "parameters",
    [{"x": {"values": [0.5, 0.5]}}, {"log_every": {"values": [10, 50]}}, {"threads": {"values": [1, 2]}}],
)
@pytest.mark.parametrize("metric", [None, METRIC])
def test_a_grid_of_fewer_runs_than_points_ends(tmp_path, parameters, metric):
    sweep = grid(tmp_path / "grid.yaml", parameters, metric=metric)
    for _ in range(2):
        queue = begin.freeze(sweep, tmp_path / "runs", False, False)
        search = Proposer(queue, sweep.content)
        assert (len(queue.trials()), search.planned(), search.wanted()) == (1, 1, False)
    assert sweep.survey.n_runs(DataHashes(sweep.script)) == 1


def test_a_grid_whose_making_was_killed_is_filled_in_by_the_same_command(tmp_path, monkeypatch):
    sweep, real, made = grid(tmp_path / "grid.yaml", {"x": {"values": [0.1, 0.2, 0.3]}}), Queue.add, []

    def killed(self, *args):
        if made:
            raise KeyboardInterrupt
        made.append(real(self, *args))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Queue, "add", killed)
        begin.freeze(sweep, tmp_path / "runs", False, False)
    queue = Queue(tmp_path / "runs")
    search = Proposer(queue, sweep.content)  # a worker that came back meanwhile makes the others
    assert (len(queue.trials()), search.planned(), search.wanted()) == (1, 3, True)
    assert search.make(leases.Watch()) and not search.wanted()
    assert len(queue.trials()) == 3
    assert len(begin.freeze(sweep, tmp_path / "runs", False, False).trials()) == 3


def test_a_grid_with_confirming_trials_does_not_grow_over_seed(tmp_path):
    path, folder = tmp_path / "grid.yaml", tmp_path / "runs"
    queue = begin.freeze(
        grid(path, {"x": {"values": [0.1]}, "seed": {"values": [0]}}, metric=METRIC), folder, False, False
    )
    ended(queue, queue.trials()[0], [0.5])
    proposer.ask_to_confirm(folder, 1)
    confirm_all(0, folder)
    before = sorted(folder.rglob("*"))
    grown = grid(path, {"x": {"values": [0.1]}, "seed": {"values": [0, 1]}}, metric=METRIC)
    with pytest.raises(UserError, match="a grid that varies seed needs another --name"):
        begin.freeze(grown, folder, False, False)
    assert (
        sorted(folder.rglob("*")) == before and yaml.safe_load((folder / "sweep.yaml").read_text()) != grown
    )
    wider = grid(path, {"x": {"values": [0.1, 0.2]}, "seed": {"values": [0]}}, metric=METRIC)
    assert [t.confirms is None for t in begin.freeze(wider, folder, False, False).trials()] == [
        True,
        False,
        True,
    ]


def test_a_script_that_says_nothing_of_its_headline_may_log_any_metric(tmp_path, monkeypatch):
    from tests import stand_in

    parameters = {"x": {"values": [0.1]}, "seed": {"value": 0}}
    monkeypatch.delattr(stand_in, "headline")
    sweep = grid(tmp_path / "grid.yaml", parameters, metric=METRIC | {"name": "words"})
    assert plan.read(str(sweep.path), confirm=1).content == sweep.content
    monkeypatch.undo()
    with pytest.raises(UserError, match="logs no words; its headline is val/loss_best"):
        plan.read(str(sweep.path), confirm=1)


def test_each_data_set_is_loaded_once(tmp_path, monkeypatch):
    from tests import stand_in

    loaded, real = [], stand_in.load_data
    monkeypatch.setattr(stand_in, "load_data", lambda cfg: loaded.append(cfg.dataset) or real(cfg))
    parameters = {"x": {"values": [0.1, 0.2]}, "dataset": {"values": ["a", "b"]}}
    sweep = grid(tmp_path / "grid.yaml", parameters, metric=METRIC)
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    assert sorted(loaded) == ["a", "b"]
    search = Proposer(Queue(tmp_path / "runs"), sweep.content)
    keys = {search._key(search.program.config(trial.flags)) for trial in queue.trials()}
    assert keys == {trial.key for trial in queue.trials()} and len(keys) == 2  # of equal content
    assert sorted(loaded) == ["a", "b"]  # the folder knows them
    search._key(search.program.config({"dataset": "c"}))
    assert sorted(loaded) == ["a", "b", "c"]


# ---- the folder ----------------------------------------------------------------------------------------


def test_a_snapshot_of_an_older_layout_goes_on(tmp_path, monkeypatch):
    """In an older snapshot, workers lie directly in launch/; only --confirm is refused if they do not know
    it.
    """
    monkeypatch.chdir(tmp_path)
    sweep = grid(tmp_path / "tiny.yaml", {"x": {"values": [0.1]}}, metric=METRIC)
    folder = Path("runs/tiny")
    assert begin.program_in(folder, "agent.py") == folder / "code/launch/sweep/agent.py"
    older = folder / "code/launch/worker.py"
    older.parent.mkdir(parents=True)
    older.touch()
    assert begin.program_in(folder, "worker.py") == older

    def reached(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(begin, "freeze", reached)
    with pytest.raises(ZeroDivisionError):
        begin.prepare(plan.SweepFlags(sweep="tiny.yaml"), sweep)
    with pytest.raises(UserError, match="--confirm=2: the snapshot of the code in runs/tiny is older"):
        begin.prepare(plan.SweepFlags(sweep="tiny.yaml", confirm=2), sweep)
    (older.parent / "proposer.py").touch()
    with pytest.raises(ZeroDivisionError):
        begin.prepare(plan.SweepFlags(sweep="tiny.yaml", confirm=2), sweep)


# ---- how many ------------------------------------------------------------------------------------------


def test_how_many_trials_a_folder_means_to_have(tmp_path):
    folder = tmp_path / "runs"
    sweep = grid(tmp_path / "s.yaml", {"x": {"values": [0.1, 0.1, 0.2]}, "seed": {"value": 3}}, metric=METRIC)
    queue = begin.freeze(sweep, folder, False, False)
    assert begin.planned(folder) == 2 == begin.n_open(queue, 2)  # its YAML has three points, of two runs
    proposer.ask_to_confirm(folder, 4)
    assert begin.planned(folder) == 6 == begin.n_open(queue, 6)
    ended(queue, queue.trials()[0], [0.5])
    assert begin.n_open(queue, 6) == 5
    (folder / "sweep.yaml").write_text("- damaged")
    assert begin.planned(folder) == 2  # the trials that are there


def test_how_many_where_w_and_b_directs_or_the_folder_is_not_ours(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"flags": {}})
    assert begin.planned(tmp_path) == 3
    spec = {"method": "grid", "parameters": {"x": {"values": [1, 2]}, "y": {"values": [1, 2]}}}
    for more, expected in (({}, 4), ({"run_cap": 3}, 3), ({"run_cap": 2}, 3), ({"method": "random"}, 3)):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec | more))
        assert begin.planned(tmp_path) == expected
    found = read.Sweep(tmp_path, "s", "", spec, "", [], [{}] * 7)
    assert begin.planned(tmp_path, found) == 7


# ---- a changed YAML ------------------------------------------------------------------------------------

BASE = {
    "program": "tests/stand_in.py",
    "method": "grid",
    "metric": METRIC,
    "parameters": {"x": {"values": [0.1, 0.2]}, "steps": {"value": 3}},
}
LOSS = {"name": "train/loss"}
RANDOM = BASE | {"method": "random", "run_cap": 3, "parameters": {"x": {"min": 0.1, "max": 0.9}}}
BAYES = RANDOM | {"method": "bayes"}


def with_parameter(content: dict, **parameters) -> dict:
    return content | {"parameters": content["parameters"] | parameters}


def begun(path: Path, content: dict, folder: Path, **how) -> Queue:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return begin.freeze(plan.read(str(path)), folder, False, False, **how)


@pytest.mark.parametrize(
    ("old", "new", "trials"),
    [
        (BASE, BASE | {"name": "a better name", "description": "what for"}, 2),
        (
            BASE | {"metric": {"name": "train/loss"}},
            BASE | {"metric": LOSS | {"goal": "maximize"}},
            2,
        ),
        (BASE, {k: v for k, v in BASE.items() if k != "metric"}, 2),
        (BASE, BASE | {"program": "./tests/stand_in.py"}, 2),
        (BASE, BASE | {"command": ["python", "${program}", "${args}"]}, 2),
        (BASE, with_parameter(BASE, x={"values": [0.3, 0.2, 0.1]}), 3),
        (BASE, with_parameter(BASE, x={"values": [0.10, 0.2], "distribution": "categorical"}), 2),
        (BASE, with_parameter(BASE, n={"values": [1, 2]}), 4),  # 1 is the flag's default
        (BASE, with_parameter(BASE, n={"value": 1}), 2),
        (BASE, with_parameter(BASE, pace={"values": [0.0, 0.5]}), 2),  # it changes no numbers
        (BASE | {"run_cap": 1}, BASE, 2),
        (BASE, BASE | {"run_cap": 7}, 2),
        (RANDOM, RANDOM | {"run_cap": 5}, 5),
        (RANDOM, RANDOM | {"metric": LOSS | {"goal": "maximize"}}, 3),
        (BAYES, BAYES | {"run_cap": 5, "name": "x"}, 0),
    ],
)
def test_a_change_that_leaves_each_run_its_meaning_is_no_other_sweep(tmp_path, old, new, trials):
    folder = tmp_path / "runs"
    before = begun(tmp_path / "s.yaml", old, folder).trials()
    after = begun(tmp_path / "s.yaml", new, folder).trials()
    assert after[: len(before)] == before and len(after) == trials == len({t.key for t in after})
    assert yaml.safe_load((folder / "sweep.yaml").read_text()) == new
    assert begin.planned(folder) == (trials or new["run_cap"])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            BASE,
            with_parameter(BASE, x={"values": [0.2, 0.3]}),
            "1 of its trials are not points of this one, such as 0000",
        ),
        (
            BASE,
            with_parameter(BASE, n={"value": 2}),
            "parameters.n: not there → {'value': 2}): 2 of its trials",
        ),
        (BASE, with_parameter(BASE, steps={"value": 4}), "parameters.steps.value: 3 → 4"),
        (
            BASE,
            BASE | {"run_cap": 1},
            "run_cap: not there → 1): 1 of its trials are not points of this one, such as 0001",
        ),
        (BASE, BASE | {"method": "random", "run_cap": 2}, "method: grid → random"),
        (BASE, BASE | {"project": "p"}, "project: not there → p): project can't change"),
        (
            BASE,
            BASE | {"early_terminate": {"type": "hyperband", "min_iter": 2}},
            "early_terminate can't change",
        ),
        (RANDOM, with_parameter(RANDOM, x={"min": 0.1, "max": 0.8}), "3 of its trials are not points"),
        (RANDOM, with_parameter(RANDOM, n={"value": 1}), "3 of its trials are not points"),  # other draws
        (
            BAYES,
            with_parameter(BAYES, x={"min": 0.1, "max": 0.8}),
            "trials were chosen for the old parameters",
        ),
        (
            BAYES,
            BAYES | {"metric": LOSS | {"goal": "maximize"}},
            "trials were chosen or stopped by the old metric",
        ),
    ],
)
def test_a_change_that_does_not_is_another_sweep(tmp_path, old, new, why):
    folder = tmp_path / "runs"
    begun(tmp_path / "s.yaml", old, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as refused:
        begun(tmp_path / "s.yaml", new, folder)
    message = str(refused.value)
    assert message.startswith(f"{folder} holds another sweep (") and why in message and "\n" not in message
    assert message.endswith("choose another --name, or --fresh")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_wandb_directs_can_only_change_in_its_comments(tmp_path):
    folder = tmp_path / "runs"
    begun(tmp_path / "s.yaml", BASE, folder, online=True)
    (tmp_path / "s.yaml").write_text("# more to tell\n" + yaml.safe_dump(BASE), encoding="utf-8")
    begin.freeze(plan.read(str(tmp_path / "s.yaml")), folder, False, False, online=True)
    with pytest.raises(UserError, match="W&B directs it, and keeps it as it was first sent"):
        begun(tmp_path / "s.yaml", with_parameter(BASE, x={"values": [0.1, 0.2, 0.3]}), folder, online=True)


@pytest.mark.parametrize("text", ["", "- 1", "a: ["])
def test_a_damaged_yaml_in_the_folder_is_told(tmp_path, text):
    folder = tmp_path / "runs"
    begun(tmp_path / "s.yaml", BASE, folder)
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.yaml cannot be read .*: --fresh moves the folder aside"):
        begun(tmp_path / "s.yaml", BASE, folder)


def test_a_grid_that_wandb_directs_has_all_its_points(tmp_path):
    ranged = with_parameter(BASE, n={"min": 1, "max": 5})
    begun(tmp_path / "s.yaml", ranged, tmp_path / "runs", online=True)
    assert begin.planned(tmp_path / "runs") == 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"project": " "}, "--project= : must be a name, or left out"),
        ({"entity": ""}, "--entity=: must be a name, or left out"),
        ({"name": "../x"}, "--name=../x: must be a plain folder name"),
        ({"name": ""}, "--name=: must be a plain folder name"),
    ],
)
def test_names_that_are_none(flags, message):
    with pytest.raises(UserError, match=message):
        plan.SweepFlags(sweep="s.yaml", **flags)


def test_a_name_with_blanks_is_not_handed_to_workers_that_split_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "s.yaml", BASE, tmp_path / "runs" / "s")
    sweep = plan.read("s.yaml")
    flags = plan.SweepFlags(sweep="s.yaml", project="a b")
    assert begin.foresee(flags, sweep) == (2, 2)
    (tmp_path / "runs/s/code/launch/sweep/command.py").unlink()  # as in a snapshot of older code
    with pytest.raises(UserError, match="--project=a b: the snapshot of the code in runs/s is older"):
        begin.foresee(flags, sweep)
    assert begin.foresee(plan.SweepFlags(sweep="s.yaml", project="ab"), sweep) == (2, 2)


def test_a_dry_run_refuses_what_the_launch_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, folder = plan.SweepFlags(sweep="s.yaml"), tmp_path / "runs" / "s"
    begun(tmp_path / "s.yaml", BASE, folder)
    sweep = plan.read("s.yaml")
    kept = (folder / "code/snapshot.json").read_text()
    (folder / "code/snapshot.json").write_text(kept.replace('"source": "', '"source": "x'), encoding="utf-8")
    for ask in (begin.foresee, begin.prepare):
        with pytest.raises(UserError, match="was started with other code"):
            ask(flags, sweep)
    (folder / "code/snapshot.json").write_text(kept, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(with_parameter(BASE, steps={"value": 4})), encoding="utf-8"
    )
    for ask in (begin.foresee, begin.prepare):
        with pytest.raises(UserError, match="holds another sweep"):
            ask(flags, plan.read("s.yaml"))
    assert begin.foresee(plan.SweepFlags(sweep="s.yaml", fresh=True), plan.read("s.yaml")) == (2, 2)
    assert not (folder / ".fresh").exists()


def test_data_that_have_changed_are_told_before_a_trial_is_made_for_them(tmp_path, monkeypatch):
    from tests import stand_in

    folder = tmp_path / "runs"
    begun(tmp_path / "s.yaml", BASE, folder)
    monkeypatch.setattr(stand_in.Data, "content_hash", "other")
    with pytest.raises(UserError, match=r"the data of its trials changed .*; hash none, now other\)"):
        begun(tmp_path / "s.yaml", with_parameter(BASE, x={"values": [0.1, 0.2, 0.3]}), folder)
    assert len(Queue(folder).trials()) == 2


def test_an_old_folder_without_its_size_goes_on(tmp_path):
    folder = tmp_path / "runs"
    queue = begun(tmp_path / "s.yaml", BASE, folder)
    (folder / "size.json").unlink()
    assert Proposer(queue, BASE).size() == 2 and not Proposer(queue, BASE).wanted()
