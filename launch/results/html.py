"""The report of a sweep as one HTML file that holds its numbers, pictures and plotly itself."""

from datetime import UTC, datetime
from pathlib import Path

from launch.results import read
from launch.results.curves import curves
from launch.results.media import pictures
from launch.results.read import Sweep
from launch.results.values import show, sort_key
from launch.results.words import cell, command, label, sweep_command, what_was_run
from research.common.folder import COMPLETE, REPORT, SOURCE_DIFF, SWEEP, write_bytes
from research.common.messages import UserError, readable

TEMPLATE = Path(__file__).with_name("report.html.j2")
MAX_MB = 25.0  # of pictures
FIGURES = 12  # of foreign runs in the table, at most; the CSV has all


def render(sweep: Sweep, max_mb: float = MAX_MB, planned: int | None = None) -> str:
    """The report as HTML. planned: how many runs there will be; None: as far as the sweep's YAML tells."""
    import jinja2
    from plotly.offline import get_plotlyjs

    varied, df = sweep.varied, read.table(sweep)
    further = sweep.figures[FIGURES:] if sweep.figures else []
    hidden = [name for name in ("headline", "steps") if sweep.foreign and df[name].isna().all()] + further
    order = sorted(range(len(df)), key=lambda i: [sort_key(sweep.runs[i].flags.get(f)) for f in varied])
    unwell = df[(df["status"] != "finished") | (df["reason"] != "")]
    states = df["status"].value_counts().to_dict()
    about = [*map(read.column_of, varied), "status", "step", "steps", "reason", "key"]
    commands = []
    for i in order:
        run = sweep.runs[i]
        commands.append((label(run, varied), command(run, sweep, varied), df["commit"][i]))
    first = [df.attrs["metric"] or "", df.attrs["headline"], *(sweep.figures or ())]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        sweep=sweep,
        sweep_file=SWEEP,
        diff_file=SOURCE_DIFF,
        sweep_command=sweep_command(sweep),
        varied=varied,
        flag_columns=read.flag_columns(df),
        attrs=df.attrs,
        what=what_was_run(sweep, varied),
        planned=read.expected(sweep) if planned is None else planned,
        done=_done(sweep, states),
        runs=read.best_first(df).drop(columns=["reason", *hidden]),
        seeds=read.summarise_over_seeds(df.drop(columns=hidden)),
        further=further,
        now=datetime.now(UTC),
        unwell=unwell[[name for name in about if name not in hidden]],
        cell=cell,
        show=show,
        states=states,
        plotly=get_plotlyjs(),
        curves=curves(sweep, varied, order, first),
        pictures=pictures(sweep, varied, order, max_mb),
        commands=commands,
    )


def _done(sweep: Sweep, states: dict[str, int]) -> int:
    """How many runs have their result; a stopped one has where the sweep itself stops runs early."""
    done = [*COMPLETE, "stopped"] if sweep.spec.get("early_terminate") else COMPLETE
    return sum(states.get(state, 0) for state in done)


def write_report(
    found: Sweep | Path | str,
    out: Path | str | None = None,
    max_mb: float = MAX_MB,
    planned: int | None = None,
) -> Path:
    """Write the report of a sweep's folder, or of what was read of it (default: REPORT in it); its path.

    UserError, one line, when the folder does not exist or holds no runs.
    """
    try:
        sweep = found if isinstance(found, Sweep) else read.read_sweep(found)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    if not sweep.runs:
        raise UserError(f"{sweep.folder}: holds no runs")
    out = Path(out or sweep.folder / REPORT)
    write_bytes(out, readable(render(sweep, max_mb, planned)).encode())
    return out
