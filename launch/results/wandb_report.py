"""Publish a sweep on W&B: a saved workspace to explore its runs in, and a report of the results.

    python launch/report.py runs/bvae --publish [--entity=E] [--project=P]

Every call makes one more workspace and one more report, and never changes anything that is already at W&B.
The runs have to be there first. In W&B's views, ID is the id in a run's URL, and the axis Step is our `step`.
"""

import contextlib
import os
import re
import shlex
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import pandas as pd
import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from launch.results.colours import colours
from launch.results.read import Sweep, best_first, column_of, expected, summarise_over_seeds, table
from launch.results.words import cell, command, from_root, label, sweep_command, what_was_run
from research.common.folder import SOURCE_DIFF, UPLOADED, read_json
from research.common.messages import UserError

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
except ImportError as error:
    install = 'pip install "wandb-workspaces>=0.4.8"'
    raise UserError(f"--publish needs one more package: {install} ({error})") from None

ROWS = 100  # in a table or a list of the report, at most
RUNS = 100  # in one chart, at most; W&B's own default is 10


@dataclass(frozen=True)
class Place:
    """Where a sweep's runs are at W&B. urls: W&B id → page, for each run that is there."""

    entity: str
    project: str
    urls: dict[str, str]


# ------------------------------------------------------------------------------------ what the folder says


def paragraphs(header: str) -> dict[str, list[str | list[str]]]:
    """A YAML's header by label. A label is one of four words at the beginning of a line, followed by a colon
    or two blanks; what comes before the first label is under "". In the lists, a text is a paragraph, and a
    list is a group of lines with columns, which were two blanks apart.
    """
    parts, title = {}, ""
    flowing = False  # whether a line goes on with the paragraph of the line before
    for line in header.splitlines():
        if start := re.match(r"(Question|Size|Time|Finding)(?::\s*| {2,})", line):
            title, line, flowing = start[1], line[start.end() :], False
        part = parts.setdefault(title, [])
        cells = re.split(r"(?<=[^\s.:?!]) {2,}", line.strip())
        if len(cells) > 1:
            if not part or isinstance(part[-1], str):
                part.append([])
            part[-1].append(" · ".join(cells))
        elif cells[0] and flowing:
            part[-1] += " " + cells[0]
        elif cells[0]:
            part.append(cells[0])
        flowing = len(cells) == 1 and cells[0] != ""
    return {title: part for title, part in parts.items() if part}


@dataclass(frozen=True)
class Judged:
    """By what a sweep's runs are judged. names: the figures that are drawn first, which are the metric, if
    there is one, and the headline; best: the key of the W&B summary by which runs are sorted; ascending:
    whether the least value comes first.
    """

    names: list[str]
    best: str
    ascending: bool


def judged(attrs: dict) -> Judged:
    """From the attributes of a `table`. A W&B summary has the last value of a metric, not the best."""
    metric, headline = attrs["metric"], attrs["headline"]
    names = [metric, headline] if metric else [headline]
    return Judged(names, metric or f"{headline}_best", attrs["ascending"])


def curve_metrics(sweep: Sweep, first: list[str]) -> list[str]:
    """The metrics that are drawn over the steps: those in `first`, every other val/* that was logged more
    than once, and train/loss.
    """
    counts = [Counter(metric for row in run.rows for metric in row) for run in sweep.runs]
    often = {metric for count in counts for metric, n in count.items() if n > 1}
    metrics = [m for m in first if not m.startswith("test/") and any(m in count for count in counts)]
    metrics += sorted(m for m in often.difference(first) if m.startswith("val/") and not m.endswith("_best"))
    if "train/loss" in often and "train/loss" not in metrics:
        metrics.append("train/loss")
    return metrics


def over_seeds(sweep: Sweep) -> dict:
    """The settings with which a panel averages runs over seeds; {} if more than one flag varies besides the
    seed, because W&B groups by one flag only.
    """
    if any(run.trial.get("confirms") for run in sweep.runs):
        return {}  # a panel can't leave out the confirmed trial, which was chosen for its value
    flags = [flag for flag in sweep.varied if flag != "seed"]
    if len(flags) != 1 or "seed" not in sweep.varied:
        return {}
    return {
        "groupby": wr.Config(flags[0]),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "stddev",
    }


def title_of(sweep: Sweep, now: datetime) -> str:
    """The sweep's name and the minute. W&B refuses symbols in a workspace's name, and puts a report's name
    into its URL.
    """
    name = re.sub(r"[^\w .,-]", "-", sweep.name)
    return f"{name[:90]} · {now:%Y-%m-%d %H:%M}"


def line_plots(sweep: Sweep, first: list[str]) -> list:
    """A line plot over the W&B step for each metric; for those in `first` also one of the mean over seeds."""
    mean, plots = over_seeds(sweep), []
    common = {"x": "Step", "title_x": "step", "max_runs_to_show": min(len(sweep.runs), RUNS)}
    for metric in curve_metrics(sweep, first):
        plots.append(wr.LinePlot(title=metric, y=[metric], **common))
        if mean and metric in first:
            plots.append(wr.LinePlot(title=f"{metric}, mean over seeds", y=[metric], **common, **mean))
    return plots


def bar_plots(sweep: Sweep) -> list:
    """A bar plot for each test figure: a bar is a run, or the mean of a setting over its seeds."""
    names = sorted({m for run in sweep.runs for row in run.rows for m in row if m.startswith("test/")})
    n, mean = min(len(sweep.runs), RUNS), over_seeds(sweep)
    title = "{}, mean over seeds" if mean else "{}"
    common = {"max_runs_to_show": n, "max_bars_to_show": n} | mean
    return [wr.BarPlot(title.format(name), [name], **common) for name in names]


def hyperparameters(sweep: Sweep, best: str) -> list:
    """Panels that show how the figure `best` of a run's summary depends on the varied flags; none if nothing
    varies or nothing was measured.
    """
    given = sweep.spec.get("parameters") or {}
    if not sweep.varied or not any(best in row for run in sweep.runs for row in run.rows):
        return []
    axes = []
    for flag in sweep.varied:
        logarithmic = "log" in str((given.get(flag) or {}).get("distribution"))
        axes.append(wr.ParallelCoordinatesPlotColumn(wr.Config(flag), log=True if logarithmic else None))
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(best)))
    return [wr.ParallelCoordinatesPlot(columns=axes), wr.ParameterImportancePlot(with_respect_to=best)]


def media_browsers(sweep: Sweep) -> list:
    """A media panel for each key, of steps × runs; with one step only, the runs are side by side."""
    panels = []
    for key in sorted({key for run in sweep.runs for key in run.media}):
        steps = {step for run in sweep.runs for step, _ in run.media.get(key, [])}
        axes = {"grid_x_axis": "step", "grid_y_axis": "run"} if len(steps) > 1 else {"gallery_axis": "run"}
        panels.append(wr.MediaBrowser(title=key, media_keys=[key], **axes))
    return panels


def chapters(sweep: Sweep, by: Judged) -> Iterator[tuple[str, int, list]]:
    """(heading, panels in a row, panels), in the order of both views; empty chapters are left out."""
    every = [
        ("Learning curves", 3, line_plots(sweep, by.names)),
        ("Test figures", 3, bar_plots(sweep)),
        ("Hyperparameters", 2, hyperparameters(sweep, by.best)),
        ("Pictures", 1, media_browsers(sweep)),
    ]
    yield from (chapter for chapter in every if chapter[2])


# ------------------------------------------------------------------------------------ the two views


def these_runs(sweep: Sweep, place: Place) -> tuple[str, dict[str, str]]:
    """A filter that only the sweep's runs at W&B pass, and their colours, by the first varied flag.

    It filters by id: the runs' group, which is the sweep's name, may be used again, and differs under
    `wandb agent`.
    """
    each = zip(sweep.runs, colours(sweep, sweep.varied))
    of = {run.config.get("wandb_id"): colour for run, colour in each}
    return f'Metric("ID") in {list(place.urls)}', {key: of[key] for key in place.urls}


def make_workspace(sweep: Sweep, place: Place, now: datetime) -> ws.Workspace:
    """The workspace, not saved yet; this needs no network."""
    attrs = table(sweep).attrs
    by, sections = judged(attrs), []
    pinned = dict.fromkeys([by.best, f"{attrs['headline']}_best"])
    which, colour_of = these_runs(sweep, place)
    for heading, across, panels in chapters(sweep, by):
        layout = ws.SectionLayoutSettings(columns=across, rows=-(-len(panels) // across))
        sections.append(ws.Section(name=heading, panels=panels, is_open=True, layout_settings=layout))
    runs = ws.RunsetSettings(
        filters=which,
        order=[ws.Ordering(ws.Summary(by.best), ascending=by.ascending)],
        run_settings={key: ws.RunSettings(color=colour) for key, colour in colour_of.items()},
        pinned_columns=[
            "run:displayName",
            *(f"config:{f}.value" for f in sweep.varied),
            *(f"summary:{name}" for name in pinned),
        ],
    )
    settings = ws.WorkspaceSettings(x_axis="Step", max_runs=min(max(len(place.urls), 10), RUNS))
    return ws.Workspace(place.entity, place.project, title_of(sweep, now), sections, settings, runs)


def make_report(sweep: Sweep, place: Place, now: datetime, planned: int | None = None) -> wr.Report:
    """The report, not saved yet; this needs no network. planned: how many runs there will be, if known."""
    df, (which, colour_of) = table(sweep), these_runs(sweep, place)
    by, missing = judged(df.attrs), len(df) - len(place.urls)
    states = ", ".join(f"{n} {state}" for state, n in Counter(df["status"]).items())
    planned = expected(sweep) if planned is None else planned
    size = f"{what_was_run(sweep, sweep.varied)}. Of {planned} runs: {states}."
    if missing > 0:
        size += f" {missing} are not on W&B, and not in the charts."
    blocks = [wr.P(size)]
    for title, part in paragraphs(sweep.header).items():
        if title:
            blocks.append(wr.H2(title))
        blocks += [wr.P(text) if isinstance(text, str) else wr.UnorderedList(text) for text in part]
    blocks += [wr.H2("Results"), *map(wr.MarkdownBlock, tables(sweep, place, df))]
    order = wr.OrderBy(wr.SummaryMetric(by.best), ascending=by.ascending)
    for i, (heading, across, panels) in enumerate(chapters(sweep, by)):
        width, height = 24 // across, 14 if across == 1 else 7  # W&B's grid has 24 columns
        for k, panel in enumerate(panels):
            panel.layout = wr.Layout(x=k % across * width, y=k // across * height, w=width, h=height)
        runs = wr.Runset(
            place.entity,
            place.project,
            name=sweep.name,
            filters=which,
            order=[order],
            run_settings={key: wr.RunSettings(colour) for key, colour in colour_of.items()},
        )
        blocks += [wr.H2(heading), wr.PanelGrid(runsets=[runs], panels=panels, hide_run_sets=i > 0)]
    blocks += [wr.H2("How to reproduce"), wr.MarkdownBlock(how_to_reproduce(sweep, df))]
    return wr.Report(place.project, place.entity, title_of(sweep, now), blocks=blocks, width="fluid")


def plain(text: str) -> str:
    """Text that markdown shows as it is, even in a table. An underscore within a word needs no escape."""
    text = re.sub(r"[\\`*<>\[\]|$~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return " ".join(text.split())


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows[:ROWS]]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    if len(rows) > ROWS:
        text += f"\n\nThe first {ROWS} of {len(rows)}."
    return text


def tables(sweep: Sweep, place: Place, df: pd.DataFrame) -> list[str]:
    """Means over seeds, if the seed varies; all runs from best to worst; how runs ended, if that is known."""
    figures = [c for c in df.columns if c in ("metric", "headline") or c.startswith("test/")]
    headings, texts = df.attrs["headings"] | {"n": "finished"}, []
    if "seed" in sweep.varied:
        names = [*(column_of(flag) for flag in sweep.varied if flag != "seed"), "n", "runs", *figures]
        means = summarise_over_seeds(df).to_dict("records")
        rows = [[plain(cell(row, name)[0]) for name in names] for row in means]
        what = "Mean ± sample standard deviation over the seeds of finished runs"
        if df.attrs["confirmed"]:
            what += ", without the trial that its further seeds confirm"
        head = [plain(headings.get(name, name)) for name in names]
        texts.append(f"{what}.\n\n{markdown_table(head, rows)}")
    names, rows, reasons = [*map(column_of, sweep.varied), "status", *figures], [], []
    ordered = best_first(df)
    for i, row in zip(ordered.index, ordered.to_dict("records")):
        run = sweep.runs[i]
        name, url = plain(run.folder.name), place.urls.get(str(run.config.get("wandb_id")))
        rows.append([plain(cell(row, n)[0]) for n in names] + [f"[{name}]({url})" if url else name])
        if row["reason"]:
            reasons.append(f"- {plain(label(run, sweep.varied))}: {plain(row['reason'])}")
    head = [*(plain(headings.get(name, name)) for name in names), "run"]
    best = headings[df.attrs["by"]].removeprefix("best ")
    what = f"Every run, the best {plain(best)} first; test figures are measured once."
    texts.append(f"{what}\n\n{markdown_table(head, rows)}")
    if reasons:
        texts.append("How runs ended, where that is known:\n\n" + "\n".join(reasons[:ROWS]))
    return texts


def how_to_reproduce(sweep: Sweep, df: pd.DataFrame) -> str:
    """The commits, the command of the whole sweep, and the command of each run."""
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(df["commit"]) if commit)
    texts = []
    if "-dirty" in commits:
        commits += f" (`-dirty`: with the changes in `{SOURCE_DIFF}` of the run's folder)"
    if commits:
        texts.append(f"Commit: {commits}.")
    if sweep.text:
        texts += [
            "This command runs the whole sweep; it skips what is already there:",
            f"```\n{sweep_command(sweep)}\n```",
        ]
    runs, varied = sweep.runs[:ROWS], sweep.varied
    lines = [f"# {label(run, varied)}\n{command(run, sweep, varied)}" for run in runs]
    return "\n\n".join([*texts, "One run:", "```\n" + "\n".join(lines) + "\n```"])


# ------------------------------------------------------------------------------------ W&B


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """A `with` block that turns W&B's errors into one line: UserError for a missing or refused login, else
    ConnectionError.
    """
    try:
        yield
    except wandb.errors.UsageError:
        raise UserError("not logged in to W&B: run `wandb login`, then this command again") from None
    except (wandb.errors.Error, WandbApiFailedError) as error:
        answer, reason = getattr(error.__cause__ or error, "response", None), " ".join(str(error).split())
        if getattr(answer, "http_status", None) in (401, 403):
            raise UserError(f"W&B refuses this login, see `wandb login --relogin` ({reason})") from None
        raise ConnectionError(f"W&B gave no usable answer, run this again later ({reason})") from None


def find(sweep: Sweep, entity: str | None = None, project: str | None = None) -> Place:
    """Ask W&B for the sweep's runs. By default, entity and project are those of most runs, or else the
    login's own entity.

    UserError: nobody is logged in, or the project or all of the runs are not there. ConnectionError: W&B does
    not answer.
    """
    places = Counter()
    for run in sweep.runs:
        confirmed = read_json(run.folder / UPLOADED)
        places[(confirmed.get("entity"), confirmed.get("project")) if confirmed else run.place] += 1
    usual_entity, usual_project = places.most_common(1)[0][0]
    entity, project = entity or usual_entity, project or usual_project
    ids = [str(run.config.get("wandb_id", "")) for run in sweep.runs]
    ids = [key for key in ids if re.fullmatch(r"[\w.-]+", key)]  # others can't be written in a filter
    os.environ.pop("WANDB_MODE", None)  # it is meant for training
    url = urlsplit(wandb.setup().settings.base_url)
    try:  # wandb-core would try for a long time, and sometimes does not end even when it is told to
        if not getproxies():
            address = (url.hostname, url.port or {"http": 80}.get(url.scheme, 443))
            socket.create_connection(address, timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{url.geturl()} cannot be reached ({error}): run this again later") from None
    with asking():
        if not wandb.login(prompt=False, verify=False):  # Api() would ask for the key and wait
            raise wandb.errors.UsageError("no key")
        api = wandb.Api()
        entity = entity or api.default_entity
        if not entity or not project:
            raise UserError("to which W&B project? Give --entity and --project")
        words = shlex.join(["python", "launch/upload.py", from_root(sweep.folder)])
        upload = f"`{words}` uploads the runs; or give --entity and --project"
        try:
            runs = api.runs(f"{entity}/{project}", filters={"name": {"$in": ids}}, per_page=100)
            urls = {run.id: run.url for run in runs}
        except ValueError:  # so the client says that there is no project; Report.save would create it
            raise UserError(f"W&B shows you no project {entity}/{project}: {upload}") from None
    if not urls:
        raise UserError(f"none of the {len(sweep.runs)} runs is in {entity}/{project} on W&B: {upload}")
    return Place(entity, project, {key: urls[key] for key in ids if key in urls})


def publish(
    sweep: Sweep, entity: str | None = None, project: str | None = None, planned: int | None = None
) -> Iterator[str]:
    """Make a workspace and a report of a sweep; yields a line when each is there. Raises the errors of
    `find`.
    """
    now, there = datetime.now(), find(sweep, entity, project)
    for view in (make_workspace(sweep, there, now), make_report(sweep, there, now, planned)):
        with asking():
            url = view.save().url
        yield f"W&B {type(view).__name__.lower()}: {quote(url, safe=':/?=&%')}"
