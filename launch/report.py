"""Write one self-contained HTML file that compares the runs of a sweep.

    python launch/report.py runs/bvae [--out=FILE.html] [--csv=FILE.csv] [--open] [--publish]
    python launch/report.py path/to/wandb [--metric=NAME] [--goal=maximize] [--out=…] [--csv=…] [--open]

The file holds its numbers, pictures and plotly itself: it opens from a file path, offline, and loads nothing.
With --publish a saved workspace and a report are made on W&B too (launch/results/wandb_report.py).

The second form reads the folder in which W&B's client kept the runs of any script, of whatever project
(launch/results/wandb_files.py). The figure that they are judged by is found by its name; --metric overrides.

What can't be read of a run is a row that says so. Exit code 0: all is written; 1: W&B does not answer, or the
disk is full; 2: a flag is wrong, there is nothing to report, or the report may not be written there.
"""

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

    folder: Path
    """a sweep's folder, a folder of run folders, or one run folder; or the folder `wandb` of any project (may
    stand without --folder=)"""
    out: Path | None = None
    """the HTML file; default: report.html in the folder"""
    csv: Path | None = None
    """also write the results table here, as committed evidence"""
    open: bool = False
    """show the file in the browser"""
    max_mb: float = html.MAX_MB
    """pictures to embed, in megabytes; above this, fewer steps of each run are shown"""
    metric: str | None = None
    """runs of other projects only: the logged figure that they are judged by; default: found by its name"""
    goal: Literal["minimize", "maximize"] | None = None
    """runs of other projects only: which value of the metric is the better one; default: as its name says"""
    publish: bool = False
    """also make a saved workspace and a report on W&B; the runs have to be there"""
    entity: str | None = None
    """with --publish: W&B entity (user or team); default: that of the runs, else yours"""
    project: str | None = None
    """with --publish: W&B project; default: that of the runs"""


def read_runs(flags: Flags) -> read.Sweep:
    """The runs in the folder: ours, else those that W&B's client kept of any script. Raises UserError.

    Either is read once: a large folder on a network file system takes its time.
    """
    place = wandb_files.place_of(flags.folder)
    sweep = read.read_sweep(flags.folder)
    if place is None or is_ours(sweep):
        if flags.metric or flags.goal:
            given = f"--metric={flags.metric}" if flags.metric else f"--goal={flags.goal}"
            raise UserError(
                f"{given}: only for runs of other projects; these are judged by their own headline"
            )
        if not sweep.runs and not sweep.text:
            raise UserError(
                f"{flags.folder}: holds no runs, neither run folders of ours nor W&B's run-* or offline-run-*"
            )
        return sweep
    if flags.publish:
        raise UserError(
            "--publish: only for runs of ours; `wandb sync` brings a run of W&B's own folder there"
        )
    return wandb_files.read_wandb(place, flags.metric, flags.goal)


def is_ours(sweep: read.Sweep) -> bool:
    """Whether scripts of ours made these runs: other projects may have a config.json or a sweep.yaml."""
    begun = any((run.folder / name).exists() for run in sweep.runs for name in (STATUS, METRICS))
    return begun or bool(sweep.open_trials) or any("family" in run.config for run in sweep.runs)


def write(flags: Flags) -> None:
    """Write all that is asked for, and print where it is."""
    if not flags.folder.is_dir():
        raise UserError(f"{flags.folder}: no such folder")
    sweep = read_runs(flags)
    if sweep.foreign:
        planned, out = len(sweep.runs), flags.out or flags.folder / REPORT
    else:
        planned, out = begin.planned(flags.folder, sweep), flags.out
    page = html.write_report(sweep, out, flags.max_mb, planned)
    print(page)
    for line in sweep.header.splitlines() if sweep.foreign else ():
        print(line)
    if flags.open:
        webbrowser.open(page.resolve().as_uri())
    if flags.csv:
        rows = read.results_csv(sweep, flags.csv)
        print(f"{flags.csv} ({rows} runs that came to an end)")
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
            raise  # `main` tells what mends it
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main(Flags, run, positional="folder")
