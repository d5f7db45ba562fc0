"""What notebooks share: the runs of a named sweep, or the command that makes them; and display functions.

    from launch.results import notebook

    sweep = notebook.runs_of("lyrics")           # runs/lyrics, or one line that says how to make it
    notebook.source(charlm.loss_fn)              # its code, as it stands in research/
    notebook.layers(sweep.runs[0])               # layers, shapes and parameters of the run's model
    notebook.picture(path, "What it shows.")

The environment variable NOTEBOOK_RUNS names a folder other than `runs`, or a project at W&B as
wandb:ENTITY/PROJECT. The tests use it to execute every notebook on short runs of embedded data. It is a
variable and not a cell of parameters, so that a notebook has the same cells wherever its runs are: the
committed .ipynb is the executed .py. IPython and Pillow are imported where they are used.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import html
import inspect
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import statistics
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from launch.results import read
from launch.results.page_data import labelled
from launch.results.words import from_root
from research.common.folder import (
    CHECKPOINTS,
    CONFIG,
    DONE,
    MEDIA,
    METRICS,
    MODEL_TEXT,
    RESULTS,
    STATUS,
    read_json,
    write_bytes,
    write_json,
)
from research.common.identity import ROOT
from research.common.messages import UserError, counted, hush

if TYPE_CHECKING:
    import numpy as np

RUNS = "NOTEBOOK_RUNS"
ONLINE = "wandb:"  # the beginning of its value if the runs are fetched from W&B
MANY_ROWS = 1_000_000  # more than a run logs, so that W&B leaves no rows out
LARGE = 60_000  # bytes; a larger PNG is shown as a JPEG, so that a notebook stays below 1 MB
LINE = 110  # characters of a text that are shown on a line
# flags for a task that a notebook calls, because the notebook shows the results itself
QUIET = {"wandb": "disabled", "quiet": True}


class Missing(UserError):
    """The runs that a notebook reads are not there. A notebook shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


# ------------------------------------------------------------------------------------------------ runs


def runs_of(name: str) -> read.Sweep:
    """The sweep of sweeps/<name>.yaml with its finished runs, in the order of its trials.

    The repository's root becomes the current folder, because paths in flags are relative to it. Messages
    about progress are turned off, so that the output of a cell is only what the cell shows.
    Raises Missing, which gives the command that makes or completes the runs and says how long that takes.
    """
    os.chdir(ROOT)
    hush(True)
    place = os.environ.get(RUNS, "runs")
    if place.startswith(ONLINE):
        return of_wandb(place.removeprefix(ONLINE), name)
    folder = Path(place) / name
    try:
        sweep = read.read_sweep(folder)
    except FileNotFoundError:
        raise Missing(f"The runs of this notebook are not there yet. {how_to_make(name, folder)}") from None
    return ended(sweep, how_to_make(name, folder))


def ended(sweep: read.Sweep, how: str) -> read.Sweep:
    """The sweep with only its finished runs. Raises Missing, with `how` to make them, if some have not ended
    or none has finished.
    """
    done = [run for run in sweep.runs if run.status["status"] in DONE]
    wanted = max(1, read.expected(sweep))
    if len(done) < wanted:
        state = f"{len(done)} of the {counted(wanted, 'run')} that this notebook reads have ended."
        raise Missing(f"{state} {how}")
    sweep.runs = [run for run in done if run.status["status"] == "finished"]
    if not sweep.runs:
        status = done[0].status["status"]
        raise Missing(f"None of this notebook's runs has finished; the first one is {status}. {how}")
    return sweep


def how_to_make(name: str, folder: Path) -> str:
    """A line with the command that makes or continues runs/<name>, and the time that it takes by its YAML."""
    words = ["python", "launch/local.py", f"sweeps/{name}.yaml"]
    if folder != Path("runs") / name:
        words += [f"--name={name}", f"--out={from_root(folder.parent)}"]
    lines = (ROOT / words[2]).read_text("utf-8").splitlines()
    header = "\n".join(line.removeprefix("#") for line in itertools.takewhile(lambda x: x[:1] == "#", lines))
    time = dict(labelled(header))["Time"]
    return f"Run `{shlex.join(words)}` in the repository's root. Time: {time}"


# ------------------------------------------------------------------------------------------------ W&B


def of_wandb(project: str, name: str) -> read.Sweep:
    """The sweep as W&B has it: the runs of group `name` in ENTITY/PROJECT, fetched once by the public API.

    They become folders in runs/wandb/ENTITY/PROJECT/<name>. Raises Missing: there is no login, no answer, or
    no finished run; or a run has not ended. If the group has fewer runs than the sweep's YAML describes, a
    sentence says so: W&B does not know of runs that were never uploaded.
    """
    from launch.results import wandb_runs

    folder = Path("runs") / "wandb" / project / name
    how = f"Upload the runs with `python launch/upload.py runs/{name}`, or unset {RUNS}."
    try:
        with wandb_runs.asking() as api:
            api.flush()  # because it caches answers
            try:
                found = list(api.runs(project, filters={"group": name, "jobType": "train"}))
            except ValueError:  # there is no such project
                found = []
            if missing := [run.name for run in found if run.state not in ("finished", "failed", "crashed")]:
                what = f"run {missing[0]} of group {name} has not ended"
                raise Missing(f"{RUNS}={ONLINE}{project}: {what}. {how}")
            for run in found:
                if run.state == "finished":
                    fetch(api, run, project, folder)
    except wandb_runs.Stop as error:
        raise Missing(f"{RUNS}={ONLINE}{project}: {error}") from None
    if not folder.is_dir():
        raise Missing(f"{RUNS}={ONLINE}{project}: W&B has no finished runs of group {name} there. {how}")
    sweep = read.read_sweep(folder)
    path = ROOT / "sweeps" / f"{name}.yaml"  # missing if the group has a name of its own
    described = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    if len(sweep.runs) < (planned := read.expected(dataclasses.replace(sweep, spec=described))):
        there = (
            f"W&B has {len(sweep.runs)} finished of the {planned} runs that `sweeps/{name}.yaml` describes."
        )
        say(there, "This notebook shows only these.")
    return ended(sweep, how)


def fetch(api: Any, run: Any, project: str, folder: Path) -> None:
    """Make a run folder from a run at W&B: config, best weights, layers, rows, and the media logged with
    them.

    Raises UserError if the run was not made by this repository, or if a file would lie outside the folder.
    """
    with tempfile.TemporaryDirectory() as tmp:
        key = str(run.config.get("key", ""))
        if not re.fullmatch(r"[0-9a-f]{6,64}", key):
            made = "it was not made by this repository"
            raise UserError(f"{project}: run {run.id} has the key {key or None}: {made}")
        into = folder / key
        if (into / STATUS).is_file():
            return
        got = Path(api.artifact(f"{project}/{run.config['family']}-{run.id}:best").download(tmp))
        config = read_json(got / CONFIG)
        (into / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        for weights in got.glob("*.pt"):
            shutil.copy(weights, into / CHECKPOINTS)
        shutil.copy(got / CONFIG, into)
        run.file(MODEL_TEXT).download(into, replace=True)
        rows = []
        for logged in run.history(samples=MANY_ROWS, pandas=False):
            row = {"step": logged["_step"]}
            for key, value in logged.items():
                if isinstance(value, dict) and "path" in value:
                    file = Path(run.file(value["path"]).download(tmp, replace=True).name)
                    place = into / MEDIA / key / f"{logged['_step']}{file.suffix}"
                    if not place.resolve().is_relative_to((into / MEDIA).resolve()):
                        raise UserError(f"{project}: {key} of run {run.id} lies outside the run's folder")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, place)
                elif not key.startswith(("_", "time/")) and value is not None:
                    row[key] = value
            if len(row) > 1:
                rows.append(row)
    write_bytes(into / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    last = {key: value for row in rows for key, value in row.items()}
    best = last.get(f"{config['headline']}_best")
    write_json(
        into / STATUS, {"status": "finished", "step": last["step"], "headline": best}
    )  # last: all is there


# ------------------------------------------------------------------------------------------------ models


def source(*objects: Any) -> None:
    """Show the code of functions and classes as it stands in their files."""
    for thing in objects:
        place = from_root(Path(inspect.getsourcefile(inspect.unwrap(thing))))
        code = textwrap.dedent(inspect.getsource(thing)).rstrip()
        _markdown(f"`{thing.__qualname__}` in {place}:\n\n```python\n{code}\n```")


def layers(run: read.Run) -> None:
    """Show the layers of a run's model with their shapes and parameters, as torchinfo wrote them."""
    text = (run.folder / MODEL_TEXT).read_text("utf-8")
    table = text.partition("\nTotal mult-adds")[0]  # the rest is about memory
    _markdown(f"```\n{table}\n```")


def n_parameters(run: read.Run) -> int:
    """The number of parameters of a run's model."""
    text = (run.folder / MODEL_TEXT).read_text("utf-8")
    return int(re.search(r"Total params: ([\d,]+)", text)[1].replace(",", ""))


# ------------------------------------------------------------------------------------------------ showing


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Hide what is printed or displayed within a `with` block, such as the results of a task, which the
    notebook shows in its own way.
    """
    from IPython.utils.capture import capture_output

    with capture_output():
        yield


def spread(values: Iterable[float | None], form: str = ".2f") -> str:
    """Mean ± standard deviation over the seeds, both in the format `form`; of a single value only that value.

    Values that are missing (None, NaN) are left out; if all of them are missing, the result is a dash.
    """
    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form}}"


def higher(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[int, int]:
    """With how many seeds the first figure is higher than the second, and the number of seeds that have both.

    Both are seed → value, such as a pandas Series. Values that are missing (NaN) are left out.
    """
    seeds = set(first.keys()) & set(second.keys())  # iterating over a Series would give its values
    differences = [first[seed] - second[seed] for seed in seeds]
    differences = [value for value in differences if not math.isnan(value)]
    return sum(value > 0 for value in differences), len(differences)


def say(*sentences: str) -> None:
    """Show sentences as a paragraph. A conclusion makes its sentences from the figures that were shown."""
    _markdown(" ".join(sentences))


def written(text: str, title: str) -> None:
    """Show a text below a title. Its line breaks are kept, and lines longer than LINE are broken."""
    lines = []
    for line in text.split("\n"):
        lines += [line[i : i + LINE] for i in range(0, max(1, len(line)), LINE)]
    shown = "\n".join(lines)
    _markdown(f"**{title}**\n\n```text\n{shown}\n```")


def picture(what: np.ndarray | Path, caption: str) -> None:
    """Show a picture, uint8 (H, W, 3) or a file, above its caption, which screen readers also read."""
    from IPython.display import Image, display
    from PIL import Image as pil

    image = (pil.open(what) if isinstance(what, Path) else pil.fromarray(what)).convert("RGB")
    kind, data = "png", _encoded(image.quantize(256), "PNG", optimize=True)  # charts have few colours
    if len(data) > LARGE:
        kind, data = "jpeg", _encoded(image, "JPEG", quality=70, optimize=True)
    display(Image(data, format=kind, alt=caption))
    _markdown(f"*{caption}*")


def _encoded(image: Any, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def video(path: Path, caption: str) -> None:
    """Show an mp4 inside the notebook, so that it plays wherever the notebook is opened."""
    from IPython.display import HTML, display

    data = base64.b64encode(path.read_bytes()).decode()
    label = html.escape(caption, quote=True)
    display(HTML(f'<video controls loop aria-label="{label}" src="data:video/mp4;base64,{data}"></video>'))
    _markdown(f"*{caption}*")


def media(run: read.Run, key: str) -> list[tuple[int, Path]]:
    """(step, file) of what a run has logged under a key, by step. Raises Missing if there is nothing."""
    if key not in run.media:
        raise Missing(f"{from_root(run.folder / MEDIA)} has no {key}; it has {', '.join(sorted(run.media))}")
    return run.media[key]


def task(run: read.Run, name: str) -> read.Task:
    """What a task has made from a run. If the task was called several times with different flags, the newest
    result is read.

    Raises Missing if the task was not called.
    """
    made = [one for one in read.read_run(run.folder).tasks if one.folder.name.partition("-")[0] == name]
    if not made:
        raise Missing(f"{from_root(run.folder)} has no results of task {name}; call the task first")
    return max(made, key=lambda one: (one.folder / RESULTS).stat().st_mtime_ns)


def _markdown(text: str) -> None:
    from IPython.display import Markdown, display

    display(Markdown(text))
