"""Write one self-contained HTML file in which the runs of a sweep can be filtered, compared and looked at.

    python launch/report.py runs/bvae [--out=FILE.html] [--csv=FILE.csv] [--open] [--publish]
    python launch/report.py runs/bvae runs/bvae_adam            # several sweeps in one file
    python launch/report.py sweeps/results/bvae.csv             # a committed table alone
    python launch/report.py path/to/wandb [--metric=NAME] [--goal=maximize]

The last form reads the folder in which W&B's client kept the runs of any script of any project
(launch/results/wandb_files.py). The figure that they are judged by is found by its name, or set by --metric.

The file contains its numbers, its pictures and its code, so it opens from a file path, offline. Pictures for
which --max_mb leaves no room are put into a folder beside it. With --publish, a saved workspace and a report
are made on W&B too (launch/results/wandb_report.py).

If a part of a run can't be read, the run's row says so. Exit code 0: everything is written; 1: W&B does not
answer, or the disk is full; 2: a flag is wrong, there is nothing to report, or the report may not be written
there.
"""

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.results import html, read, wandb_files
from launch.sweep import begin
from research.common.commandline import NO_RIGHT, NO_SPACE, main
from research.common.folder import METRICS, REPORT, STATUS
from research.common.messages import UserError, console, escape


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Write one HTML file that compares the runs of a sweep."""

    folder: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]
    """a sweep's folder, a folder of run folders, one run folder, a results CSV, or the folder `wandb` of any
    project; or several of these (--folder= may be left out)"""
    out: Path | None = None
    """the HTML file; default: report.html in the folder; for a CSV, its name with .html in this folder"""
    csv: Path | None = None
    """also write the results table here, as committed evidence"""
    open: bool = False
    """show the file in the browser"""
    max_mb: float = html.MAX_MB
    """largest size of all embedded pictures and videos together, in megabytes; the rest is put into a folder
    beside the file"""
    metric: str | None = None
    """runs of other projects only: the logged metric by which the runs are judged; default: found by its
    name"""
    goal: Literal["minimize", "maximize"] | None = None
    """runs of other projects only: whether small or large values of the metric are better; default: as its
    name says"""
    pdf: Path | None = None
    """also make a PDF to hand in, printed by Chromium or Chrome: question, protocol, results, curves,
    pictures, finding"""
    title: str | None = None
    """with --pdf: its title; default: the sweep's question"""
    author: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """with --pdf: an author; may be given several times"""
    max_pages: int | None = None
    """with --pdf: its largest number of pages; if it would be longer, pictures are left out"""
    publish: bool = False
    """also make a saved workspace and a report on W&B; the runs have to be there"""
    entity: str | None = None
    """with --publish: W&B entity (user or team); default: that of the runs, else yours"""
    project: str | None = None
    """with --publish: W&B project; default: that of the runs"""


def read_one(path: Path, flags: Flags) -> read.Sweep:
    """The sweep at `path`: a sweep's folder, a run's folder, a results CSV, or W&B's own folder. Raises
    UserError.

    Each is read only once, because a large folder on a network file system takes long.
    """
    if path.is_dir():
        return read_folder(path, flags)
    if not path.is_file():
        raise UserError(f"{path}: no such folder")
    if path.suffix != ".csv":
        raise UserError(f"{path}: must be a folder of runs, or a results CSV")
    try:
        return read.read_results(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def read_folder(path: Path, flags: Flags) -> read.Sweep:
    """The runs in a folder: ours, or else those of any script that W&B's client has kept.
    Raises UserError.
    """
    sweep = read.read_sweep(path)
    place = None if is_ours(sweep) else wandb_files.place_of(path)
    if place is None:
        if flags.metric or flags.goal:
            given = f"--metric={flags.metric}" if flags.metric else f"--goal={flags.goal}"
            raise UserError(
                f"{given}: only for runs of other projects; these are judged by their own headline"
            )
        if not sweep.runs and not sweep.text:
            raise UserError(
                f"{path}: holds no runs, neither our run folders nor W&B's run-* or offline-run-*"
            )
        return sweep
    if flags.publish:
        raise UserError(
            "--publish: only for this repository's runs; `wandb sync` uploads a run from W&B's own folder"
        )
    return wandb_files.read_wandb(place, flags.metric, flags.goal)


def is_ours(sweep: read.Sweep) -> bool:
    """Whether our scripts made these runs; folders of other projects may have a config.json or a sweep.yaml,
    too.
    """
    begun = any((run.folder / name).exists() for run in sweep.runs for name in (STATUS, METRICS))
    return begun or bool(sweep.open_trials) or any("family" in run.config for run in sweep.runs)


def write(flags: Flags) -> None:
    """Write everything that the flags request, and print where it is."""
    if not flags.folder:
        raise UserError("--folder is required (see report.py --help)")
    for i, path in enumerate(flags.folder):
        if path.resolve() in [other.resolve() for other in flags.folder[:i]]:
            raise UserError(f"--folder={path}: must be given only once")
    sweeps = [read_one(path, flags) for path in flags.folder]
    alone = len(sweeps) == 1 and flags.folder[0].is_dir()
    for name in ("title", "author", "max_pages"):
        if getattr(flags, name) and flags.pdf is None:
            raise UserError(f"--{name}: must be left out without --pdf, because only the PDF has it")
    if flags.max_pages is not None and flags.max_pages < 1:
        raise UserError(f"--max_pages={flags.max_pages}: must be at least 1")
    if flags.publish and not alone:
        raise UserError("--publish: must be left out unless --folder is the folder of one sweep")
    for path, sweep in zip(flags.folder, sweeps):
        if not sweep.runs:
            raise UserError(f"{path}: holds no runs")
    sweep = read.joined(sweeps)
    planned, out = (len(sweep.runs) if sweep.foreign else None), flags.out
    if alone and not sweep.foreign:
        planned = begin.planned(flags.folder[0], sweep)
    if out is None and sweep.foreign and alone:
        out = flags.folder[0] / REPORT
    if out is None and not alone:
        stem = sweep.name.replace("/", "-")
        out = sweep.folder.parent / REPORT if flags.folder[0].is_dir() else Path(f"{stem}.html")
    page = html.write_report(sweep, out, flags.max_mb, planned)
    print(page)
    for line in sweep.header.splitlines() if sweep.foreign else ():
        print(line)
    if flags.open:
        webbrowser.open(page.resolve().as_uri())
    if flags.csv:
        rows = read.results_csv(sweep, flags.csv)
        print(f"{flags.csv} ({rows} runs that have ended)")
    if flags.pdf:
        from launch.results import handin

        how = handin.HandIn(flags.title, flags.author, flags.max_pages)
        print(f"{flags.pdf} ({handin.write_pdf(sweep, flags.pdf, how)} pages)")
    if flags.publish:
        from launch.results import wandb_report  # its packages are optional, and take a second to import

        for line in wandb_report.publish(sweep, flags.entity, flags.project, planned):
            print(line, flush=True)


def run(flags: Flags) -> None:
    try:
        write(flags)
    except ConnectionError as error:  # not the user's mistake
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except OSError as error:  # --out, --csv
        if error.errno in (*NO_SPACE, *NO_RIGHT):
            raise  # `main` says what to do
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main(Flags, run, positional="folder")
