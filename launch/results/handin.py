"""A sweep as a PDF to hand in: question, protocol, results, curves, pictures and texts, finding.

The pages are HTML, which a headless Chromium prints; this is the only program outside Python that is needed.
"""

import base64
import io
import math
import mimetypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from launch.results import page_data, read
from launch.results.colours import colours
from launch.results.excerpts import excerpt
from launch.results.read import Run, Sweep
from launch.results.values import show
from launch.results.words import cell, label, sweep_command, what_was_run
from research.common.messages import UserError, readable

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KINDS = (".png", ".jpg", ".jpeg", ".gif", ".webp")  # media that can be printed
TEXTS = (".txt", ".html")
FIRST = ("reconstruct", "random", "sample", "traversal", "interpolation")  # pictures to show first
# at most (kinds of pictures and kinds of texts, settings of each), tried from the first to the last
LEVELS = ((3, 12), (2, 8), (2, 4), (1, 3), (1, 1), (0, 0))
PRINT_S = 120
WIDE = 9  # columns in a table of results, at most


@dataclass(frozen=True)
class HandIn:
    """What the first page shows in addition to the sweep's own words. max_pages: None means no limit."""

    title: str | None = None
    authors: tuple[str, ...] = ()
    max_pages: int | None = None


def write_pdf(sweep: Sweep, out: Path, how: HandIn) -> int:
    """Write the PDF; returns its number of pages.

    Pictures and texts are left out as far as they do not fit into `max_pages`. UserError: it has more pages
    even without any, there is no browser, or the browser fails.
    """
    if (browser := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        raise UserError(f"--pdf: needs one of {', '.join(BROWSERS)} on PATH to print it")
    with tempfile.TemporaryDirectory() as folder:
        for n_keys, n_settings in LEVELS:
            page, made = Path(folder) / "page.html", Path(folder) / "page.pdf"
            page.write_text(readable(_page(sweep, how, n_keys, n_settings)), encoding="utf-8")
            _print(browser, page, made, Path(folder) / "profile")
            pages = count_pages(made.read_bytes())
            if how.max_pages is None or pages <= how.max_pages:
                out.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made, out)
                return pages
    raise UserError(f"--max_pages={how.max_pages}: must be at least {pages}, its length without any pictures")


def _print(browser: str, page: Path, out: Path, profile: Path) -> None:
    """Print a page with a headless browser. UserError: it takes too long or writes no file."""
    words = [browser, "--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"]
    words += [f"--user-data-dir={profile}", f"--print-to-pdf={out}", page.as_uri()]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # for root, the browser starts only without its sandbox
        words[1:1] = ["--no-sandbox"]
    try:
        done = subprocess.run(
            words, capture_output=True, encoding="utf-8", errors="replace", timeout=PRINT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"--pdf: {browser} did not print within {PRINT_S} s") from None
    if not out.is_file():
        why = (done.stderr.strip().splitlines() or ["it printed no reason"])[-1]
        raise UserError(f"--pdf: {browser} wrote no file ({why})")


def count_pages(pdf: bytes) -> int:
    """The number of pages of a PDF as Chromium writes it."""
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def _page(sweep: Sweep, how: HandIn, n_keys: int, n_settings: int) -> str:
    import jinja2

    df, varied = read.table(sweep), sweep.varied
    about = page_data.about_of(sweep)
    question = next((text for name, text in about if name in ("Question", "")), "")
    finding = next((text for name, text in about if name == "Finding"), "")
    flags = read.flag_columns(df)
    constant = {k: v for run in sweep.runs for k, v in run.flags.items() if k in run.result_flags}
    constant = {k: show(v) for k, v in sorted(constant.items()) if k not in varied}
    figures = [c for c in df.columns if c in ("metric", "headline") or c.startswith("test/")]
    of_run = [*flags, "status", "step", "headline"]
    seeds = read.summarise_over_seeds(df) if "seed" in varied else df
    means = seeds.to_dict("records")
    of_setting = [name for name in flags if name != "seed"] + (["n"] if means and "n" in means[0] else [])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = Path(__file__).with_name("page") / "handin.html.j2"
    return environment.from_string(template.read_text("utf-8")).render(
        title=how.title or question or sweep.name,
        authors=how.authors,
        today=date.today().isoformat(),
        name=sweep.name,
        question=question,
        finding=finding.splitlines(),
        what=what_was_run(sweep, varied),
        state=page_data.state_line(df["status"].value_counts().to_dict(), len(sweep.open_trials)),
        constant=constant,
        command=sweep_command(sweep) if sweep.text else None,
        machines=_machines(sweep),
        commits=sorted({c for c in df["commit"] if c}),
        protocol=[[cell(row, c)[0] for c in of_run] for row in df.to_dict("records")],
        protocol_columns=[*flags, "status", "step", df.attrs["headings"]["headline"]],
        results=[_results(df, means, of_setting, some) for some in _shares(figures, WIDE - len(of_setting))],
        over_seeds="seed" in varied,
        curves=[curve(sweep, key) for key in _curve_keys(sweep, df.attrs["headline"])],
        pictures=[_board(sweep, key, n_settings, KINDS) for key in _keys(sweep, KINDS)[:n_keys]],
        texts=[_board(sweep, key, n_settings, TEXTS) for key in _keys(sweep, TEXTS)[:n_keys]],
    )


def _results(df: Any, rows: list[dict], settings: list[str], figures: list[str]) -> dict[str, list]:
    """One table of results: the columns of the settings, then those of these figures."""
    return {
        "columns": [*settings, *(df.attrs["headings"].get(name, name) for name in figures)],
        "rows": [[cell(row, name)[0] for name in [*settings, *figures]] for row in rows],
    }


def _shares(names: list[str], n: int) -> list[list[str]]:
    """The names in lists of nearly equal length, each of at most n (if n is below 1, of one)."""
    lists = math.ceil(len(names) / max(1, n))
    every = math.ceil(len(names) / max(1, lists))
    return [names[i : i + every] for i in range(0, len(names), every)]


def _machines(sweep: Sweep) -> list[str]:
    """What the runs were computed on, each machine once."""
    return sorted({*map(read.machine_of, sweep.runs)} - {""})


def _curve_keys(sweep: Sweep, headline: str) -> list[str]:
    seen = {key for run in sweep.runs for row in run.rows for key in row}
    return [key for key in (headline, "train/loss") if key in seen and not key.startswith("test/")]


def curve(sweep: Sweep, key: str) -> dict[str, str]:
    """{"key", "svg"}: a figure against the step, with a line for each run, coloured as in the report."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    palette, named = colours(sweep, sweep.varied), set()
    for run, colour in zip(sweep.runs, palette):
        points = [(row["step"], row[key]) for row in run.rows if key in row and "step" in row]
        points = page_data.thinned(points, page_data.POINTS)
        name = label(run, sweep.varied[:1])
        first = name if name not in named and len(named) < 10 else None
        named.add(name)
        values = [float("nan") if value is None else value for _, value in points]
        axes.plot([step for step, _ in points], values, color=colour, linewidth=1, label=first)
    axes.set_xlabel("step")
    axes.set_ylabel(key)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    if 1 < len(named) <= 10:
        axes.legend(frameon=False, fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return {"key": key, "svg": base64.b64encode(buffer.getvalue().encode()).decode()}


def _keys(sweep: Sweep, kinds: Sequence[str]) -> list[str]:
    """The keys whose files are of these kinds, those that readers want to see first in front."""
    seen = {key for run in sweep.runs for key, files in run.media.items() if files[-1][1].suffix in kinds}
    return sorted(seen, key=lambda key: (next((i for i, w in enumerate(FIRST) if w in key), len(FIRST)), key))


def _board(sweep: Sweep, key: str, n_settings: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Early, middle and late files of a key: a row for each setting, from the first seed that has some."""
    rows, seen = [], set()
    varied = [name for name in sweep.varied if name != "seed"]
    for run in sweep.runs:
        setting = label(run, varied)
        files = [file for file in run.media.get(key, []) if file[1].suffix in kinds]
        if not files or setting in seen or len(rows) == n_settings:
            continue
        seen.add(setting)
        rows.append({"label": label(run, sweep.varied), "cells": _three(run, files)})
    settings = {label(run, varied) for run in sweep.runs if key in run.media}
    return {"key": key, "rows": rows, "left": len(settings) - len(rows)}


def _three(run: Run, files: Sequence[tuple[int, Path]]) -> list[dict[str, Any]]:
    """The files nearest to a twentieth and to half of the training, and the last one."""
    last = files[-1]
    trained = [file for file in files if file[0] > 0] or files
    early, middle = (min(trained, key=lambda file: abs(file[0] - last[0] * part)) for part in (0.05, 0.5))
    found = []
    for step, path in dict.fromkeys((early, middle, last)):
        try:
            if path.suffix in TEXTS:
                found.append({"step": step, "lines": excerpt(path)})
                continue
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError:
            continue
        found.append({"step": step, "data": data, "mime": mimetypes.guess_type(path.name)[0] or "image/png"})
    return found
