"""What a training run prints while it runs, and at its end.

On a terminal it is one live line; elsewhere, in a log, a line for each evaluation.
"""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from research.common.messages import escape, news

REFRESH_S = 0.25  # the clock is read at every step, the line is redrawn four times a second
BAR, WIDE = 20, 120  # columns of the bar, and of a terminal that has room for it


class Line:
    """The line of one run, from `start` to `stop`. headline: the key that is shown beside the loss."""

    def __init__(self, steps: int, batch_size: int, headline: str):
        self.steps, self.batch_size, self.headline = steps, batch_size, headline
        self._began, self._first, self._shown = 0.0, 0, 0.0  # when, at which step, and when it was last drawn
        self._value: float | None = None
        self._best: float | None = None
        self._live: Progress | None = None

    def start(self, step: int) -> None:
        """Begin to count at `step`."""
        self._began, self._first = time.perf_counter(), step
        if news.is_terminal and not news.quiet:
            bar = [BarColumn(BAR)] if news.width >= WIDE else []
            columns = (*bar, TextColumn("{task.description}", table_column=Column(no_wrap=True)))
            self._live = Progress(*columns, console=news, auto_refresh=False, transient=True)
            self._live.add_task("", total=self.steps, completed=step)
            self._live.start()

    def update(self, step: int, row: Mapping[str, Any], best: float | None, loss: Any = None) -> None:
        """Show what was logged at `step`, which may be nothing. loss: the latest, read only to be shown."""
        if news.quiet:
            return
        now = time.perf_counter()
        evaluated = self.headline in row
        if evaluated:
            self._value, self._best = row[self.headline], best
        if self._live is None:
            if evaluated:
                news.print(escape(self.text(step, now, loss)))
        elif now - self._shown > REFRESH_S:
            self._shown = now
            room = news.width - (BAR + 2 if news.width >= WIDE else 1)
            text = escape(self.text(step, now, loss, room))
            self._live.update(self._live.task_ids[0], completed=step, description=text)
            self._live.refresh()

    def text(self, step: int, now: float, loss: Any = None, room: float = math.inf) -> str:
        """step 1,200 of 4,690  loss 142.1  val/elbo_nats -139.8 (best -139.8)  9,120 examples/s  0:21 left

        In a narrower terminal the speed is left out first, then the best value.
        """
        parts = {"step": f"step {step:,} of {self.steps:,}"}
        if loss is not None:
            parts["loss"] = f"loss {float(loss):.4g}"
        if self._value is not None:
            parts["value"] = f"{self.headline} {self._value:.5g}"
            if self._best is not None:
                parts["best"] = f"(best {self._best:.5g})"
        if step > self._first:
            step_s = (now - self._began) / (step - self._first)  # evaluations and pictures included
            parts["speed"] = f"{self.batch_size / step_s:,.0f} examples/s"
            if step < self.steps:
                parts["left"] = f"{clock(step_s * (self.steps - step))} left"
        for name in ("speed", "best", "loss"):
            if len("  ".join(parts.values())) > room:
                parts.pop(name, None)
        return "  ".join(parts.values()).replace("  (best", " (best")

    def stop(self) -> None:
        """Remove the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def clock(seconds: float) -> str:
    """3725 → '1:02:05', 65 → '1:05'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def show_figures(title: str, values: Mapping[str, Any], most: int = 40) -> None:
    """Print the numbers and words among nested `values` as a table, at most `most` of them."""
    rows = list(_flat(values))
    if not rows:
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for name, text in rows[:most]:
        table.add_row(escape(name), escape(text))
    news.print(f"[bold]{escape(title)}[/]")
    news.print(table, soft_wrap=False)
    if len(rows) > most:
        news.print(f"  and {len(rows) - most} more")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names, joined by /, and values as text; lists and long texts are left out."""
    for name, value in values.items():
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is None:
            yield f"{prefix}{name}", "–"
        elif isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= 60):
            yield f"{prefix}{name}", f"{value:,}" if type(value) is int else str(value)
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:.5g}" if math.isfinite(value) else str(value)
