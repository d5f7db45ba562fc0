"""Write one self-contained HTML file that compares the runs of a sweep.

    python launch/report.py runs/bvae [--out=FILE.html] [--csv=FILE.csv] [--open] [--publish]

The file holds its numbers, pictures and plotly itself: it opens from a file path, offline, and loads nothing.
With --publish a saved workspace and a report are made on W&B too (launch/results/wandb_report.py).

What can't be read of a run is a row that says so. Exit code 0: all is written; 1: W&B does not answer, or the
disk is full; 2: a flag is wrong, there is nothing to report, or the report may not be written there.
"""

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.results import html, read
from launch.sweep import begin
from research.common.commandline import NO_RIGHT, NO_SPACE, main
from research.common.messages import UserError, console, escape


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Write one HTML file that compares the runs of a sweep."""

    folder: Path
    """a sweep's folder, a folder of run folders, or one run folder (may stand without --folder=)"""
    out: Path | None = None
    """the HTML file; default: report.html in the folder"""
    csv: Path | None = None
    """also write the results table here, as committed evidence"""
    open: bool = False
    """show the file in the browser"""
    max_mb: float = html.MAX_MB
    """pictures to embed, in megabytes; above this, fewer steps of each run are shown"""
    publish: bool = False
    """also make a saved workspace and a report on W&B; the runs have to be there"""
    entity: str | None = None
    """with --publish: W&B entity (user or team); default: that of the runs, else yours"""
    project: str | None = None
    """with --publish: W&B project; default: that of the runs"""


def write(flags: Flags) -> None:
    """Write all that is asked for, and print where it is."""
    if not flags.folder.is_dir():
        raise UserError(f"{flags.folder}: no such folder")
    sweep = read.read_sweep(flags.folder)  # once: a large folder on a network file system takes its time
    planned = begin.planned(flags.folder, sweep)
    page = html.write_report(sweep, flags.out, flags.max_mb, planned)
    print(page)
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
