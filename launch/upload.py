"""Upload runs to W&B that were trained offline, or that W&B has only in part, and create their W&B sweep.

    python launch/upload.py runs/bvae [--dry_run] [--entity=E] [--project=P]

The folder is a sweep's folder, any folder of run folders, or one run folder. What is done depends on what W&B
has of a run. If it has nothing, the run's offline segment is synced, which includes system metrics, console
and packages. If it has some rows, or no segment is whole, the W&B run is resumed by its id and gets the rows
that it lacks; a sync would write the existing rows twice. `uploaded.json` in a run folder says that W&B
confirmed every row; while it matches the folder, the run is skipped (delete it to ask W&B again). After any
interruption the same command continues. A run that can't be read, or whose folder can't be written, does not
stop the others: a line says why, and the exit code is 1.
"""

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table

from launch.results import read, wandb_runs
from launch.results.read import Run, Sweep
from launch.results.wandb_runs import Failed, Job, Nothing, Stop, There, Unreadable
from research.common import lease as leases
from research.common.commandline import EXIT_PREEMPTED, main
from research.common.folder import CONFIG, METRICS, SWEEP, UPLOADED, WANDB_SWEEP, read_json, write_json
from research.common.messages import UserError, console, escape

SETTLE_S = 15.0  # W&B may count rows some seconds after it has received them


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Upload runs to W&B, and create the W&B sweep that they belong to."""

    folder: str
    """a sweep's folder, a folder of run folders, or one run folder (--folder= may be left out)"""
    dry_run: bool = False
    """only print what would be done; change nothing, neither here nor on W&B"""
    entity: str | None = None
    """W&B entity (user or team); default: that of each run's flags, else yours"""
    project: str | None = None
    """W&B project; default: that of each run's flags"""


class Held(Exception):
    """Another process is training this run, or uploading it."""


class Upload:
    """Uploads the runs of a folder one after the other."""

    def __init__(self, flags: Flags, sweep: Sweep):
        self.flags, self.sweep, self.watch = flags, sweep, leases.Watch()
        self.counts: Counter[str] = Counter()
        self.up: list[Job] = []  # the runs of which W&B has everything

    def place(self, job: Job) -> tuple[str, str]:
        return job.entity or wandb_runs.own_entity(), job.project

    def job(self, run: Run) -> Job:
        """The run as it is now. Raises Unreadable, or Nothing if there is nothing to upload."""
        now = read.read_run(run.folder)
        if f"{CONFIG} is missing" in (now.problem or "") and not now.rows:
            raise Nothing("has not begun")
        if now.problem not in (None, f"{METRICS} is missing"):
            raise Unreadable(now.problem)
        if not now.flags.get("project") or not now.config.get("wandb_id"):
            raise Unreadable(f"{CONFIG} does not say its W&B id and project")
        now.trial = run.trial
        try:
            job = Job(now, self.sweep.varied, self.flags.entity, self.flags.project)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Unreadable(of_file(error)) from None
        if not job.rows:
            raise Nothing("has logged nothing yet")
        return job

    def there(self, job: Job, wait: bool = False) -> There:
        """What W&B has of the run. wait: wait until that is every row, but at most SETTLE_S."""
        until = time.monotonic() + (SETTLE_S if wait else 0)
        while True:
            found = wandb_runs.ask(*self.place(job), [job.id]).get(job.id, There())
            if found.rows >= job.rows or time.monotonic() >= until:
                return found
            time.sleep(SETTLE_S / 8)

    def bring(self, run: Run) -> str:
        """Upload a run and its tasks while holding its lease; returns what was done, in words, or '' if it
        was up to date. Raises Held if another process has the lease.
        """
        job = self.job(run)
        if job.up_to_date and not job.tasks:
            self.up.append(job)
            return ""
        if (lease := leases.acquire(job.folder, self.watch)) is None:
            raise Held
        try:
            lease.update(start_step=-1)  # if we are killed, this is not an attempt to train that died
            lease.start_beating()
            job = self.job(run)  # it may have changed before the lease was ours
            done = [] if job.up_to_date else self._bring(job)
            done += [self._bring_task(job, segment) for segment in job.tasks]
        finally:
            lease.release("uploaded")
        self.up.append(job)
        return ", ".join(done)

    def _bring(self, job: Job) -> list[str]:
        done, output, there = [], "", self.there(job)
        if there.rows < job.rows and (there.state or (job.segment and wandb_runs.synced(job.segment))):
            there = self.there(job, wait=True)  # if W&B counted late, we would send rows twice
        todo = job.todo(there)
        if todo == "sync":
            output = wandb_runs.sync(job.segment)
            done.append("synced")
            there = self.there(job, wait="View run" in output)
            todo = job.todo(there)
        if todo != "confirm":
            lacks = job.rows - there.rows
            config = {k: v for k, v in job.config.items() if k not in ("flags", "result_flags")}
            shown = config | job.run.flags
            more = {} if there.state else job.identity()
            with wandb_runs.resumed(*self.place(job), job.id, config=shown, **more) as wandb_run:
                job.send(wandb_run, there, shown)
            done.append(f"{lacks} rows sent" if lacks else "completed")
            there = self.there(job, wait=True)
        if there.rows != job.rows:
            last_lines = wandb_runs.tail(output)
            raise Failed(f"W&B has {there.rows} of {job.rows} rows; the same command continues\n{last_lines}")
        entity, project = self.place(job)
        job.marker = {
            "wandb_id": job.id,
            "entity": entity,
            "project": project,
            "url": there.url,
            "rows": job.rows,
            "status": job.status,
        }
        write_json(job.folder / UPLOADED, job.marker)
        return [f"{', '.join(done) or 'was there'}: {there.url}"]

    def _bring_task(self, job: Job, segment: Path) -> str:
        """Sync a task's segment, once. If W&B already has its row, a sync was killed, and only files are
        missing.
        """
        (file,), (entity, project) = segment.glob("*.wandb"), self.place(job)
        task, wandb_id = segment.parents[1].name, segment.name.rpartition("-")[2]
        output, mark = "", file.with_name(f"{file.name}.synced")
        if not wandb_runs.ask(entity, project, [wandb_id]).get(wandb_id, There()).rows:
            output = wandb_runs.sync(segment, "--entity", entity, "--project", project)
            if not wandb_runs.ask(entity, project, [wandb_id]).get(wandb_id, There()).rows:
                mark.unlink(missing_ok=True)
        else:
            with wandb_runs.resumed(entity, project, wandb_id) as wandb_run:
                wandb_runs.save_files(wandb_run, segment)
                wandb_run.finish(exit_code=0)
            mark.touch()
        if not mark.exists():
            why = "was not synced; if a kill damaged it, run the task again"
            raise Failed(f"its task {task} {why}\n{wandb_runs.tail(output)}")
        return f"task {task} synced"

    def each(self, runs: list[Run]) -> list[Run]:
        """Upload these runs, with a line for each; returns those that another process holds."""
        held = []
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=len(runs))
            for run in runs:
                name = escape(run.folder.name)
                progress.update(bar, description=name)
                try:
                    message = self.bring(run)
                    kind = "uploaded" if message else "up to date"
                except Held:
                    held.append(run)
                    continue
                except Nothing as why:
                    kind, message = "without rows", str(why)
                except Failed as error:
                    kind = "unreadable" if isinstance(error, Unreadable) else "failed"
                    message = f"{kind}: {str(error).strip()}"
                except OSError as error:
                    if error.filename is None:  # not about a file of the run, but our output or a connection
                        raise
                    kind, message = "failed", f"failed: {of_file(error)}"
                except Stop:
                    console.print(f"{name}  [red]was not uploaded[/]")
                    raise
                self.counts[kind] += 1
                if message:
                    console.print(f"{name}  {escape(message)}")
                progress.advance(bar)
        return held

    def abandoned(self, held: list[Run]) -> list[Run]:
        """The runs whose holder, on another machine, turns out to be gone. Prints a line for each of the
        others.
        """
        began, gone = time.monotonic(), []
        while held:
            for run in list(held):
                n, info = leases.newest(run.folder)
                idle, watched = self.watch.idle_s(run.folder, n, info), time.monotonic() - began
                if idle == float("inf"):
                    gone.append(run)
                elif leases.is_local(info) or idle + 2 * leases.BEAT_S < watched:  # its counter has moved
                    console.print(f"{escape(run.folder.name)}  is being trained: skipped")
                    self.counts["being trained"] += 1
                else:
                    continue
                held.remove(run)
            time.sleep(1 if held else 0)
        return gone

    def preview(self) -> None:
        """Print a table of what would be done; this asks W&B, but changes nothing."""
        table = Table("run", "would be", box=SIMPLE_HEAD, pad_edge=False)
        for run in self.sweep.runs:
            try:
                job = self.job(run)
                what = "skipped: up to date"
                if not job.up_to_date:
                    there = self.there(job)
                    todo = job.todo(there)
                    what = {
                        "sync": f"synced, {job.rows} rows",
                        "send": f"sent {job.rows - there.rows} rows",
                        "complete": "completed",
                        "confirm": "confirmed",
                    }[todo]
                what += "".join(f", task {segment.parents[1].name} synced" for segment in job.tasks)
                if not self.watch.stale(run.folder, *leases.newest(run.folder)):
                    what = "left alone: being trained"
            except Nothing as why:
                what = f"skipped: {why}"
            except Failed as why:
                self.counts["failed"] += 1
                what = f"skipped: {why}"
            except OSError as error:
                if error.filename is None:
                    raise
                self.counts["failed"] += 1
                what = f"skipped: {of_file(error)}"
            table.add_row(escape(run.folder.name), escape(what))
        console.print(table)

    def run(self) -> None:
        """Upload all runs, then make the W&B sweep to which they belong."""
        self.each(self.abandoned(self.each(self.sweep.runs)))
        if self.sweep.problem:
            self.counts["unreadable"] += 1
            console.print(f"[red]{escape(self.sweep.problem)}[/]")
        elif self.sweep.spec and self.up:
            self.attach()
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts.items() if n)
        console.print(f"[bold]{escape(self.sweep.name)}[/]: {counts}")
        for url in dict.fromkeys(job.marker["url"].partition("/runs/")[0] for job in self.up):
            console.print(escape(url))

    def attach(self) -> None:
        """Make a W&B sweep from the frozen YAML, with these runs as its prior runs, or add new runs to it."""
        path, ids = self.sweep.folder / WANDB_SWEEP, [job.id for job in self.up]
        kept = read_json(path) or {}
        begun = bool(kept)  # if there is no id, an earlier upload was killed after it had begun
        new = [i for i in ids if i not in kept.setdefault("runs", [])]
        if not kept.get("id") and (self.counts["failed"] or self.counts["being trained"]):
            console.print("the W&B sweep is created once all runs are uploaded: run the same command again")
            return  # W&B may refuse to add runs later
        entity, project = self.place(self.up[0]) if new else (kept["entity"], kept["project"])
        name = self.sweep.spec.get("name") or self.sweep.name
        if not kept.get("id"):
            kept = {"id": None, "entity": entity, "project": project, "url": None, "runs": []}
            write_json(path, kept)
            made = wandb_runs.make_sweep(self.sweep.spec | {"name": name}, entity, project, ids, begun)
            url = self.up[0].marker["url"].partition("/runs/")[0] + f"/sweeps/{made}"
            write_json(path, kept := kept | {"id": made, "url": url, "runs": ids})
        elif new and (entity, project) == (kept["entity"], kept["project"]):
            kept["runs"] += wandb_runs.add_to_sweep(kept, self.sweep.folder / SWEEP, name, new)
            write_json(path, kept)
        if left := [i for i in ids if i not in kept["runs"]]:
            console.print(f"on W&B, but not in its sweep {kept['id']}: {', '.join(left)}")
        console.print(f"sweep: {escape(str(kept['url']))}")


def of_file(error: Exception) -> str:
    """An error about a file in words: which file it is, and why."""
    name = getattr(error, "filename", None)
    return f"{os.fsdecode(name)}: {read.why(error)}" if name is not None else read.why(error)


def run(flags: Flags) -> None:
    try:
        sweep = read.read_sweep(flags.folder)
    except FileNotFoundError:
        raise UserError(f"--folder={flags.folder}: no such folder") from None
    except OSError as error:
        raise UserError(f"--folder={flags.folder}: cannot be read ({read.why(error)})") from None
    if not sweep.runs:
        raise UserError(f"--folder={flags.folder}: holds no runs")
    own = [run.place for run in sweep.runs if run.config.get("flags")]
    places = {(flags.entity or entity or "", flags.project or str(project)) for entity, project in own}
    if sweep.spec and len(places) > 1:
        named = ", ".join(sorted("/".join(part for part in place if part) for place in places))
        raise UserError(
            f"a sweep's runs go to one place on W&B, not to {named}: give --project (and --entity)"
        )
    ids = Counter(str(run.config["wandb_id"]) for run in sweep.runs if run.config.get("wandb_id"))
    if twice := [name for name, n in ids.items() if n > 1]:
        folders = [run.folder.name for run in sweep.runs if run.config.get("wandb_id") == twice[0]]
        raise UserError(f"{' and '.join(folders)} have the same W&B id, {twice[0]}: one has to go elsewhere")
    wandb_runs.set_environment()
    upload = Upload(flags, sweep)
    try:
        if flags.dry_run:
            upload.preview()
        else:
            wandb_runs.alone(sweep.folder.parent if sweep.runs[0].folder == sweep.folder else sweep.folder)
            upload.run()
    except Stop as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; the same command continues")
        sys.exit(EXIT_PREEMPTED)
    sys.exit(1 if upload.counts["failed"] or upload.counts["unreadable"] else 0)


if __name__ == "__main__":
    main(Flags, run, positional="folder")
