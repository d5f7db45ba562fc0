"""A sweep whose metric is another than its script's headline: everything shows and sorts by the metric."""

import csv
import io
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from launch import slurm
from launch.results import html, read
from launch.results.metric import Metric, metric_of
from launch.sweep import plan, pool
from launch.sweep.history import Histories
from launch.sweep.progress import Progress
from launch.sweep.queue import Queue
from research.common.commandline import parse
from research.common.folder import write_json
from tests.test_report import make_run

MIG = {"name": "val/mig", "goal": "maximize"}
SPEC = {"program": "research/vae_mnist.py", "method": "grid", "parameters": {"beta": {"values": [0, 4, 9]}}}
# by beta: val/mig of the evaluations at steps 0, 50, 100; val/mse is least at beta 0, test/mig at beta 4
VALUES = {0: [0.1, 0.3, 0.2], 4: [0.5, 0.4, None], 9: [0.9, 0.2, 0.1]}


def made(folder: Path, metric: dict | None = MIG, diverged: int | None = 9) -> Path:
    """A sweep over beta whose runs log val/mig, too; by that, beta 4 is best, since the run with 9 has
    diverged.
    """
    spec = SPEC | ({"metric": metric} if metric else {})
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    queue = Queue(folder)
    for beta, values in VALUES.items():
        queue.add({"beta": beta}, f"key{beta}")
        state = "diverged" if beta == diverged else "finished"
        log = make_run(folder / f"key{beta}", beta, 0, state, last=100) / "metrics.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        for row, value in zip(rows, values, strict=True):
            row["val/mig"] = value
        if state == "finished":
            rows[-1] |= {"test/mig": values[0] / 2, "test/mse": beta + 0.5}
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "runs" / "mig")


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        *(
            (name, goal)
            for name in ("val/mig", "test/mig", "val/none")
            for goal in ("minimize", "maximize", None)
        ),
        ("val/mse", "minimize"),
        ("val/mse_best", None),
    ],
)
def test_a_run_counts_for_what_bayes_and_confirm_take_it_for(tmp_path, name, goal):
    spec = SPEC | {"metric": {"name": name} | ({"goal": goal} if goal else {})}
    folder, queue = made(tmp_path / "s", spec["metric"]), Queue(tmp_path / "s")
    histories = Histories(queue, spec)
    expected = {t.key: histories.value(t, queue.status(t)) for t in queue.trials()}
    found = {run.folder.name: run.value(metric_of(spec)) for run in read.read_sweep(folder).runs}
    assert found == expected and (name == "val/none") == (set(found.values()) == {None})
    shown = {row.trial.key: row.metric for row in Progress(queue, spec["parameters"]).rows()}
    assert shown == expected


def test_what_a_metric_is_called():
    names = {"val/mig": ("best val/mig", "val/mig_best"), "test/mig": ("test/mig", "test/mig")}
    names["val/mse_best"] = ("val/mse_best", "val/mse_best")
    for name, (heading, column) in names.items():
        assert (Metric(name, "minimize").heading, Metric(name, "minimize").column) == (heading, column)
    for spec in ({}, {"metric": None}, {"metric": "val/mig"}, {"metric": {"goal": "maximize"}}):
        assert metric_of(spec) is None
    assert metric_of({"metric": {"name": "x", "goal": "maximise"}}) == Metric(
        "x", "minimize"
    )  # W&B's default


def test_the_table_is_sorted_by_the_metric(folder):
    df = read.table(read.read_sweep(folder))
    columns = ["beta", "status", "step", "steps", "metric", "headline", "test/mig", "test/mse"]
    assert list(df.columns[:8]) == columns
    assert dict(zip(df["beta"], df["metric"])) == {0: 0.3, 4: 0.5, 9: 0.1}  # diverged: its worst
    assert list(read.best_first(df)["beta"]) == [4, 0, 9]
    assert (df.attrs["by"], df.attrs["ascending"], df.attrs["metric"]) == ("metric", False, "val/mig")
    assert (df.attrs["headline"], df.attrs["goal"]) == ("val/mse", "minimize")
    console = Console(file=io.StringIO(), width=110)
    read.print_table(df, console)
    head, _, *rows = console.file.getvalue().splitlines()[1:6]
    names = [name.strip() for name in re.split(r"\s{2,}", head.strip())]
    assert names[:6] == ["beta", "status", "step", "best val/mig", "best val/mse", "test/mig"]
    assert [row.split()[0] for row in rows] == ["4", "0", "9"]


def test_a_metric_of_the_test_part_has_one_column(tmp_path):
    df = read.table(read.read_sweep(made(tmp_path / "s", {"name": "test/mig", "goal": "maximize"})))
    assert "test/mig" not in df.columns and df.attrs["headings"]["metric"] == "test/mig"
    assert list(read.best_first(df)["beta"]) == [4, 0, 9]  # the diverged run never came to the test part
    assert read.results_csv(read.read_sweep(tmp_path / "s"), tmp_path / "x.csv") == 3
    head = (tmp_path / "x.csv").read_text().splitlines()[0].split(",")
    assert head == [
        "beta",
        "status",
        "test/mig",
        "val/mse_best",
        "test/mse",
        "test/kl_nats",
        "commit",
        "machine",
    ]


def test_csv_and_means(folder, tmp_path):
    assert read.results_csv(read.read_sweep(folder), tmp_path / "x.csv") == 3
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert list(rows[0])[:4] == ["beta", "status", "val/mig_best", "val/mse_best"]
    assert [row["val/mig_best"] for row in rows] == ["0.3", "0.5", "0.1"]
    means = read.summarise_over_seeds(read.table(read.read_sweep(folder)))
    assert list(means["metric"])[:2] == [0.3, 0.5] and "metric sd" in means


@pytest.mark.parametrize("name", ["val/mse", "val/mse_best", None])
def test_where_the_metric_is_the_headline_nothing_changes(tmp_path, name):
    """Not even if it has another goal than the script: then it was refused, or it is a mistake."""
    plain, sweep = made(tmp_path / "a" / "s", None), made(tmp_path / "b" / "s", name and {"name": name})
    for folder, csv_file in ((plain, tmp_path / "a.csv"), (sweep, tmp_path / "b.csv")):
        read.results_csv(read.read_sweep(folder), csv_file)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    df = read.table(read.read_sweep(sweep))
    assert "metric" not in df.columns and list(read.best_first(df)["beta"]) == [0, 4, 9]
    progress = Progress(Queue(sweep), {})
    progress.rows()
    assert progress.metric is None


def test_runs_with_two_headlines_are_shown_by_the_metric(tmp_path):
    """Their best headlines can't be compared; the metric is the headline of one of them."""
    folder = made(tmp_path / "s", {"name": "val/mse"}, diverged=None)
    config = json.loads((folder / "key9" / "config.json").read_text())
    (folder / "key9" / "config.json").write_text(
        json.dumps(config | {"headline": "val/mig", "goal": "maximize"})
    )
    df = read.table(read.read_sweep(folder))
    assert df.attrs["metric"] == "val/mse" and df["metric"][0] == df["headline"][0]


def test_the_report_shows_the_metric_first(folder):
    sweep = read.read_sweep(folder)
    data = html.whole(sweep, read.table(sweep), None)
    labels = [c["label"] for c in data["columns"] if c["kind"] == "figure"]
    assert labels[:2] == ["best val/mig", "best val/mse"]
    assert (data["by"], data["ascending"]) == ("metric", False)
    assert data["metric"] == {"name": "val/mig", "goal": "maximize"}
    assert data["curves"]["keys"][:2] == ["val/mig", "val/mse"]
    static = html.render(sweep)[0].partition("<noscript>")[2].partition("</noscript>")[0]
    assert re.findall(r"<tr><td>(\d)</td>", static) == ["4", "0", "9"], "from best to worst"


def test_the_live_table_and_its_lines_name_both(folder, capfd, monkeypatch):
    monkeypatch.setattr(pool, "slots", lambda flags: [])  # torch plays no part
    for beta in (0, 4):
        path = folder / f"key{beta}" / "status.json"
        write_json(path, json.loads(path.read_text()) | {"status": "preempted"})
    flags, queue = pool.LocalFlags(sweep="x.yaml", workers=1), Queue(folder)
    content = yaml.safe_load((folder / "sweep.yaml").read_text())
    watched = pool.Local(flags, plan.Sweep(Path("x.yaml"), "", content, pytest), queue, 3)
    watched.print_changes(watched.progress.rows())
    write_json(path, json.loads(path.read_text()) | {"status": "finished"})
    rows = watched.progress.rows()
    watched.print_changes(rows)
    assert capfd.readouterr().err == "0001  beta=4  finished, best val/mig 0.5, best val/mse 4.3333\n"
    console = Console(width=120, file=io.StringIO())
    console.print(watched.view(rows, 120))
    head, *lines, below = console.file.getvalue().splitlines()
    assert head.split() == ["trial", "beta", "status", "step", "metric", "headline", "examples/s", "left"]
    assert [line.split()[4:6] for line in lines] == [["0.3", "0.33333"], ["0.5", "4.3333"], ["0.1", "9.3333"]]
    assert below.endswith("; the metric is val/mig, to maximize")


def test_status_names_both(folder, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.run(parse(slurm.Flags, [str(folder), "--status"], positional="sweep"))
    lines = capfd.readouterr().out.splitlines()[1:4]
    assert lines[1].split("  ")[:5] == ["0001", "beta=4", "finished", "100/200", "best val/mig 0.5"]
    assert "best val/mse 4.3333" in lines[1] and "best val/mig 0.1  best val/mse 9.3333" in lines[2]


@pytest.mark.filterwarnings("ignore")  # wandb-workspaces is written for an older pydantic, and says so
def test_wandb_views_are_sorted_by_the_metric(folder):
    """This looks at what would be sent, without asking W&B."""
    from launch.results import wandb_report

    for path in folder.glob("key*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"wandb_id": f"id-{path.parent.name}"}))
    sweep = read.read_sweep(folder)
    place = wandb_report.Place("e", "p", {f"id-key{beta}": "https://w/runs/x" for beta in VALUES})
    workspace = wandb_report.make_workspace(sweep, place, datetime.now())
    (order,) = workspace.runset_settings.order
    assert (order.item.name, order.ascending) == ("val/mig", False)
    assert workspace.runset_settings.pinned_columns[-2:] == ["summary:val/mig", "summary:val/mse_best"]
    assert [plot.y for plot in workspace.sections[0].panels][:2] == [["val/mig"], ["val/mse"]]
    text = "\n".join(wandb_report.tables(sweep, place, read.table(sweep)))
    assert "Every run, the best val/mig first" in text
    assert "| beta | status | best val/mig | best val/mse | test/mig | test/mse |" in text
    assert re.findall(r"(?m)^\| (\d) \|", text) == ["4", "0", "9"]
    report = wandb_report.make_report(sweep, place, datetime.now())
    grids = [block for block in report.blocks if type(block).__name__ == "PanelGrid"]
    assert {(grid.runsets[0].order[0].name.name, grid.runsets[0].order[0].ascending) for grid in grids} == {
        ("val/mig", False)
    }
