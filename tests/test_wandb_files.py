"""The runs of any script, read from W&B's own files: what was logged comes back, and no damage hides a run.

A script that knows nothing of this repository (foreign_script.py) makes the files with the real client, once.
"""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import report
from launch.results import headline, media, read, wandb_files
from research.common.identity import ROOT
from research.common.messages import UserError
from tests import test_report
from tests.browser import Page, browser, settle
from tests.foreign_script import NASTY
from tests.test_report import call, make_run, texts_of

SCRIPT = ROOT / "tests" / "foreign_script.py"
OLD = 1_700_000_000  # UNIX seconds, long ago


def age(folder):
    """Let the files look as if nobody had written to them for long."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD))


def age_for_good(folder):
    """Like `age`, after the client's own process has ended, which lives and writes a moment longer than the
    script.
    """
    quiet = 0
    while quiet < 4:
        age(folder)
        time.sleep(0.25)
        fresh = any(path.stat().st_mtime != OLD for path in folder.rglob("*") if path.is_file())
        quiet = 0 if fresh else quiet + 1


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project's folder: `wandb` in it holds three runs that ended and one that was killed; `log.jsonl` what
    was logged; `alive` what was read of the last one while it was at work.
    """
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(SCRIPT.read_text())
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "train.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
    environment |= {f"WANDB_{k}_DIR": str(folder / "cache") for k in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    begin = [sys.executable, "train.py"]
    subprocess.run([*begin, "several", "log.jsonl"], cwd=folder, env=environment, check=True, timeout=120)
    working = subprocess.Popen([*begin, "killed", "log.jsonl"], cwd=folder, env=environment)
    try:
        file, until = None, time.monotonic() + 120
        while not file or file.stat().st_size < 50_000:
            assert time.monotonic() < until and working.poll() is None
            file = next((folder / "wandb").glob("*-ddd/run-ddd.wandb"), None)
            time.sleep(0.1)
        alive = wandb_files.join([wandb_files.read_segment(file)])
    finally:
        working.send_signal(signal.SIGKILL)
        working.wait()
    (folder / "alive.json").write_text(json.dumps([alive.status, len(alive.rows), alive.problem]))
    age_for_good(folder)
    return folder


@pytest.fixture(scope="module")
def sweep(project):
    return wandb_files.read_wandb(project)


@pytest.fixture
def copied(project, tmp_path):
    """copied(id): a new folder `wandb` that contains only the first start of this run; returns its folder."""

    def copy(key):
        source = sorted((project / "wandb").glob(f"*-{key}"))[0]
        return Path(shutil.copytree(source, tmp_path / "wandb" / source.name))

    return copy


def logged(project):
    """What the script itself wrote down: run → step → its numbers."""
    rows = {}
    for line in (project / "log.jsonl").read_text().splitlines():
        logged = json.loads(line)
        row = {"step (logged)" if k == "step" else k: v for k, v in logged["row"].items()}
        rows.setdefault(logged["run"], {})[logged["step"]] = row
    return rows


def by_id(sweep):
    return {run.config["wandb_id"]: run for run in sweep.runs}


# ------------------------------------------------------------------------------------ what is there


def test_every_row_comes_back(project, sweep):
    """Steps with a gap, values that are not finite, a resumed run, and what the disk has of a killed one."""
    runs, truth = by_id(sweep), logged(project)
    assert list(runs) == ["aaa", "bbb", "ccc", "ddd"] and sweep.problem is None
    for key in ("aaa", "bbb"):
        found = {row["step"]: row for row in runs[key].rows}
        assert list(found) == list(truth[key])
        for step, row in truth[key].items():
            assert found[step].items() >= row.items(), step
    assert runs["aaa"].rows[2]["train/loss"] is None and runs["aaa"].rows[2]["worst"] is None
    assert runs["aaa"].rows[3]["nested.deep.b"] == 125 and runs["aaa"].rows[3]["seen"] == 1
    assert "words" not in runs["aaa"].rows[3] and "words" in runs["aaa"].status["summary"]
    killed = runs["ddd"].rows
    assert 50 < len(killed) <= len(truth["ddd"])
    assert [row["train/loss"] for row in killed] == [1 / (step + 1) for step in range(len(killed))]
    times = [row["_timestamp"] for row in killed]
    assert times == sorted(times) and abs(times[0] - time.time()) < 3600
    assert all(math.isfinite(row["_runtime"]) for row in killed)
    assert not any(run.is_curve(name) for run in sweep.runs for name in ("_timestamp", "_runtime", "step"))


def test_config_and_names(sweep, project):
    runs = by_id(sweep)
    first = runs["aaa"]
    assert first.flags == {
        "lr": 0.2,  # as it was changed later
        "model.depth": 2,
        "model.widths": [1, 2],
        "model.opt.name": "adam",
        "text": NASTY,
        "seed": 0,
        "out_dir": "/scratch/one",
        "inf": "Infinity",
    }
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True).stdout
    assert first.config["source"] == {"commit": head.strip()}
    assert first.config["command"] == ["python", "train.py", "several", "log.jsonl"]
    known = {
        "name": f"first {NASTY}",
        "group": "pairs",
        "tags": ["big", "old"],
        "notes": NASTY,
        "family": "train.py",
    }
    assert (
        first.config.items()
        >= (known | {"project": "theirs", "headline": "val/acc", "goal": "maximize"}).items()
    )
    assert first.config["started"].startswith("20") and first.title == f"first {NASTY} (aaa)"
    assert runs["bbb"].title == "bbb" and runs["ccc"].config["sweep_id"] == "swp"
    assert first.status["summary"]["figure_of_merit"] == 3.5 and first.status["console"] == ["the end of aaa"]
    assert sweep.varied == ["lr", "model.depth"]  # out_dir only says where a run was
    assert "Not compared: out_dir, since" in sweep.header and sweep.name == "theirs"
    assert "Not shown: spread (histogram)" in sweep.header
    assert "Resumed: bbb (2 starts); joined by step" in sweep.header


def test_media_come_back(sweep):
    found = by_id(sweep)["aaa"].media
    keys = [
        "film",
        *(f"grid/pictures {i}" for i in (1, 2, 3)),
        "page",
        "panel.inner",
        "picture",
        "plot",
        "table",
    ]
    assert list(found) == keys
    assert all([step for step, _ in files] == [0, 51] for files in found.values())
    assert NASTY in found["page"][1][1].read_text() and "page 51" in found["page"][1][1].read_text()
    assert json.loads(found["plot"][1][1].read_text())["data"][0]["y"] == [3, 51]
    assert len({path.read_bytes() for i in (1, 2, 3) for _, path in found[f"grid/pictures {i}"]}) == 6
    data = media.media_of(sweep, 100.0, None).data
    kinds = {
        key: {data["blobs"][name]["kind"] for files in of.values() for _, name, *_ in files}
        for key, of in data["of"].items()
    }
    assert kinds["table"] == kinds["page"] == kinds["plot"] == {"text"}
    assert kinds["film"] == kinds["picture"] == kinds["panel.inner"] == {"image"}


def test_captions_stand_below_pictures(sweep):
    run = by_id(sweep)["aaa"]
    step, path = run.media["picture"][0]
    assert run.captions[path] == NASTY
    data = media.media_of(sweep, 100.0, None).data
    shown_step, name, caption = data["of"]["picture"][sweep.runs.index(run)][0]
    assert (shown_step, caption) == (step, NASTY) and name in data["blobs"]
    assert len(data["of"]["film"][sweep.runs.index(run)][0]) == 2


def test_a_folder_for_each_run(project, tmp_path):
    """As Hydra arranges them; the folders of our own runs do not count."""
    for i, source in enumerate(sorted((project / "wandb").glob("*run-*"))):
        shutil.copytree(source, tmp_path / "outputs" / "2025-01-01" / f"{i}" / "wandb" / source.name)
    found = wandb_files.read_wandb(tmp_path / "outputs")
    assert set(by_id(found)) == {"aaa", "bbb", "ccc", "ddd"} and found.folder == tmp_path / "outputs"
    ours = tmp_path / "runs" / "sweep" / "key"
    shutil.copytree(tmp_path / "outputs" / "2025-01-01" / "0", ours)
    for name in ("config.json", "status.json"):
        (ours / name).write_text("{}")
    assert wandb_files.place_of(tmp_path / "runs") is None


def test_a_table_is_a_page():
    """It is escaped, has its first rows, and names a picture in it."""
    table = {"columns": ["a", NASTY], "data": [[i, {"_type": "image-file"}] for i in range(media.ROWS + 1)]}
    page = media._table_page(json.dumps(table).encode())
    assert NASTY not in page and "&lt;script&gt;" in page and "[image-file]" in page
    assert page.count("<tr>") == media.ROWS + 1 and f"The first {media.ROWS} of {media.ROWS + 1} rows" in page
    for damaged in (b"[]", b"{", b'{"columns": 1, "data": []}', b'{"columns": [], "data": [1]}'):
        assert media._table_page(damaged) == "<p>This table cannot be read."


# ------------------------------------------------------------------------------------ how runs ended


def test_ends(project, sweep):
    runs = by_id(sweep)
    assert [runs[key].status["status"] for key in runs] == ["finished", "failed", "finished", "failed"]
    assert runs["bbb"].status["reason"] == "exit code 1; the console ends: Out of memory"
    assert runs["bbb"].status["console"][-2:] == ["progress 100%", "Out of memory"]
    assert [part["from_step"] for part in runs["bbb"].status["segments"]] == [0, 3]
    assert runs["ccc"].problem == "no history is recorded" and runs["ccc"].status["headline"] == 0.25
    assert runs["ddd"].status["reason"].startswith("killed, it seems: no end is recorded, and nothing was")
    assert "after 2023-11-14 22:13 UTC" in runs["ddd"].status["reason"]
    assert runs["aaa"].problem is None
    status, rows, problem = json.loads((project / "alive.json").read_text())
    assert (status["status"], problem) == ("running", None) and rows > 50
    assert status["reason"].startswith("no end is recorded yet; last written ")


def whole(folder):
    """The bytes of a start's .wandb file, and its path."""
    (file,) = folder.glob("*.wandb")
    return file.read_bytes(), file


@pytest.mark.parametrize("length", [0, 7, 20, 400, 0.9])
def test_a_torn_file_gives_what_is_whole(copied, length, sweep):
    data, file = whole(copied("aaa"))
    file.write_bytes(data[: int(length * len(data)) if length == 0.9 else length])
    age(file.parent)
    (run,) = wandb_files.read_wandb(file.parent).runs
    assert run.status["status"] == "failed" and "killed, it seems" in run.status["reason"]
    assert ("torn at its end" in (run.problem or "")) == (length not in (0, 7))
    assert ("no history is recorded" in run.problem) == (length != 0.9)
    assert run.config["wandb_id"] == "aaa"
    before = {row["step"]: row for row in by_id(sweep)["aaa"].rows}
    logged = [{k: v for k, v in row.items() if k == "step" or k in run.followed} for row in run.rows]
    assert [row for row in logged if not row.items() <= before[row["step"]].items()] == []
    file.touch()  # a writer is at work: then its end may lie anywhere
    (run,) = wandb_files.read_wandb(file.parent).runs
    assert run.status["status"] == "running" and "torn" not in (run.problem or "")


def test_damage_hides_no_other_run(copied, tmp_path):
    """A row reports each kind of damage, and the report is written."""
    _, file = whole(copied("aaa"))
    middle = bytearray(whole(copied("bbb"))[0])
    middle[len(middle) // 2] ^= 0xFF
    damaged = {
        "rubbish": b"rubbish" * 100,
        "middle": bytes(middle),
        "gone": None,
    }
    for name, content in damaged.items():
        folder = file.parent.parent / f"run-20250101_000000-{name}"
        folder.mkdir()
        if content is not None:
            (folder / f"run-{name}.wandb").write_bytes(content)
    folder = file.parent.parent / "run-20250101_000000-pipe"
    folder.mkdir()
    os.mkfifo(folder / "run-pipe.wandb")  # reading it would wait for ever
    shutil.rmtree(next(file.parent.parent.glob("offline-run-*-bbb")))
    age(file.parent.parent)
    sweep = wandb_files.read_wandb(tmp_path)
    found = {run.folder.name.rpartition("-")[2]: run for run in sweep.runs}
    assert {name: run.status["status"] for name, run in found.items()} == {
        "aaa": "finished",
        "rubbish": "unreadable",
        "middle": "failed",
        "gone": "unreadable",
        "pipe": "unreadable",
    }
    assert re.search(r"run-rubbish.wandb cannot be read \(.*bad header", found["rubbish"].problem)
    assert "run-middle.wandb is damaged: what cannot be read in it is left out" in found["middle"].problem
    assert found["gone"].problem == "it has no .wandb file"
    assert found["pipe"].problem == "run-pipe.wandb cannot be read (it is not a regular file)"
    reasons = {run["id"]: run["reason"] for run in test_report.whole(sweep)["runs"]}
    troubled = [run for run in sweep.runs if run.problem]
    assert len(troubled) == 4 and all(run.problem in reasons[run.id] for run in troubled)


def test_nothing_but_unreadable_runs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"run-20250101_000000-{name}").mkdir()
    (tmp_path / "run-20250101_000000-one" / "run-one.wandb").write_bytes(b"rubbish" * 100)
    sweep = wandb_files.read_wandb(tmp_path)
    assert [run.status["status"] for run in sweep.runs] == ["unreadable"] * 2
    assert "Judged by: nothing" in sweep.header
    reasons = [run["reason"] for run in test_report.whole(sweep)["runs"]]
    assert "it has no .wandb file" in reasons and any("bad header" in reason for reason in reasons)
    assert read.results_csv(sweep, tmp_path / "x.csv") == 0


def test_missing_media_are_told(copied):
    folder = copied("aaa")
    for path in (folder / "files" / "media" / "images").glob("picture_*"):
        path.unlink()
    outside = folder.parent / "secret.html"
    outside.write_text("secret")
    for path in (folder / "files" / "media" / "html").iterdir():
        path.unlink()
        path.symlink_to(outside)
    (run,) = wandb_files.read_wandb(folder).runs
    assert "picture" not in run.media and "page" not in run.media and "film" in run.media
    assert re.search(r"media file media/images/picture_0_\w+.png is not there, and 1 more", run.problem)
    assert re.search(r"html leads outside the run's folder and is refused, and 1 more", run.problem)
    shown = media.media_of(wandb_files.read_wandb(folder), 100.0, None).data
    assert "secret" not in json.dumps(shown).replace("secret.html", "")


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "/", "a.png", "sub", "\0", "out"])).map("/".join)
)
def test_no_media_path_leads_outside(tmp_path_factory, name):
    base = tmp_path_factory.getbasetemp() / "media paths"
    files = base / "run-x" / "files"
    if not base.exists():
        (files / "sub").mkdir(parents=True)
        for place in (base, base / "run-x", files, files / "sub"):
            (place / "a.png").write_bytes(b"png")
        (files / "out").symlink_to(base)
    segment = wandb_files.Segment(base / "run-x" / "run-x.wandb")
    item = {"_step": 3, "key._type": "image-file", "key.path": name, "n": 1}
    segment.add("history", {"item": item})
    segment.finish()
    assert segment.rows == [{"step": 3, "n": 1}]
    taken = [path for _, path in segment.media["key"]]
    assert all(path.resolve().is_relative_to(files.resolve()) and path.is_file() for path in taken)
    assert len(taken) + len(segment.problems) == 1
    outside = name.startswith(("/", "out/")) or ".." in name.split("/")
    assert not (taken and outside)


# ------------------------------------------------------------------------------------ joining, reading


def segment(key, folder, steps, given_steps=True, **figures):
    made = wandb_files.Segment(
        Path(folder) / f"run-{key}.wandb", run={"run_id": key}, gives_steps=given_steps
    )
    for step in steps:
        made.add(
            "history", {"item": {"_step": step} | {name: value + step for name, value in figures.items()}}
        )
    return made


@given(st.sets(st.integers(0, 50), max_size=20), st.sets(st.integers(0, 50), max_size=20))
def test_starts_that_give_their_steps_are_joined_by_them(one, two):
    """Nothing is lost; if both starts have logged a step, the later one counts."""
    run = wandb_files.join(
        [segment("x", "/run-1", sorted(one), a=0, b=0), segment("x", "/run-2", sorted(two), a=1000, c=0)]
    )
    rows = {row["step"]: row for row in run.rows if row}
    assert list(rows) == sorted(one | two)
    for step, row in rows.items():
        assert row["a"] == step + 1000 * (step in two)
        assert ("b" in row) == (step in one) and ("c" in row) == (step in two)


@given(st.integers(1, 20), st.integers(1, 20))
def test_starts_that_begin_at_zero_again_follow_one_another(n, m):
    run = wandb_files.join(
        [segment("x", "/run-1", range(n), False, a=0), segment("x", "/run-2", range(m), False, a=100)]
    )
    assert [row["step"] for row in run.rows] == list(range(n + m))
    assert [row["a"] for row in run.rows] == [*range(n), *range(100, 100 + m)]
    assert run.starts == 2 and [part["from_step"] for part in run.status["segments"]] == [0, n]


def test_a_start_that_goes_on_where_the_other_ended_keeps_its_steps():
    """As after an online resume."""
    run = wandb_files.join(
        [segment("x", "/run-1", range(5), False, a=0), segment("x", "/run-2", [5, 6], False, a=0)]
    )
    assert [row["step"] for row in run.rows] == [0, 1, 2, 3, 4, 5, 6]


nested = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), nested, max_size=3))
def test_flatten_keeps_every_leaf(values):
    def leaf(path):
        at = values
        for name in path.split("."):
            at = at[name]
        return at

    def leaves(value):
        return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1

    flat = wandb_files.flatten(values)
    assert {path: leaf(path) for path in flat} == flat
    assert len(flat) == (leaves(values) if values else 0)


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (1, 1),
        (True, 1),
        (0.5, 0.5),
        ("NaN", None),
        ("-Infinity", None),
        (10**20, 1e20),
        (10**400, None),
        ("text", ...),
        ([1], ...),
        (None, ...),
        ({}, ...),
    ],
)
def test_what_counts_as_a_number(value, row):
    made = wandb_files.Segment(Path("/run-x/run-x.wandb"))
    made.add("history", {"item": {"a": value}, "step": {"num": 7}})
    assert made.rows == [{"step": 7} if row is ... else {"step": 7, "a": row}]
    assert row in (..., None) or type(made.rows[0]["a"]) is type(row)


def test_records_are_taken_as_they_come(monkeypatch, tmp_path):
    """The reader is at most one line ahead of what is asked for, and no process is left running."""
    code = """
import os, sys, time
print('{"num":1,"type":"stats","stats":{}}')
print('{"num":2,"type":"history","history":{"item":{"a":1}}}')
print('no json')
print('{"num":3,"type":"history","history":[1]}', flush=True)
print('{"num":4,"type":"exit","exit":{"exit_code":0}}', flush=True)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""
    file, pid = tmp_path / "run-x.wandb", tmp_path / "pid"
    file.write_bytes(b"")
    monkeypatch.setattr(wandb_files, "reader", lambda file: [sys.executable, "-c", code, str(pid)])
    records = wandb_files.records(file, [])
    assert next(records) == ("history", {"item": {"a": 1}}) and next(records) == ("exit", {"exit_code": 0})
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.01)
    records.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_reader_that_fails_is_a_problem_of_the_run(monkeypatch, tmp_path):
    file = tmp_path / "run-x.wandb"
    file.write_bytes(b"")
    age(tmp_path)
    said = "print('no json'); print('{}'); import sys; sys.exit('Error: no such thing' if {} else 0)"
    for fails, problem in (
        (1, r"run-x.wandb cannot be read \(no such thing\)"),
        (0, "2 records of run-x.wandb"),
    ):
        code = said.replace("{} else", f"{fails} else")
        monkeypatch.setattr(wandb_files, "reader", lambda file, code=code: [sys.executable, "-c", code])
        (run,) = wandb_files.read_wandb(tmp_path).runs
        assert re.search(problem, run.problem) and (run.status["status"] == "unreadable") == bool(fails)


def test_the_clients_command_says_the_same(project, monkeypatch):
    """wandb-core is called directly, which saves a second for each run; `wandb leet inspect` prints the same
    lines.
    """
    (file,) = (project / "wandb").glob("*-ccc/*.wandb")
    own = wandb_files.reader(file)
    assert "wandb-core" in own[0]
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    public = wandb_files.reader(file)
    monkeypatch.undo()
    assert public[1:] == ["-m", "wandb", "leet", "inspect", "--json", str(file)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(project)}
    said = [subprocess.run(words, env=environment, capture_output=True).stdout for words in (own, public)]
    assert said[0] == said[1] and said[0].count(b"\n") > 5


# ------------------------------------------------------------------------------------ comparing


def test_equal_runs_are_told_apart_and_sweeps_tell_their_parameters(project, tmp_path):
    wandb = tmp_path / "wandb"
    shutil.copytree(project / "wandb", wandb, symlinks=True)
    (wandb / "sweep-swp").mkdir()
    (wandb / "sweep-swp" / "config-ccc.yaml").write_text(
        "wandb_version: 1\n\nwidth:\n  value: 8\nlr:\n  value: 0.3\n"
    )
    assert wandb_files.read_wandb(wandb).varied == ["lr", "model.depth"]  # only ccc has a width
    shutil.copytree(next(wandb.glob("*-ddd")), wandb / "run-20300101_000000-eee")
    again = next((wandb / "run-20300101_000000-eee").glob("*.wandb"))
    data = again.read_bytes()
    again.write_bytes(data)
    sweep = wandb_files.read_wandb(wandb)
    assert len(sweep.runs) == 4 and by_id(sweep)["ddd"].starts == 2  # one id is one run
    twin = wandb_files.WandbRun(
        Path("/run-f"), {"flags": {"lr": 0.4}, "wandb_id": "fff"}, {"status": "finished"}
    )
    sweep.runs.append(twin)
    wandb_files._tell_apart(sweep)
    assert sweep.varied == ["lr", "model.depth", "run id"] and twin.flags["run id"] == "fff"


@pytest.mark.parametrize(
    ("name", "texts", "compared"),
    [
        ("out_dir", ["a", "b"], False),
        ("env.hostname", ["a", "b"], False),
        ("run_name", ["a", "b"], False),
        ("optimizer.name", ["a", "b"], True),
        ("data_dir", ["a", "b"], True),
        ("model_name", ["a", "b"], True),
        ("out_dir", [1, 2], True),
        ("out_dir", ["a", "a"], True),
    ],
)
def test_what_only_says_where_a_run_was(name, texts, compared):
    runs = [wandb_files.WandbRun(Path("/run-x"), {"flags": {name: text}, "wandb_id": "x"}) for text in texts]
    assert (name not in wandb_files._own_places(runs)) == compared


def test_no_name_commands_the_terminal(project):
    """A report prints no control characters, and lists no more names of a kind than fit into a line."""
    sweep = wandb_files.read_wandb(project)
    for run in sweep.runs:
        run.config["group"] = "red \x1b[31m\n\x07"
        run.config["tags"] = [f"tag {i}" for i in range(wandb_files.LISTED + 5)]
    choice = headline.choose({"loss": 1}, {})
    raw = "\n".join(wandb_files._header(sweep, choice, ["two\x1blines"]))
    assert "\x1b" in raw and f"tag {wandb_files.LISTED - 1} (4) and 5 more" in raw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_files, "_header", lambda *_: iter(["two\x1b[31m\nlines", "next"]))
        assert wandb_files.read_wandb(project).header == "two [31m lines\nnext"


@pytest.mark.parametrize(
    ("environment", "command", "family"),
    [
        (
            {"program": "/a/b/train.py", "code_path": "b/train.py", "args": ["-n", "1"]},
            "python b/train.py -n 1",
            "train.py",
        ),
        ({"program": "/a/b/train.py"}, "python /a/b/train.py", "train.py"),
        (
            {"program": "-m pkg.train", "code_path": "pkg/train.py", "args": ["x"]},
            "python -m pkg.train x",
            "pkg.train",
        ),
        ({"program": "<python with no main file>", "args": ["1"]}, "", None),
        ({"program": "notes.ipynb"}, "", "notes.ipynb"),
        ({}, "", None),
    ],
)
def test_how_a_run_was_started(environment, command, family):
    made = segment("x", "/run-1", [0], loss=1)
    made.environment = environment
    config = wandb_files.join([made]).config
    assert " ".join(config["command"]) == command and config.get("family") == family


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("loss acc", ("loss", "minimize")),
        ("train/loss val/loss test/loss", ("val/loss", "minimize")),
        ("train_loss test_accuracy", ("test_accuracy", "maximize")),
        ("trainLoss valLoss", ("valLoss", "minimize")),
        ("valloss value_loss", ("valloss", "minimize")),
        ("train/acc1 eval/acc@5", ("eval/acc@5", "maximize")),
        ("loss/train loss/validation", ("loss/validation", "minimize")),
        ("rollout/episodic_return losses", ("rollout/episodic_return", "maximize")),
        ("transferred accumulated lr epoch", None),
        ("", None),
    ],
)
def test_the_metric_is_chosen_by_its_name(names, chosen):
    choice = headline.choose(dict.fromkeys(names.split(), 3), {})
    assert (choice and (choice.metric.name, choice.metric.goal)) == chosen


def test_the_metric_that_most_runs_have_and_whose_goal_is_recorded():
    assert headline.choose({"val/loss": 1, "loss": 9}, {}).metric.name == "loss"
    recorded = {"fun": "maximize", "gone": "minimize"}
    choice = headline.choose({"val/loss": 9, "fun": 9}, recorded)
    assert (choice.metric.name, choice.metric.goal) == ("fun", "maximize") and "define_metric" in choice.why
    assert headline.choose({"fun": 9}, recorded, None, "minimize").metric.goal == "minimize"
    for name, goal in (("val/loss", "minimize"), ("fun", "maximize"), ("size", "minimize")):
        choice = headline.choose({"val/loss": 1, "fun": 1, "size": 1}, recorded, name)
        assert choice.metric.goal == goal and ("if not: --goal=maximize" in choice.why) == (name == "size")
    with pytest.raises(UserError, match=r"--metric=val/los: no run has logged it; did you mean val/loss\?"):
        headline.choose({"val/loss": 1, "fun": 1}, {}, "val/los")
    with pytest.raises(UserError, match=r"did you mean val/acc\?"):
        headline.choose({"val/acc": 1, "fun": 1}, {}, "acc")
    with pytest.raises(UserError, match=r"no run has logged it; they have val/loss, fun$"):
        headline.choose({"fun": 1, "val/loss": 1}, {}, "xyzzy")
    with pytest.raises(UserError, match="no run has logged it, nor any other number"):
        headline.choose({}, {}, "loss")


@pytest.mark.parametrize(
    ("metric", "goals"),
    [
        ({"name": "a", "goal": "GOAL_MAXIMIZE"}, {"a": "maximize"}),
        ({"name": "a", "goal": "GOAL_MINIMIZE", "summary": {"max": True}}, {"a": "minimize"}),
        ({"name": "a", "summary": {"min": True}}, {"a": "minimize"}),
        ({"name": "a", "summary": {"min": True, "max": True}}, {}),
        ({"name": "a", "summary": {"last": True}}, {}),
        ({"glob_name": "*", "step_metric": "epoch"}, {}),
    ],
)
def test_goals_that_define_metric_records(metric, goals):
    made = wandb_files.Segment(Path("/run-x/run-x.wandb"))
    made.add("metric", metric)
    assert made.goals == goals and made.step_metrics == ({"*": "epoch"} if "glob_name" in metric else {})


def test_a_run_counts_for_its_best_value(sweep):
    values = {key: run.status["headline"] for key, run in by_id(sweep).items()}
    assert (values["aaa"], values["bbb"], values["ccc"]) == (0.51, 0.7, 0.25)


# ------------------------------------------------------------------------------------ the command


def test_report_command(project, tmp_path, capsys):
    """Given the project, its folder wandb, or one run; as HTML and as CSV."""
    out, table = tmp_path / "r.html", tmp_path / "r.csv"
    before = sorted(path for path in project.rglob("*"))
    for folder, n in ((project, 4), (project / "wandb", 4), (next((project / "wandb").glob("*-aaa")), 1)):
        assert call(folder, f"--out={out}", f"--csv={table}") == 0
        said = capsys.readouterr()
        assert (
            said.err == "" and "Judged by: val/acc, to maximize" in said.out and "--metric=NAME" in said.out
        )
        assert NASTY not in out.read_text() and "val/acc" in texts_of(out)
        with table.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == n and [row["val/acc_best"] for row in rows if row["key"].endswith("(aaa)")] == [
            "0.51"
        ]
        assert "figure_of_merit" in rows[0] and "train/loss" in rows[0]
    assert sorted(path for path in project.rglob("*")) == before  # only reads
    assert call(project, "--metric=train/loss", f"--out={out}") == 0
    assert "Judged by: train/loss, to minimize (as requested)" in capsys.readouterr().out
    assert call(project, "--metric=train/loss", "--goal=maximize", f"--out={out}", f"--csv={table}") == 0
    with table.open() as file:
        values = {row["key"]: row["train/loss_best"] for row in csv.DictReader(file)}
    assert values["bbb"] == "12" and values["ccc"] == ""
    copy = shutil.copytree(project / "wandb", tmp_path / "wandb", symlinks=True)
    assert call(copy) == 0 and (copy / "report.html").is_file()


def test_refusals(project, tmp_path, capsys):
    make_run(tmp_path / "ours" / "key0", 4, 0)
    (tmp_path / "empty").mkdir()
    for args, named in [
        ([project, "--metric=val/ac"], "--metric=val/ac: no run has logged it; did you mean val/acc?"),
        ([project, "--goal=up"], "--goal"),
        ([project, "--publish"], "--publish: only for this repository's runs; `wandb sync` uploads"),
        (
            [tmp_path / "empty"],
            "empty: holds no runs, neither our run folders nor W&B's run-* or offline-run-*",
        ),
        ([tmp_path / "ours", "--metric=val/acc"], "--metric=val/acc: only for runs of other projects"),
        ([tmp_path / "ours", "--goal=minimize"], "--goal=minimize: only for runs of other projects"),
    ]:
        assert call(*args) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and named in message


def test_our_own_runs_come_first(project, tmp_path):
    """A run of ours has a folder wandb, too; a project of others may have a config.json and a sweep.yaml."""
    ours = make_run(tmp_path / "runs" / "key0", 4, 0)
    shutil.copytree(project / "wandb", ours / "wandb", symlinks=True)
    for folder in (ours, ours.parent):
        sweep = report.read_folder(folder, report.Flags(folder=(folder,)))
        assert not sweep.foreign and sweep.runs[0].folder == ours
    assert report.read_folder(ours / "wandb", report.Flags(folder=(ours,))).foreign
    theirs = tmp_path / "theirs"
    shutil.copytree(project / "wandb", theirs / "wandb", symlinks=True)
    (theirs / "model").mkdir()
    for path in (theirs / "config.json", theirs / "model" / "config.json"):
        path.write_text('{"architecture": "theirs"}')
    (theirs / "sweep.yaml").write_text("method: grid\nparameters: {lr: {values: [1, 2]}}\n")
    sweep = report.read_folder(theirs, report.Flags(folder=(theirs,)))
    assert sweep.foreign and len(sweep.runs) == 4 and sweep.folder == theirs / "wandb"


def test_words_of_a_config_that_tables_use_too(project):
    """Entries and figures with the name of a column, or with a slash, change no other column."""
    sweep = wandb_files.read_wandb(project)
    for i, run in enumerate(sweep.runs):
        run.config["flags"] = run.flags | {"status": i, "data/path": f"set {i}", "key": [i], "seed": i}
        run.rows[-1] |= {"reason": i, "lr": i, "commit": i, "step (logged)": 5}
    wandb_files._choose_figures(sweep, None)
    df = read.table(sweep)
    assert len(set(df.columns)) == len(df.columns) and {"--status", "--key", "data/path"} <= set(df.columns)
    assert list(df["status"]) == ["finished", "failed", "finished", "failed"] and list(df["--status"]) == [
        0,
        1,
        2,
        3,
    ]
    assert any("set 3" in run["label"] for run in test_report.whole(sweep)["runs"])
    assert Counter(read.summarise_over_seeds(df)["runs"]) == {1: 4}


def test_a_real_browser_draws_it(project, tmp_path):
    """Every kind of media; nothing that a run has logged is executed or loaded."""
    file = tmp_path / "r.html"
    assert call(project, f"--out={file}") == 0
    pictures = ["film", "grid/pictures 1", "grid/pictures 2", "grid/pictures 3", "panel.inner", "picture"]
    expected = dict.fromkeys(pictures, "img") | dict.fromkeys(("page", "table", "plot"), "iframe")
    with browser() as found:
        tab = Page(found)
        page = tab.open(file)
        assert page.title() == "theirs"
        keys = page.locator(".tabs button").all_inner_texts()
        assert sorted(keys) == sorted(expected)
        for key in keys:
            page.get_by_role("button", name=key, exact=True).click()
            page.locator("#tiles").scroll_into_view_if_needed()
            settle(page)
            assert page.locator(f"#tiles {expected[key]}").count() >= 1, key
        # a page that W&B keeps asks for a style sheet of W&B's, which the report does not let it load
        assert all("normalize.css" in line or "is sandboxed" in line for line in tab.complaints)
        assert [url for url in tab.requests if url.startswith("http")] == []
        tab.close()
