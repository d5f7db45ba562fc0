"""Reading run folders back, the committed CSV, and the report: as HTML, and as a real browser draws it."""

import base64
import csv
import gzip
import hashlib
import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from launch import report
from launch.results import handin, html, media, read, words
from research.common.commandline import main, parse
from research.common.identity import ROOT
from research.common.messages import UserError

NASTY = "<script>document.title='owned'</script>"
PICTURES = ["sample/reconstructions", "latent/traversal"]
YAML = """\
# Question: how does beta change what a code keeps,
# and its samples?
# Size: 2 x 2 runs & a few broken ones
program: research/vae_mnist.py
method: grid
parameters:
  seed: {values: [0, 1]}
  beta: {values: [0, 4]}
  steps: {value: 200}
"""


MACHINE = {"torch": "2.9", "device": "cpu", "threads": 2, "processor": "AMD EPYC with avx2"}


def make_run(folder, beta, seed, state="finished", last=200, commit="c0ffee0123456789", **flags):
    """A run folder whose val/mse falls as 1 / (1 + step / 50) + beta + seed / 8."""
    (folder).mkdir(parents=True)
    flags = {"beta": float(beta), "seed": seed, "steps": 200, "out": str(folder)} | flags
    config = {
        "family": "vae_mnist",
        "task": "train",
        "key": folder.name,
        "flags": flags,
        "headline": "val/mse",
        "goal": "minimize",
        "source": {"commit": commit, "dirty": seed == 1},
    }
    rows = []
    for step in range(0, last + 1, 50):
        mse = 1 / (1 + step / 50) + beta + seed / 8
        rows.append({"step": step, "epoch": step / 100, "train/loss": 2 * mse, "val/mse": mse})
        rows[-1]["val/mse_best"] = mse
        for k, key in enumerate(PICTURES):
            path = folder / "media" / key / f"{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 8), (60 * k, step, 40 * beta)).save(path)  # equal over seeds
    if state == "finished":
        rows[-1] |= {"test/mse": mse + 1 / 3, "test/kl_nats": 7.0}
    reason = "out of memory" if state == "failed" else None
    status = {
        "status": state,
        "reason": reason,
        "step": last,
        "steps": 200,
        "headline": mse,
        "segments": [{"host": "h", "commit": commit, "from_step": 0} | MACHINE],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def sweep_folder(tmp_path):
    """2 beta x 2 seeds: two finished, one failed (a null), one running (a torn line); one trial is open."""
    folder = tmp_path / "runs" / "vae"
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(YAML)
    points = [(4, 0), (0, 0), (4, 1), (0, 1), (9, 0)]
    for i, (beta, seed) in enumerate(points):
        trial = {"index": i, "flags": {"beta": beta, "seed": seed, "steps": 200}, "key": f"key{i}"}
        (folder / "trials" / f"{i:04d}.json").write_text(json.dumps(trial))
    make_run(folder / "key0", 4, 0)
    make_run(folder / "key1", 0, 0)
    failed = make_run(folder / "key2", 4, 1, "failed", last=100) / "metrics.jsonl"
    lines = failed.read_text().splitlines()
    failed.write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | {"val/mse": None})]) + "\n")
    with (make_run(folder / "key3", 0, 1, "running", last=50) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "val/m')
    make_run(folder / "key0.old-1", 4, 0)  # what --fresh set aside is no result
    return folder


def test_a_sweep_is_read(sweep_folder):
    sweep = read.read_sweep(sweep_folder)
    assert (sweep.name, sweep.problem, sweep.spec["method"]) == ("vae", None, "grid")
    assert sweep.header.splitlines()[1] == "and its samples?"
    assert [run.folder.name for run in sweep.runs] == ["key0", "key1", "key2", "key3"]
    assert [trial["key"] for trial in sweep.open_trials] == ["key4"]
    assert sweep.varied == ["beta", "seed"]  # the YAML's order, but seed last; `out` does not count
    assert [step for step, _ in sweep.runs[0].media["sample/reconstructions"]] == [0, 50, 100, 150, 200]
    df = read.table(sweep)
    assert list(df.columns) == [
        "beta",
        "seed",
        "status",
        "step",
        "steps",
        "headline",
        "test/mse",
        "test/kl_nats",
        "val/mse",
        "commit",
        "key",
        "reason",
    ]
    assert list(df["headline"]) == [4.2, 0.2, pytest.approx(4 + 1 / 3 + 1 / 8), 0.625]
    assert df["test/mse"][0] == pytest.approx(4.2 + 1 / 3) and math.isnan(df["test/mse"][2])
    assert math.isnan(df["val/mse"][2])  # the last value was not finite: an earlier one must not stand for it
    assert list(df["commit"][:3]) == ["c0ffee0123", "c0ffee0123", "c0ffee0123-dirty"]
    assert df.attrs == {
        "headline": "val/mse",
        "goal": "minimize",
        "metric": None,
        "metric_goal": None,
        "by": "headline",
        "ascending": True,
        "headings": {"headline": "best val/mse"},
        "confirmed": [],
    }


def test_a_damaged_run_is_listed_with_its_problem(sweep_folder):
    (sweep_folder / "key1" / "config.json").write_text('{"family": ')
    (sweep_folder / "key0" / "status.json").unlink()
    (sweep_folder / "key4").mkdir()  # a worker took the trial and has not written anything yet
    torn = sweep_folder / "key3" / "metrics.jsonl"
    torn.write_text("rubbish\n" + torn.read_text())
    (sweep_folder / "trials" / "0007.json").write_text("[]")
    sweep = read.read_sweep(sweep_folder)
    assert "0007.json" in sweep.problem
    df = read.table(sweep).set_index("key")
    assert list(df.index) == ["key0", "key1", "key2", "key3", "key4"]
    assert "config.json cannot be read" in df["reason"]["key1"]
    assert df["beta"]["key1"] == 0  # its trial still says so
    assert df["status"]["key0"] == "unreadable" and df["reason"]["key0"] == "status.json is missing"
    assert df["reason"]["key3"] == "metrics.jsonl cannot be read (line 1 is damaged)"
    assert df["status"]["key4"] == "unreadable"
    reasons = [run["reason"] for run in whole(sweep)["runs"]]
    assert any("config.json cannot be read" in reason for reason in reasons)


def test_rows_without_a_torn_last_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"step": 0}\n{"step": 1, "a": "é'.encode()[:-1])
    assert read.read_rows(path) == [{"step": 0}]
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read.read_rows(path)


def test_plain_folders_and_single_runs(sweep_folder, tmp_path):
    for state, folder in (("a", tmp_path / "p" / "a"), ("b", tmp_path / "p" / "b")):
        make_run(folder, 4, 0, device=state, learning_rate=0.001 if state == "a" else None, layers=[1, 2])
    plain = read.read_sweep(tmp_path / "p")
    assert plain.varied == ["learning_rate"] and plain.spec == {} and not plain.header
    command = whole(plain)["runs"][0]["detail"]["command"]
    assert f"--config={tmp_path}/p/a/config.json --learning_rate=0.001" in command
    single = read.read_sweep(sweep_folder / "key0")
    assert [run.folder.name for run in single.runs] == ["key0"] and single.varied == []
    assert len(read.summarise_over_seeds(read.table(single))) == 1
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read.read_sweep(tmp_path / "nowhere")


def test_what_counts_as_varied(tmp_path):
    """Flags on which numbers may depend, as config.json lists them, and flags that the YAML names."""
    for i, name in enumerate("ab"):
        folder = make_run(tmp_path / "s" / name, 4, 0, device=name, lr=i, dataset=name, log_every=i, page=i)
        config = json.loads((folder / "config.json").read_text())
        config["result_flags"] = ["beta", "seed", "lr", "log_every"]  # that script made log_every one
        (folder / "config.json").write_text(json.dumps(config))
    runs = read.read_sweep(tmp_path / "s").runs
    assert read.varied_flags(runs) == ["lr", "dataset", "log_every"]
    assert read.varied_flags(runs, ["device", "beta", "lr"]) == ["device", "lr", "dataset", "log_every"]
    trials = [{"flags": {"beta": 4, "seed": 7, "lr": 0, "out": "elsewhere"}}]
    assert read.varied_flags(runs, trials=trials) == ["lr", "dataset", "log_every", "seed"]


def test_what_counts_as_varied_in_old_folders(tmp_path):
    """Without that list: all flags, except common ones that don't change numbers."""
    for i, name in enumerate("ab"):
        make_run(tmp_path / "s" / name, 4, 0, device=name, lr=i, dataset=name, log_every=i, page=i)
    runs = read.read_sweep(tmp_path / "s").runs
    assert read.varied_flags(runs) == ["lr", "dataset", "page"]
    assert read.varied_flags(runs, ["log_every"]) == ["log_every", "lr", "dataset", "page"]


def test_expected_runs(sweep_folder, tmp_path):
    """The grid's size, at most the run_cap, at least the number of runs that are there; the
    report says so.
    """
    sweep = read.read_sweep(sweep_folder)
    assert len(sweep.runs) + len(sweep.open_trials) == 5 and read.expected(sweep) == 5
    values = {"seed": {"values": [0, 1, 2]}, "beta": {"values": [0, 4]}, "steps": {"value": 200}}
    for spec, n in [
        ({"method": "grid", "parameters": values}, 6),
        ({"method": "grid", "parameters": values, "run_cap": 2}, 5),
        ({"method": "grid", "parameters": values, "run_cap": 9}, 6),
        ({"method": "random", "parameters": values, "run_cap": 9}, 9),
        ({"method": "random", "parameters": values}, 5),
        ({}, 5),
    ]:
        sweep.spec = spec
        assert read.expected(sweep) == n
    assert "2 of 9 runs are done" in html.whole(sweep, read.table(sweep), 9)["warning"]


def test_csv_is_exact_and_deterministic(sweep_folder, tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert read.results_csv(read.read_sweep(sweep_folder), one) == 3
    (sweep_folder / "key0").rename(sweep_folder / "moved")  # the order of folders and trials must not show
    (sweep_folder / "trials" / "0000.json").unlink()
    read.results_csv(read.read_sweep(sweep_folder), two)
    assert one.read_bytes() == two.read_bytes()
    machine = '"torch 2.9, cpu, 2 threads, AMD EPYC with avx2"'
    assert one.read_text() == (
        "beta,seed,status,val/mse_best,test/mse,test/kl_nats,commit,machine\n"
        f"0,0,finished,0.2,0.533333,7,c0ffee0123,{machine}\n"
        f"4,0,finished,4.2,4.53333,7,c0ffee0123,{machine}\n"
        f"4,1,failed,4.45833,,,c0ffee0123-dirty,{machine}\n"
    )
    (tmp_path / "results").mkdir()
    again = one.rename(tmp_path / "results" / "vae.csv")
    assert [read.machine_of(run) for run in read.read_results(again).runs] == [machine.strip('"')] * 3


def test_threads_that_became_one_are_told(sweep_folder):
    run = read.read_sweep(sweep_folder).runs[0]
    run.status["segments"][0] |= {"threads_at_start": 2, "threads": 1, "processor": None}
    assert read.machine_of(run) == "torch 2.9, cpu, 2, then 1 thread"
    run.status["segments"] = [{"host": "h", "threads": "x"}, "damaged"]
    assert read.machine_of(run) == ""


def test_flags_named_like_columns(tmp_path):
    """A sweep over --steps, in table, CSV, means and page; and over all flags with the name of a table's
    column.
    """
    flags = {name: (i, i + 1) for i, name in enumerate(read.COLUMNS)}
    for i, seed in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chosen = {name: values[i] for name, values in flags.items()}
        run = make_run(tmp_path / "runs" / f"r{i}{seed}", 0, seed)
        config = json.loads((run / "config.json").read_text())
        config["flags"] |= chosen
        (run / "config.json").write_text(json.dumps(config))
    sweep = read.read_sweep(tmp_path / "runs")
    df = read.table(sweep)
    assert len(set(df.columns)) == len(df.columns)
    assert sorted(read.flag_columns(df)) == sorted([*(f"--{name}" for name in flags), "seed"])
    assert df["--steps"].tolist() == [2, 2, 3, 3] and df["steps"].tolist() == [200] * 4
    means = read.summarise_over_seeds(df)
    assert means["--n"].tolist() == [9, 10] and means["n"].tolist() == [2, 2]
    assert read.results_csv(sweep, tmp_path / "x.csv") == 4
    assert list(csv.DictReader((tmp_path / "x.csv").open()))[2]["--steps"] == "3"
    last = whole(sweep)["runs"][-1]
    assert "steps=3" in last["label"] and "--steps=3" in last["detail"]["command"]


def test_means_over_seeds(tmp_path):
    for i, (beta, seed) in enumerate([(20, 0), (4, 0), (4, 1), (4, 2)]):
        make_run(tmp_path / "s" / f"r{i}", beta, seed, "failed" if seed == 2 else "finished")
    out = read.summarise_over_seeds(read.table(read.read_sweep(tmp_path / "s")))
    assert list(out["beta"]) == [4, 20] and list(out["n"]) == [2, 1] and list(out["runs"]) == [3, 1]
    assert out["headline"][0] == pytest.approx(4.2 + 1 / 16)
    assert out["headline sd"][0] == pytest.approx(math.sqrt(2) / 16)  # of two: their difference / sqrt(2)
    assert math.isnan(out["headline sd"][1])
    read.results_csv(read.read_sweep(tmp_path / "s"), tmp_path / "s.csv")
    again = read.summarise_over_seeds(pd.read_csv(tmp_path / "s.csv"))
    assert again["test/mse sd"][0] == pytest.approx(out["test/mse sd"][0], rel=1e-4)


def test_means_over_seeds_leave_out_the_trial_that_they_confirm(sweep_folder, tmp_path):
    """It was chosen for its value, so it is the luckiest of many."""
    trial = sweep_folder / "trials" / "0002.json"
    trial.write_text(json.dumps(json.loads(trial.read_text()) | {"confirms": "key0"}))
    shutil.rmtree(sweep_folder / "key2")
    make_run(sweep_folder / "key2", 4, 1)
    df = read.table(read.read_sweep(sweep_folder))
    assert df.attrs["confirmed"] == ["key0"] and "key0" in list(df["key"])
    out = read.summarise_over_seeds(df).set_index("beta")
    assert (out["n"][4], out["runs"][4]) == (1, 1) and out["headline"][4] == pytest.approx(4.325)
    assert whole(read.read_sweep(sweep_folder))["confirmed"] == ["key0"]
    assert read.results_csv(read.read_sweep(sweep_folder), tmp_path / "a.csv") == 3
    assert (tmp_path / "a.csv").read_text().startswith("beta,seed,status,val/mse_best,test/mse,test/kl_nats")


def test_printed_table_fits(sweep_folder):
    console = Console(file=io.StringIO(), width=140)
    read.print_table(read.table(read.read_sweep(sweep_folder)), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100 and "test/mse" in lines[1] and "best val/mse" in lines[1]
    assert [line.split()[2] for line in lines[3:7]] == ["finished", "running", "finished", "failed"]
    console = Console(file=io.StringIO(), width=40)
    read.print_table(read.table(read.read_sweep(sweep_folder)), console)
    said = console.file.getvalue()
    assert (
        "test/" in said and "4.533" in said and "step" not in said
    )  # the headline's own figure outlives the step
    assert " ".join(said.split()).endswith("2 columns are not shown at this width; the report has all")


def test_pictures_are_thinned_and_embedded_once(sweep_folder):
    for limit in (1, 3, 12):
        kept = media.spread(set(range(0, 5001, 100)), limit)
        assert len(kept) == limit and kept[0] == 5000 and (limit == 1 or kept[1] == 0)
    assert set(media.spread({1, 2}, 12)) == {1, 2} and media.spread(set(), 12) == []
    sweep = read.read_sweep(sweep_folder)
    found = media.media_of(sweep, 100.0, None)
    data = found.data
    # per key: 5 of beta 0 and 5 of beta 4, which their second seeds share
    assert len(data["blobs"]) == 2 * 10 and data["note"] == "" and found.beside == {}
    order = [(run.flags["beta"], run.flags["seed"]) for run in sweep.runs]
    assert [step for step, _ in data["of"]["latent/traversal"][order.index((0, 1))]] == [0, 50]
    assert data["logged"] == {"latent/traversal": 5, "sample/reconstructions": 5}
    none = media.media_of(sweep, 1e-9, None).data
    assert none["keys"] == [] and "did not fit" in none["note"]


def test_pictures_without_room_lie_beside_the_page(sweep_folder, tmp_path):
    page = html.write_report(sweep_folder, tmp_path / "a" / ".." / "r.html", max_mb=0.0005)
    beside = sorted(path.name for path in (tmp_path / "r_files").iterdir())
    data = data_of(page)["media"]
    paths = sorted(blob["path"].removeprefix("r_files/") for blob in data["blobs"].values() if "path" in blob)
    assert beside == paths and 0 < len(paths) < len(data["blobs"])
    places = sorted(blob["at"] for blob in data["blobs"].values() if "at" in blob)
    text = re.search(r'id="files">([^<]*)<', page.read_text())[1]
    assert 0 < places[-1][1] == len(text) <= 500, "all that is embedded is some run's"
    assert [a for a, _ in places] == [0, *(b for _, b in places[:-1])], "one behind the other"
    assert all(base64.b64decode(text[a:b]).startswith(b"\x89PNG") for a, b in places)
    first = html.write_report(sweep_folder, tmp_path / "r.html", max_mb=0.0005).read_bytes()
    assert len(list((tmp_path / "r_files").iterdir())) == len(beside), "named by content: no second copy"
    assert len(first) > 1000


def test_a_sweeps_table_alone(sweep_folder, tmp_path, monkeypatch):
    """The committed CSV gives the same runs, flags and figures as the folder from which it was made."""
    (tmp_path / "sweeps" / "results").mkdir(parents=True)
    csv_file = tmp_path / "sweeps" / "results" / "vae.csv"
    monkeypatch.chdir(tmp_path)
    assert call(sweep_folder, f"--csv={csv_file}") == 0
    (tmp_path / "sweeps" / "vae.yaml").write_text(YAML)
    assert call(csv_file) == 0
    whole, alone = data_of(sweep_folder / "report.html"), data_of(tmp_path / "vae.html")
    assert alone["about"][0][1] == whole["about"][0][1] and alone["headline"] == whole["headline"]
    names = [c["name"] for c in alone["columns"] if c["kind"] == "flag" or "test/" in c["name"]]
    assert names == [c["name"] for c in whole["columns"] if c["kind"] == "flag" or "test/" in c["name"]]

    def of(data):
        at = {c["name"]: i for i, c in enumerate(data["columns"])}
        rows = [[run["values"][at[name]] for name in [*names, "status"]] for run in data["runs"]]
        return sorted(rows, key=str)

    ended = [row for row in of(whole) if row[-1] in ("finished", "failed", "diverged")]
    assert of(alone) == [[pytest.approx(v) if isinstance(v, float) else v for v in row] for row in ended]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sweeps" / "results").glob("*.csv")), ids=lambda path: path.stem
)
def test_every_committed_table_is_drawn_or_refused(path):
    if "status" not in pd.read_csv(path, nrows=0).columns:
        with pytest.raises(ValueError, match="not the results of a sweep"):
            read.read_results(path)
        return
    sweep = read.read_results(path)
    data = whole(sweep)
    assert len(data["runs"]) == len(pd.read_csv(path)) and len(data["axes"]) >= min(2, len(data["runs"]))
    json.dumps(data, allow_nan=False)


def test_several_sweeps_in_one_report(sweep_folder, tmp_path):
    other = shutil.copytree(sweep_folder, sweep_folder.with_name("other"))
    assert call(sweep_folder, other, f"--out={tmp_path / 'both.html'}") == 0
    data = data_of(tmp_path / "both.html")
    at = next(i for i, c in enumerate(data["columns"]) if c["name"] == "sweep")
    assert sorted(run["values"][at] for run in data["runs"]) == ["other"] * 4 + ["vae"] * 4
    assert data["about"][0] == ["vae", "how does beta change what a code keeps, and its samples?"]
    assert call(sweep_folder, other, "--publish") == 2


def test_joined_sweeps_are_told_apart(sweep_folder, tmp_path):
    """Equal names, equal run keys, names with signs, and headlines that cannot be compared."""
    other = shutil.copytree(sweep_folder, tmp_path / "again" / sweep_folder.name)
    for path in other.glob("*/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"headline": "val/elbo_nats", "goal": "maximize"}))
    (other / "sweep.yaml").write_text("# Question  And the bound?\n" + YAML)
    assert call(sweep_folder, other, f"--out={tmp_path / 'both.html'}") == 0
    data = data_of(tmp_path / "both.html")
    names = [f"{sweep_folder.parent.name}/vae", "again/vae"]
    assert [pair[0] for pair in data["about"][:2]] == names and data["about"][1][1] == "And the bound?"
    ids = [run["id"] for run in data["runs"]]
    assert len(set(ids)) == len(ids) == 8 and {i.rpartition("/")[0] for i in ids} == set(names)
    assert "val/mse (4 runs), val/elbo_nats (4 runs)" in data["warning"]
    at = next(i for i, c in enumerate(data["columns"]) if c["name"] == "headline")
    with_value = [run["id"] for run in data["runs"] if run["values"][at] is not None]
    assert with_value and all(i.startswith(names[0]) for i in with_value)
    with pytest.raises(UserError, match="must be given only once"):
        report.write(parse(report.Flags, [str(sweep_folder), str(sweep_folder)], positional="folder"))


def test_a_run_that_further_seeds_confirm_is_known_in_a_joined_sweep(sweep_folder):
    sweep = read.read_sweep(sweep_folder)
    sweep.runs[1].trial["confirms"] = sweep.runs[0].folder.name
    other = read.Sweep(sweep_folder, "other", "", {}, "", [], [])
    df = read.table(read.joined([sweep, other]))
    assert df.attrs["confirmed"] == [f"vae/{sweep.runs[0].folder.name}"] == [df["key"][0]]
    assert sum(read.summarise_over_seeds(df)["runs"]) == len(sweep.runs) - 1


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a/x", "a/y"], ["x", "y"]),
        (["a/x", "b/x"], ["a/x", "b/x"]),
        (["c/a/x", "d/a/x", "e"], ["c/a/x", "d/a/x", "e"]),
    ],
)
def test_names_of_joined_sweeps(tmp_path, places, names):
    sweeps = [read.Sweep(tmp_path / place, Path(place).name, "", {}, "", [], []) for place in places]
    assert read._own_names(sweeps) == names


def test_two_tables_of_one_name(sweep_folder, tmp_path, monkeypatch):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        assert call(sweep_folder, f"--csv={tmp_path / place / 'vae.csv'}") == 0
    monkeypatch.chdir(tmp_path)
    assert call(tmp_path / "a" / "vae.csv", tmp_path / "b" / "vae.csv") == 0
    data = data_of(tmp_path / "a-vae and b-vae.html")
    assert [pair[0] for pair in data["about"]][:2] == ["a/vae", "b/vae"]
    assert data["about"][-1][1].startswith("runs over sweep (a/vae, b/vae)")
    assert data["source"].startswith("Read from a table of results only")


def test_where_w_and_b_is(tmp_path, monkeypatch):
    """It is found as W&B's client finds it: from the environment, then from a file of settings, else it is
    the cloud.
    """
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert read.wandb_address(tmp_path) == "https://wandb.ai"
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\nentity = a%b\n")
    assert read.wandb_address(tmp_path) == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    assert read.wandb_address() == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    assert read.wandb_address(tmp_path) == "https://wandb.ai"
    (tmp_path / "settings").write_text("no settings at all")
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert read.wandb_address(tmp_path) == "http://localhost:8080"


def data_of(page):
    """What the page's code reads, unpacked."""
    packed = re.search(r'id="data">([^<]*)<', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def texts_of(page):
    """All texts that the page's code reads, and the page itself, line by line."""

    def inside(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for part in value.values() if isinstance(value, dict) else value:
                yield from inside(part)

    return "\n".join([page.read_text(), *inside(data_of(page))])


def whole(sweep):
    """Everything that the page's code reads, except the media."""
    return html.whole(sweep, read.table(sweep), None)


class Loads(HTMLParser):
    """Collects what a page would load: src and href, without anchors within the page."""

    def __init__(self):
        super().__init__()
        self.found, self.titles = [], 0

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "href", "poster") and not v.startswith("#")]
        self.titles += tag == "title"


def test_html_is_self_contained_and_escaped(sweep_folder, tmp_path):
    config = json.loads((sweep_folder / "key0" / "config.json").read_text())
    config["flags"]["seed"] = NASTY
    (sweep_folder / "key0" / "config.json").write_text(json.dumps(config))
    (sweep_folder / "sweep.yaml").write_text(f"# Question: {NASTY}\n" + YAML)
    text = html.write_report(sweep_folder, tmp_path / "r.html").read_text()
    page = Loads()
    page.feed(text)
    assert page.found == [] and page.titles == 1
    assert NASTY not in text and "&lt;script&gt;document.title" in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', unescape(text))[1]
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "eval(" not in script and "innerHTML" not in script
    data = data_of(tmp_path / "r.html")
    assert data["sweep"]["command"] == (
        f"python launch/local.py {sweep_folder}/sweep.yaml --name=vae --out={sweep_folder.parent}"
    )
    commands = [run["detail"]["command"] for run in data["runs"]]
    assert "python research/vae_mnist.py --beta=0 --seed=1 --steps=200" in commands
    assert data["warning"].startswith("Not complete: 2 of 5 runs are done")
    assert "out of memory" in [run["reason"] for run in data["runs"]]


@pytest.mark.parametrize(
    "args",
    [
        ["FOLDER", "--csv=x.csv", "--open"],
        ["--csv=x.csv", "FOLDER", "--open"],
        ["--csv=x.csv", "--open", "FOLDER"],
        ["--open", "FOLDER", "--csv", "x.csv"],
        ["--folder=FOLDER", "--open", "--csv=x.csv"],
    ],
)
def test_the_folder_may_stand_anywhere(args):
    flags = parse(report.Flags, args, positional="folder")
    assert (flags.folder, flags.csv, flags.open) == ((Path("FOLDER"),), Path("x.csv"), True)
    flags = parse(report.Flags, [*args, "ANOTHER", "THIRD"], positional="folder")
    assert (flags.folder, flags.open) == ((Path("FOLDER"), Path("ANOTHER"), Path("THIRD")), True)


def call(*args, command=report):
    """Run the command in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *map(str, args)])
        try:
            main(command.Flags, command.run, positional="folder")
        except SystemExit as stop:
            return stop.code
    return 0


def test_command_line(sweep_folder, tmp_path, capsys, monkeypatch):
    script, out, csv = ROOT / "launch" / "report.py", tmp_path / "x.html", tmp_path / "x.csv"
    args = [sys.executable, script, f"--csv={csv}", sweep_folder.name, f"--out={out}"]
    done = subprocess.run(args, cwd=sweep_folder.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and out.exists() and csv.exists()
    opened = []
    monkeypatch.setattr(report.webbrowser, "open", opened.append)
    for args in ((f"--csv={csv}", sweep_folder, "--open"), ("--open", sweep_folder)):
        assert call(*args) == 0
        assert opened.pop() == (sweep_folder / "report.html").as_uri()
    monkeypatch.setattr(report.begin, "planned", lambda folder, found: 17)
    assert call(sweep_folder) == 0
    assert "2 of 17 runs are done" in data_of(sweep_folder / "report.html")["warning"]
    empty = tmp_path / "empty"
    empty.mkdir()
    capsys.readouterr()
    for wrong, named in [
        ([empty], "empty: holds no runs"),
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([sweep_folder, "--oops=1"], "--oops"),
        ([sweep_folder, f"--out={tmp_path}/nowhere/x.html"], "nowhere/x.html"),
        ([], "--folder is required"),
    ]:
        assert call(*wrong) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and named in message


def test_a_folder_is_read_once(sweep_folder, tmp_path, monkeypatch):
    """Also in a plain folder, where only the runs show how many there are."""
    (sweep_folder / "sweep.yaml").unlink()
    (sweep_folder / "trials").rename(tmp_path / "trials")
    reads, real = [], read.read_run
    monkeypatch.setattr(read, "read_run", lambda folder: reads.append(folder.name) or real(folder))
    assert call(sweep_folder, f"--csv={tmp_path / 'x.csv'}") == 0
    assert sorted(reads) == ["key0", "key1", "key2", "key3"]


@pytest.mark.parametrize("name", ["vae", "my sweep's β"])
@pytest.mark.parametrize("inside", [True, False])
def test_the_printed_commands_name_what_is_there(sweep_folder, tmp_path, monkeypatch, inside, name):
    """The commands are read by a shell and by the real parsers, in the repository's root."""
    from launch import local
    from launch.sweep import begin, plan
    from research import vae_mnist

    if inside:
        monkeypatch.setattr(words, "ROOT", tmp_path)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "research").symlink_to(ROOT / "research")
    else:
        monkeypatch.chdir(ROOT)
    folder = sweep_folder.rename(sweep_folder.with_name(name))
    sweep = read.read_sweep(folder)
    python, script, *args = shlex.split(words.sweep_command(sweep))
    assert (python, Path(ROOT, script).exists()) == ("python", True)
    flags = parse(local.Flags, args, positional="sweep")
    assert Path(flags.sweep).is_absolute() != inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        assert begin.folder_of(flags, plan.read(flags.sweep)).resolve() == folder
    assert whole(sweep)["sweep"]["command"] == words.sweep_command(sweep)
    plain = read.read_sweep(folder / "key0")  # a run of which nobody knows which flags were given
    _, script, *args = shlex.split(words.command(plain.runs[0], plain, []))
    assert script == "research/vae_mnist.py" and Path(ROOT, script).exists()
    cfg = parse(vae_mnist.Config, args)
    assert (cfg.beta, cfg.seed, Path(cfg.config).resolve()) == (4, 0, folder / "key0" / "config.json")


@pytest.mark.parametrize("command", ["report", "upload", "doctor"])
def test_help_imports_nothing_heavy(command, sweep_folder):
    """Counting a sweep's trials and reading its runs don't import torch either."""
    heavy = ["torch", "pandas", "sklearn", "jinja2", "wandb", "matplotlib"]
    script = str(ROOT / "launch" / f"{command}.py")
    code = f"""
import pathlib, runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    assert not stop.code
from launch.results import read, words
from launch.sweep import begin
folder = pathlib.Path({str(sweep_folder)!r})
assert len(read.read_sweep(folder).runs) == 4 and begin.planned(folder) == 5
print(*(name for name in {heavy} if name in sys.modules), end="", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "usage" in done.stdout


# ---- the PDF to hand in --------------------------------------------------------------------------------


def test_a_pdf_to_hand_in(sweep_folder, tmp_path, capsys):
    pdf = tmp_path / "out" / "hand-in.pdf"
    args = [sweep_folder, f"--out={tmp_path / 'r.html'}", f"--pdf={pdf}"]
    assert call(*args, "--title=What β does <b>", "--author=Ada L.", "--author=Alan T.") == 0
    pages = handin.count_pages(pdf.read_bytes())
    assert f"({pages} pages)" in capsys.readouterr().out and 2 <= pages <= 6
    assert call(*args, f"--max_pages={pages - 1}") == 0
    assert handin.count_pages(pdf.read_bytes()) < pages


def test_what_a_hand_in_holds(sweep_folder):
    how = handin.HandIn("What β does <b>", ("Ada L.", "Alan T."))
    text = handin._page(read.read_sweep(sweep_folder), how, 1, 1)
    for expected in (
        "<h1>What β does &lt;b&gt;</h1>",
        "Ada L., Alan T.",
        "how does beta change what a code keeps, and its samples?",
        "failed",
        "<h3>sample/reconstructions</h3>",
        "1 further settings are not shown",
    ):
        assert expected in text, expected
    steps = re.findall(r"<span>step (\d+)</span>", text)
    assert steps == ["50", "100", "200"], "early, middle, late"
    protocol = text.partition("<h3>Every run</h3>")[2].partition("</table>")[0]
    assert protocol.count("<tr>") == 1 + 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--title=x"], "--title: must be left out without --pdf"),
        (["--author=x"], "--author: must be left out without --pdf"),
        (["--pdf=x.pdf", "--max_pages=0"], "--max_pages=0: must be at least 1"),
    ],
)
def test_flags_of_a_hand_in_alone_are_refused(sweep_folder, args, said, capsys):
    assert call(sweep_folder, *args) == 2 and said in capsys.readouterr().err


def test_a_hand_in_needs_a_browser(sweep_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(handin.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--pdf: needs one of chromium"):
        handin.write_pdf(read.read_sweep(sweep_folder), tmp_path / "x.pdf", handin.HandIn())
