"""The report of a sweep as one HTML file that contains its numbers, its pictures and its code."""

import base64
import gzip
import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.results import page_data, read
from launch.results.media import Media, media_of
from launch.results.read import Sweep
from launch.results.words import cell, sweep_command, what_was_run
from research.common.folder import COMPLETE, REPORT, SOURCE_DIFF, SWEEP, write_bytes
from research.common.messages import UserError, readable

PAGE = Path(__file__).with_name("page")
# in the order in which readers and browsers need them
SCRIPTS = ("basics", "state", "filter", "pen", "axes", "runs", "parallel", "curves", "matter", "pictures")
SCRIPTS += ("compare", "run_page", "main")
MAX_MB = 25.0  # of pictures and videos in the file
STATIC_ROWS = 200  # runs in the table that a browser without JavaScript shows


def render(
    sweep: Sweep, max_mb: float = MAX_MB, planned: int | None = None, folder: str | None = None
) -> tuple[str, Media]:
    """The report as HTML, and its media.

    max_mb: room for pictures and videos in the file. What does not fit belongs beside the report, in
    `folder`; if that is None, it is left out. planned: how many runs there will be; None: as many as the
    sweep's YAML says.
    """
    import jinja2

    df = read.table(sweep)
    media = media_of(sweep, max_mb, folder)
    data = whole(sweep, df, planned) | {"media": media.data}
    packed = gzip.compress(json.dumps(data, allow_nan=False, separators=(",", ":")).encode(), 6, mtime=0)
    style = (PAGE / "page.css").read_text("utf-8")
    script = "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string((PAGE / "page.html.j2").read_text("utf-8")).render(
        name=sweep.name,
        about=[(label, page_data.in_parts(text)) for label, text in data["about"]],
        state=data["state"],
        source=data["source"],
        style=style,
        script=script,
        script_hash=_digest(script),
        on_disk="'self' file: " if media.beside else "",
        files_text=media.text,
        data=base64.b64encode(packed).decode(),
        columns=[c for c in data["columns"] if not c["hidden"]],
        rows=[
            [cell(row, c["name"])[0] for c in data["columns"] if not c["hidden"]]
            for row in read.best_first(df).head(STATIC_ROWS).to_dict("records")
        ],
        static_rows=STATIC_ROWS,
    )
    return html, media


def _digest(text: str) -> str:
    """The hash by which a Content-Security-Policy allows one script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def whole(sweep: Sweep, df: Any, planned: int | None) -> dict[str, Any]:
    """Everything that the page's code reads, except the media."""
    from launch.results import importance  # scikit-learn takes a second to import

    varied = sweep.varied
    figures = page_data.task_figures(sweep.runs)
    columns = page_data.columns_of(sweep, df, figures)
    states = df["status"].value_counts().to_dict()
    planned = read.expected(sweep) if planned is None else planned
    attrs = df.attrs
    mattered = importance.what_mattered(df, attrs["by"], "minimize" if attrs["ascending"] else "maximize")
    runs = page_data.runs_of(sweep, df, columns, figures)
    about = page_data.about_of(sweep)
    about.append(["What was run", what_was_run(sweep, varied)])
    return {
        "name": sweep.name,
        "about": about,
        "state": page_data.state_line(states, len(sweep.open_trials)),
        "source": page_data.source_line(sweep),
        "warning": page_data.warning(sweep, _done(sweep, states), planned),
        "columns": columns,
        "by": attrs["by"],
        "ascending": attrs["ascending"],
        "headline": {"name": attrs["headline"], "goal": attrs["goal"]},
        "metric": attrs["metric"] and {"name": attrs["metric"], "goal": attrs["metric_goal"]},
        "confirmed": attrs["confirmed"],
        "axes": page_data.default_axes(columns, runs, attrs["by"]),
        "runs": runs,
        "matter": importance.for_json(mattered) | {"of": attrs["headings"].get(attrs["by"], attrs["by"])},
        "open": [trial.get("flags") or {} for trial in sweep.open_trials],
        "curves": page_data.curves_of(
            sweep, [attrs["metric"] or "", attrs["headline"], *(sweep.figures or ())]
        ),
        "sweep": {"file": SWEEP, "text": sweep.text, "command": sweep_command(sweep) if sweep.text else None},
        "diff_file": SOURCE_DIFF,
        "foreign": sweep.foreign,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _done(sweep: Sweep, states: dict[str, int]) -> int:
    """How many runs have a result; stopped runs do if the sweep itself stops runs early."""
    done = [*COMPLETE, "stopped"] if sweep.spec.get("early_terminate") else COMPLETE
    return sum(states.get(state, 0) for state in done)


def write_report(
    found: Sweep | Path | str,
    out: Path | str | None = None,
    max_mb: float = MAX_MB,
    planned: int | None = None,
) -> Path:
    """Write the report of a sweep, or of a sweep's folder, to `out` (default: REPORT in the folder); returns
    its path.

    Pictures that do not fit into it are in the folder `<its name>_files` beside it. UserError, in one line:
    the folder does not exist or has no runs.
    """
    try:
        sweep = found if isinstance(found, Sweep) else read.read_sweep(found)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    if not sweep.runs:
        raise UserError(f"{sweep.folder}: holds no runs")
    out = Path(out or sweep.folder / REPORT)
    beside = out.with_name(f"{out.stem}_files")
    html, media = render(sweep, max_mb, planned, beside.name)
    for name, path in media.beside.items():
        if not (beside / name).is_file():  # names are hashes of the content, so an existing file is equal
            beside.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, beside / name)
    write_bytes(out, readable(html).encode())
    return out
