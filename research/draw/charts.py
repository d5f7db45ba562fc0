"""Charts as uint8 pictures (H, W, 3): curves, bars, histogram, heat map, scatter.

They are drawn through matplotlib's object interface on an Agg canvas, never through pyplot, so a background
thread may draw them. matplotlib is imported with the first chart. Text is shown as it is: a `$` in a label
does not start a formula.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Okabe & Ito
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
# for classes: tab10 of matplotlib
TEN = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")
TEN += ("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
LETTER = 0.085  # width of a letter in a 9-point label, in inches


def chart(width: float, height: float, title: str, draw: Callable, beside: float = 0.0) -> np.ndarray:
    """A picture of (width + beside) × height, in units of 100 pixels. `draw(ax)` fills the axes, which are
    `width` wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width + beside, height), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    draw(ax)
    ax.set_title(textwrap.fill(title, int(9 * width)), fontsize=11)
    powers = ax.get_yticklabels(which="both") if ax.get_yscale() == "log" else []  # formulas by matplotlib
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(text in powers)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _longest(labels) -> int:
    return max((len(str(label)) for label in labels), default=0)


def class_colors(n: int) -> np.ndarray:
    """Colours (n, 3) in [0, 1] that the eye can distinguish: ten well-known ones, then repeatedly the one
    that is farthest from white and from all colours before it. Distances are in CIELAB, where they are about
    as large as they look.
    """
    chosen = np.array([[int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)] for name in TEN])
    if n <= len(chosen):
        return chosen[:n]
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 12)] * 3), axis=-1).reshape(-1, 3)
    places = _lab(grid)
    is_ink = (places[:, 0] > 30) & (places[:, 0] < 85)  # neither nearly black nor pale on white
    grid, places = grid[is_ink], places[is_ink]
    taken = np.concatenate([_lab(chosen), _lab(np.ones((1, 3)))])
    distance = np.linalg.norm(places[:, None] - taken, axis=-1).min(1)
    while len(chosen) < n:
        best = distance.argmax()
        chosen = np.concatenate([chosen, grid[best : best + 1]])
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=-1))
    return chosen


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (…, 3) in [0, 1] as CIELAB (…, 3), white point D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(xyz / (0.9505, 1.0, 1.089)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def curves(
    series: Mapping[str, tuple],
    xlabel: str,
    ylabel: str,
    title: str = "",
    logy: bool = False,
    logx: bool = False,
) -> np.ndarray:
    """Lines, name → (x, y). Values that are not finite leave gaps, with logy also those that are not
    positive. logx: equal steps along x double it, so x must be positive.
    """

    def draw(ax):
        lines, dashes = [], ("-", "--", ":")
        few = len(series) <= len(COLORS) * len(dashes)
        colors = COLORS if few else class_colors(len(series))
        for i, (x, y) in enumerate(series.values()):
            style = {"color": colors[i % len(colors)], "linestyle": dashes[i // len(colors)]}
            marker = "o" if len(x) <= 20 else ""  # a line through one point would be invisible
            lines += ax.plot(x, y, marker=marker, markersize=3.5, linewidth=1.5, **style)
        if logy:
            ax.set_yscale("log", nonpositive="mask")
        if logx:
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")  # 16, not matplotlib's 2⁴
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.grid(alpha=0.25)
        if len(lines) > 6:  # such a long legend would cover the lines
            ax.figure.legend(lines, list(series), frameon=False, fontsize=9, loc="outside right upper")
        elif len(lines) > 1:
            ax.legend(lines, list(series), framealpha=0.8, edgecolor="none", fontsize=9)

    beside = 0.6 + LETTER * _longest(series) if len(series) > 6 else 0.0
    return chart(6.4, max(4.0, 0.4 + 0.205 * len(series)), title, draw, beside)


def bars(
    values, labels: Sequence | None = None, title: str = "", ylabel: str = "", xlabel: str = ""
) -> np.ndarray:
    """One bar per value (n,). Labels are 0 … n − 1 by default; they are turned if they would touch."""
    values = np.asarray(values, dtype=float)
    labels = [str(label) for label in (range(len(values)) if labels is None else labels)]
    width = min(14.0, max(5.0, 0.9 + 0.29 * len(values)))
    crowded = _longest(labels) * LETTER > 0.9 * (width - 0.9) / max(1, len(values))

    def draw(ax):
        ax.bar(range(len(values)), values, color=COLORS[0])
        ax.set_xticks(range(len(values)), labels, fontsize=9, rotation=90 if crowded else 0)
        ax.set_xlim(-0.6, len(values) - 0.4)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.grid(axis="y", alpha=0.25)

    return chart(width, 3.4, title, draw)


def histogram(values, title: str = "", xlabel: str = "", n_bins: int = 50) -> np.ndarray:
    """A histogram of values of any shape. The label of the axis says how many of them are not finite."""
    values = np.asarray(values, dtype=float).ravel()
    finite = values[np.isfinite(values)]
    note = f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else ""

    def draw(ax):
        ax.hist(finite, bins=n_bins, color=COLORS[0])
        ax.set(xlabel=xlabel + note, ylabel="count")
        ax.grid(axis="y", alpha=0.25)

    return chart(5.0, 3.4, title, draw)


def heatmap(
    matrix, row_labels: Sequence, col_labels: Sequence, title: str = "", fmt: str = ".2f"
) -> np.ndarray:
    """A matrix (R, C) as coloured cells with their values in the format `fmt` ('': without values). Values
    that are not finite are grey.
    """
    matrix = np.asarray(matrix, dtype=float)
    n_rows, n_cols = matrix.shape
    texts = [[format(value, fmt) if fmt and np.isfinite(value) else "" for value in row] for row in matrix]
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
            text.set_in_layout(False)  # it lies inside; measuring hundreds of texts takes most of a second

    height = 0.5 + 0.06 * _longest(col_labels) + 0.22 * n_rows
    return chart(margin + cell * n_cols, max(2.0, height), title, draw)


def reach_of(points, paths: Mapping[str, Any] | None = None) -> float:
    """How far the axes of `scatter` go from 0: a whole number, at least 4, that has room for 99.9 % of the
    coordinates of points (N, 2) and for all of the paths.
    """
    points = np.asarray(points, dtype=float)
    sizes = np.abs(points[np.isfinite(points)])
    bulk = np.quantile(sizes, 0.999) if len(sizes) else 0.0
    return max([4.0, np.ceil(bulk), *(np.ceil(np.abs(p).max() + 0.2) for p in (paths or {}).values())])


def scatter(
    points,
    labels,
    names: Sequence[str],
    title: str = "",
    rings: Sequence[float] = (),
    paths: Mapping[str, Any] | None = None,
    axes: tuple[str, str] = ("", ""),
    reach: float | None = None,
) -> np.ndarray:
    """Points (N, 2) coloured by labels (N,), which are indices into `names`.

    The name of a class also stands at the one of its points that is nearest to all the others; if a class
    lies in two places, its mean would lie in neither. rings: radii of circles around 0, in standard
    deviations of the prior; paths: name → (T, 2), lines with their ends marked; axes: names of the two axes;
    reach: how far both axes go from 0, by default `reach_of` the points and paths.
    """
    points, labels = np.asarray(points, dtype=float), np.asarray(labels)
    reach = reach_of(points, paths) if reach is None else reach
    present = [k for k in range(len(names)) if (labels == k).any()]
    circles = [f"prior, {', '.join(f'{r:g}' for r in rings)} sd"] if len(rings) else []
    columns = 1 + (len(present) + len(paths or {}) + len(circles)) // 28

    def draw(ax):
        import matplotlib
        from matplotlib.patheffects import withStroke

        colors = class_colors(len(names))
        halo, handles = [withStroke(linewidth=2.5, foreground="white")], []
        size = min(25.0, max(4.0, 6000 / max(1, len(points))))
        ax.scatter(*points.T, s=size, c=colors[labels], linewidths=0, alpha=0.7)
        for k in present:  # all points are one artist and keep their order, so that no class lies on top
            handles.append(ax.scatter([], [], s=36, color=colors[k]))
            own = points[labels == k][:300]
            at = own[np.linalg.norm(own[:, None] - own, axis=-1).sum(1).argmin()].clip(-reach, reach)
            style = {"weight": "bold", "path_effects": halo, "fontsize": 10 if len(present) <= 20 else 8}
            ax.annotate(names[k], at, ha="center", va="center", **style)
        for radius in rings:
            circle = matplotlib.patches.Circle((0, 0), radius, fill=False, ls="--", lw=0.8, ec="#666666")
            ax.add_patch(circle)
        shown = [names[k] for k in present]
        for i, (name, way) in enumerate((paths or {}).items()):
            handles += ax.plot(*np.asarray(way).T, "-" if i == 0 else "--", color="black", lw=1.8)
            ax.plot(*np.asarray(way)[[0, -1]].T, "o", color="black", mfc="white", ms=7)
            shown.append(name)
        for name in circles:
            handles += ax.plot([], [], ls="--", lw=0.8, color="#666666")
            shown.append(name)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=axes[0], ylabel=axes[1])
        ax.figure.legend(handles, shown, frameon=False, fontsize=9, loc="outside right upper", ncols=columns)

    one = 0.6 + LETTER * _longest(names)  # width of a column of the legend; the last may have longer lines
    last = max(one, 0.6 + LETTER * _longest([*(paths or {}), *circles]))
    return chart(6.4, 6.4, title, draw, (columns - 1) * one + last)
