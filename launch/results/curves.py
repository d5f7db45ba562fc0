"""Learning curves for the report, and the colours that its runs have everywhere."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from launch.results.read import Run, Sweep
from launch.results.values import show, sort_key
from launch.results.words import label

POINTS = 500  # of a curve, at most: beyond that nobody sees a difference and the file grows
DASHES = ["solid", "dash", "dot", "dashdot", "longdash"]


def colours(sweep: Sweep, varied: list[str]) -> list[str]:
    """A colour for each run, by its first varied flag: a scale for numbers, distinct hues for words."""
    from plotly.colors import qualitative, sample_colorscale

    values = [run.flags.get(varied[0]) if varied else run.title for run in sweep.runs]
    distinct = sorted({show(value): value for value in values}.items(), key=lambda item: sort_key(item[1]))
    n = len(distinct)
    only_numbers = all(sort_key(value)[0] == 0 for _, value in distinct)
    if n > 2 and only_numbers:
        # the light end of the scale cannot be read on white
        palette = sample_colorscale("Viridis", [0.85 * i / (n - 1) for i in range(n)])
    else:
        palette = [qualitative.D3[i % len(qualitative.D3)] for i in range(n)]
    of = {text: colour for (text, _), colour in zip(distinct, palette)}
    return [of[show(value)] for value in values]


def curves(sweep: Sweep, varied: list[str], order: list[int], first: Sequence[str]) -> dict[str, Any]:
    """Learning curves for plotly: {"layout", "metrics": {metric: [one trace a run]}}, in the order of
    `first`, then of their names.
    """
    import plotly.graph_objects as go

    names = {m for run in sweep.runs for m in {m for row in run.rows for m in row} if run.is_curve(m)}
    palette, dashes, metrics = colours(sweep, varied), _dashes(sweep, varied, order), {}
    entry_per_run = len(sweep.runs) <= 12  # beyond that: a legend entry for each value of the first flag
    rank = {name: i for i, name in enumerate(first)}
    for metric in sorted(names, key=lambda m: (rank.get(m, len(rank)), m)):
        metrics[metric], named = [], set()
        for i in order:
            run = sweep.runs[i]
            points = _points(run, metric)
            if not points:
                continue
            group, name = escape(label(run, varied[:1])), escape(label(run, varied))
            trace = go.Scatter(
                x=[step for step, _ in points],
                y=[value for _, value in points],
                legendgroup=group,
                name=name if entry_per_run else group,
                showlegend=entry_per_run or group not in named,
                hovertemplate=f"{name}<br>step %{{x}}<br>{escape(metric)} %{{y:.5}}<extra></extra>",
                line={"color": palette[i], "width": 1.8, "dash": dashes[i]},
                marker={"size": 5},
                mode="lines+markers" if len(points) <= 30 else "lines",
            )
            metrics[metric].append(trace.to_plotly_json())
            named.add(group)
    layout = go.Layout(
        template="plotly_white",
        xaxis={"title": {"text": "step"}},
        height=440,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        font={"size": 13},
    )
    return {"layout": layout.to_plotly_json(), "metrics": metrics}


def _dashes(sweep: Sweep, varied: list[str], order: list[int]) -> list[str]:
    """A dash for each run, by its varied flags but the first; all solid where there are too many of them."""
    others = [label(run, varied[1:]) if varied[1:] else "" for run in sweep.runs]
    distinct = list(dict.fromkeys(others[i] for i in order))
    if len(distinct) > len(DASHES):
        return [DASHES[0]] * len(others)
    return [DASHES[distinct.index(other)] for other in others]


def _points(run: Run, metric: str) -> Sequence[tuple[int, float | None]]:
    """(step, value) of a metric, thinned to about POINTS, the last one kept."""
    points = [(row["step"], row[metric]) for row in run.rows if metric in row and "step" in row]
    every = math.ceil(len(points) / POINTS)
    return points[:-1:every] + points[-1:] if points else []
