"""Charts as uint8 pictures (H, W, 3): curves, bars, histogram, heat map.

Drawn through matplotlib's object interface on an Agg canvas, never pyplot, so a background thread may draw;
matplotlib itself is imported with the first chart. Text is literal: a `$` in a label starts no formula.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)  # Okabe & Ito
LETTER = 0.085  # inches that a letter of a 9-point label takes


def _chart(width: float, height: float, title: str, draw: Callable, beside: float = 0.0) -> np.ndarray:
    """A picture of (width + beside) × height hundred pixels; `draw(ax)` fills its axes, `width` wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width + beside, height), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    draw(ax)
    ax.set_title(textwrap.fill(title, int(9 * width)), fontsize=11)
    powers = ax.get_yticklabels(which="both") if ax.get_yscale() == "log" else []  # matplotlib's own formulas
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(text in powers)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _longest(labels) -> int:
    return max((len(str(label)) for label in labels), default=0)


def curves(
    series: Mapping[str, tuple], xlabel: str, ylabel: str, title: str = "", logy: bool = False
) -> np.ndarray:
    """Lines name → (x, y); values that are not finite (with logy also those not positive) leave gaps."""

    def draw(ax):
        lines = []
        for i, (x, y) in enumerate(series.values()):
            style = {"color": COLORS[i % len(COLORS)], "linestyle": ("-", "--", ":")[i // len(COLORS) % 3]}
            marker = "o" if len(x) <= 20 else ""  # a line through one point would be invisible
            lines += ax.plot(x, y, marker=marker, markersize=3.5, linewidth=1.5, **style)
        if logy:
            ax.set_yscale("log", nonpositive="mask")
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.grid(alpha=0.25)
        if len(lines) > 6:  # too many to lie over the lines
            ax.figure.legend(lines, list(series), frameon=False, fontsize=9, loc="outside right upper")
        elif len(lines) > 1:
            ax.legend(lines, list(series), framealpha=0.8, edgecolor="none", fontsize=9)

    beside = 0.6 + LETTER * _longest(series) if len(series) > 6 else 0.0
    return _chart(6.4, max(4.0, 0.3 + 0.19 * len(series)), title, draw, beside)


def bars(values, labels: Sequence | None = None, title: str = "", ylabel: str = "") -> np.ndarray:
    """One bar per value (n,); labels default to 0 … n − 1 and stand upright where they would touch."""
    values = np.asarray(values, dtype=float)
    labels = [str(label) for label in (range(len(values)) if labels is None else labels)]
    width = min(14.0, max(5.0, 0.9 + 0.29 * len(values)))
    crowded = _longest(labels) * LETTER > 0.9 * (width - 0.9) / max(1, len(values))

    def draw(ax):
        ax.bar(range(len(values)), values, color=COLORS[0])
        ax.set_xticks(range(len(values)), labels, fontsize=9, rotation=90 if crowded else 0)
        ax.set_xlim(-0.6, len(values) - 0.4)
        ax.set_ylabel(ylabel)
        ax.grid(axis="y", alpha=0.25)

    return _chart(width, 3.4, title, draw)


def histogram(values, title: str = "", xlabel: str = "", n_bins: int = 50) -> np.ndarray:
    """Counts of values (any shape); how many of them are not finite is said below the axis."""
    values = np.asarray(values, dtype=float).ravel()
    finite = values[np.isfinite(values)]
    note = f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else ""

    def draw(ax):
        ax.hist(finite, bins=n_bins, color=COLORS[0])
        ax.set(xlabel=xlabel + note, ylabel="count")
        ax.grid(axis="y", alpha=0.25)

    return _chart(5.0, 3.4, title, draw)


def heatmap(
    matrix, row_labels: Sequence, col_labels: Sequence, title: str = "", fmt: str = ".2f"
) -> np.ndarray:
    """Matrix (R, C) as coloured cells with their values in `fmt` ('' for none); not finite: grey."""
    matrix = np.asarray(matrix, dtype=float)
    n_rows, n_cols = matrix.shape
    texts = [[format(value, fmt) if fmt else "" for value in row] for row in matrix]
    cell = max(0.3, 0.15 + 0.07 * max(map(_longest, texts), default=0))
    margin = LETTER * max(_longest(row_labels), 0.7 * _longest(col_labels)) + 0.9

    def draw(ax):
        image = ax.imshow(np.ma.masked_invalid(matrix), aspect="auto")
        ax.set_facecolor("#bbbbbb")  # shows through where a value is masked
        ax.set_xticks(range(n_cols), col_labels, fontsize=9, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n_rows), row_labels, fontsize=9)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, aspect=35).outline.set_visible(False)
        for (i, j), value in np.ndenumerate(matrix):
            color = "white" if np.isfinite(value) and image.norm(value) < 0.6 else "black"
            text = ax.text(j, i, texts[i][j], ha="center", va="center", fontsize=8, color=color)
            text.set_in_layout(False)  # measuring hundreds of texts that lie inside takes most of a second

    height = 0.5 + 0.06 * _longest(col_labels) + 0.22 * n_rows
    return _chart(margin + cell * n_cols, max(2.0, height), title, draw)
