"""Run a W&B sweep YAML on this machine, with or without a W&B server.

    python launch/local.py sweeps/bvae.yaml
    python launch/local.py sweeps/bvae.yaml --set steps=300 --set 'seed=[0, 1]' --name=quick
    python launch/local.py sweeps/bvae.yaml --wandb=online      # a W&B sweep, its agents in the same slots

The same command again continues where it stopped: Ctrl-C once makes the workers save and stop.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.results import html, read
from launch.sweep import begin, plan, sweep_file
from launch.sweep.pool import Local, LocalFlags
from research.common.commandline import EXIT_PREEMPTED, main
from research.common.messages import UserError, console, counted, escape


@dataclass(frozen=True, kw_only=True)
class Flags(LocalFlags):
    """Run a W&B sweep YAML on this machine, with or without a W&B server."""


def run(flags: Flags) -> None:
    sweep = plan.read(flags.sweep, flags.set, flags.wandb == "online", flags.confirm)
    flags = plan.with_place(flags, sweep)
    queue, planned = begin.prepare(flags, sweep)
    folder, local = queue.folder, Local(flags, sweep, queue, planned)
    shown = ", ".join(sweep_file.searched(sweep.content["parameters"]))
    n_open, workers = begin.n_open(queue, planned), counted(len(local.slots), "worker")
    console.print(
        f"[bold]{escape(str(folder))}[/]: {counted(planned, 'trial')}, {n_open} of them open, {workers}; "
        f"varied: {shown or 'nothing'}"
    )
    local.run()
    results = read.read_sweep(folder)
    wide = console if console.is_terminal else Console(stderr=True, width=110)  # a log has no right edge
    read.print_table(read.table(results), wide, wide.width)
    page = html.write_report(results, planned=begin.planned(folder, results))
    console.print(f"report: {escape(str(page))}")
    for trial, values, others in local.proposer.confirmed():
        line = f"{local.progress.label(trial)}  {local.further_seeds(values, others)}"
        console.print(f"{trial.index:04d}  {escape(line)}")
    blind = local.proposer.blind()
    if (reason := local.proposer.exhausted) and not blind:
        console.print(f"ended early: {escape(reason)}")
    if reason := local.proposer.unconfirmed():
        console.print(escape(reason))
    failed = [row for row in local.progress.rows() if row.status == "failed"]
    for row in failed:
        if row.trial.key in local.failed_before:  # its line was printed by an earlier call
            console.print(f"{row.trial.index:04d}  {escape(f'{row.label}  failed: {row.reason}')}")
    if failed:
        console.print("some trials failed; --retry runs them again")
        sys.exit(1)
    if begin.n_open(queue, local.planned):
        console.print("stopped before the end; the same command continues")
        sys.exit(EXIT_PREEMPTED)
    if blind and not local.proposer.decides:
        mend = f"correct metric in {flags.sweep}; nothing is trained again for that"
        console.print(f"[yellow]{escape(blind)}[/]: {escape(mend)}")
    if blind and local.proposer.decides:
        raise UserError(f"{blind}: metric in {flags.sweep} must be one of those")


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
