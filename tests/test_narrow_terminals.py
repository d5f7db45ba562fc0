"""Tables at every width: columns are left out whole and in the stated order, and no cell is truncated."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from launch.results import read
from launch.results.columns import Column, fitting
from launch.sweep import plan, pool
from launch.sweep.queue import Queue
from research.common.folder import write_json
from tests.test_report import make_run

# as long as real ones: names, a path, many digits
FLAGS = {
    "learning_rate": [0.000316228, 0.001],
    "beta": [4, 20],
    "latent_dim": [10, 32],
    "attention": [True, False],
    "seed": [0, 1],
    "dataset": ["shakespeare", "a/rather/long/path.txt"],
}
WIDTHS = [*range(40, 121, 3), *range(125, 201, 15)]  # of a terminal, in characters
METRIC = {"name": "val/elbo_nats", "goal": "maximize"}


def sweep_of(folder: Path, n: int, metric: bool) -> Path:
    """Two runs, one of which was stopped by hyperband, that differ in n flags."""
    varied = dict(list(FLAGS.items())[:n])
    folder.mkdir(parents=True)
    spec = {"program": "research/x.py", "method": "grid"}
    spec["parameters"] = {name: {"values": values} for name, values in varied.items()}
    (folder / "sweep.yaml").write_text(json.dumps(spec | ({"metric": METRIC} if metric else {})))
    queue = Queue(folder)
    for i, state in enumerate(("finished", "stopped")):
        flags = {name: values[i] for name, values in varied.items()}
        queue.add(flags, f"key{i}")
        beta = flags.pop("beta", 4)
        run = make_run(folder / f"key{i}", beta, flags.pop("seed", 0), state, **flags)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row |= {"val/elbo_nats": -1234.5678 - i, "val/kl_nats": 17.123456}
        rows[-1] |= {"test/mse": 0.123456, "test/elbo_nats": -1299.123, "test/active_units": 17.0}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = json.loads((run / "status.json").read_text())
        kept |= {"reason": "hyperband: x" if i else None, "step": 12345, "steps": 234567}
        write_json(run / "status.json", kept)
    return folder


def shown(what, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("n", range(1, len(FLAGS) + 1))
def test_the_live_table(tmp_path, monkeypatch, n, metric):
    monkeypatch.setattr(pool, "slots", lambda flags: [])  # torch plays no part
    folder = sweep_of(tmp_path / "s", n, metric)
    content = json.loads((folder / "sweep.yaml").read_text())
    watched = pool.Local(
        pool.LocalFlags(sweep="x", workers=1), plan.Sweep(Path("x"), "", content, pytest), Queue(folder), 2
    )
    rows = watched.progress.rows()
    names = watched.progress.varied()
    assert len(names) == n
    figures = ["metric", "headline"] if metric else ["headline"]
    every = ["trial", *names, "status", "step", *figures, "examples/s", "left"]
    order = ["left", "examples/s", "step", *figures[1:], *reversed(names), "status"]  # of leaving out
    whole = {
        row.trial.key: pool.cells_of(row) | row.varied | {"trial": f"{row.trial.index:04d}"} for row in rows
    }
    widest = 0
    for width in WIDTHS:
        lines = shown(watched.view(rows, width), width)
        assert not any("…" in line or len(line) > width for line in lines), lines
        head = lines[0].split()
        gone = [name for name in order if name not in head]
        assert gone == order[: len(gone)] and head == [name for name in every if name not in gone], width
        for line, row in zip(lines[1:3], rows):
            cells = whole[row.trial.key]
            assert line.split() == " ".join(cells[name] for name in head).split(), width
        said = " ".join(" ".join(lines[3:]).split())
        assert said.startswith("2 of 2 done, 0 failed, ")
        note = {0: "", 1: "; 1 column is not shown"}.get(len(gone), f"; {len(gone)} columns are not shown")
        assert said.endswith(f"min{note}" + ("; the metric is val/elbo_nats, to maximize" if metric else ""))
        assert len(head) >= widest, "a wider terminal shows no less"
        widest = len(head)
    assert widest == len(every), "the widest is wide enough"


@pytest.mark.parametrize(("metric", "finished"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("n", range(1, len(FLAGS) + 1))
def test_the_final_table(tmp_path, n, metric, finished):
    df = read.table(read.read_sweep(sweep_of(tmp_path / "s", n, metric)))
    if finished:  # then that each has tells less than a figure
        df["status"] = "finished"
    flags = read.flag_columns(df)
    own = ["test/elbo_nats", "best val/mse"] if metric else []
    spare = ["val/kl_nats", *([] if metric else ["val/elbo_nats"]), "test/kl_nats"]
    spare += ["test/active_units"] if metric else ["test/elbo_nats", "test/active_units"]
    order = [*spare, "step", *own, "test/mse", *reversed(flags), "status"]
    if finished:
        order = [*spare, "step", "status", *own, "test/mse", *reversed(flags)]
    best = "best val/elbo_nats" if metric else "best val/mse"
    for width in WIDTHS:
        console = Console(file=io.StringIO(), width=width)
        read.print_table(df, console, width)
        lines = console.file.getvalue().splitlines()
        assert not any("…" in line or len(line) > width for line in lines), lines
        (rule,) = (i for i, line in enumerate(lines) if "──" in line)
        head = headings(lines[:rule])
        gone = [name for name in order if name not in head]
        assert gone == order[: len(gone)] and best in head, (width, head, gone)
        cells = lines[rule + 1].split()
        assert len(cells) == len(head) and ("finished" in cells or "status" in gone), width
        for name in set(head) & {"test/mse", "test/elbo_nats", "test/active_units"}:
            assert read.show(df[name][0], 4) in cells, width
        note = re.findall(r"(\d+) columns? (?:is|are) not shown at this width", " ".join(lines))
        assert note == ([str(len(gone))] if gone else []), (width, gone, lines)
        if width >= 80 and n <= 5:
            assert "test/mse" in head and set(flags) <= set(head), (width, head)
    assert gone == [] or n == 6, "the widest is wide enough for five flags"


def headings(lines: list[str]) -> list[str]:
    """The headings above a rule; those on several lines stand flush right, one above the other."""
    found = list(re.finditer(r"\S+(?: \S+)*", lines[-1]))
    ends, names = [word.end() for word in found], [word.group() for word in found]
    for above in reversed(lines[:-1]):
        for word in re.finditer(r"\S+", above):
            blank = " " if word.group() == "best" else ""
            at = ends.index(word.end())
            names[at] = word.group() + blank + names[at]
    return names


def test_columns_go_in_the_given_order_until_the_rest_fits():
    a, b, c = Column("a", ["1"]), Column("bb", ["日本"]), Column("two\nlines", [""])
    assert (a.width, b.width, c.width) == (1, 4, 5)
    assert fitting([a, b, c], [c, b], 14) == [a, b, c]
    assert fitting([a, b, c], [c, b], 13) == [a, b]
    assert fitting([a, b, c], [b], 3) == [a, c], "what may not go stays, whatever there is room for"
