"""The colours of runs in W&B's views, the same as on the report's page: by the first varied flag."""

from launch.results.read import Sweep
from launch.results.values import show, sort_key

# by Okabe and Ito, which colour-blind people can tell apart too; then two of ColorBrewer's
WORDS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"]


def colours(sweep: Sweep, varied: list[str]) -> list[str]:
    """A colour for each run, by its first varied flag: a scale for numbers, distinct hues for words."""
    import matplotlib

    values = [run.flags.get(varied[0]) if varied else run.title for run in sweep.runs]
    distinct = sorted({show(value): value for value in values}.items(), key=lambda item: sort_key(item[1]))
    n = len(distinct)
    only_numbers = all(sort_key(value)[0] == 0 for _, value in distinct)
    if n > 2 and only_numbers:
        # without the light end of the scale, which is hard to see on white
        scale = matplotlib.colormaps["viridis"]
        palette = [matplotlib.colors.to_hex(scale(0.85 * i / (n - 1))) for i in range(n)]
    else:
        palette = [WORDS[i % len(WORDS)] for i in range(n)]
    of = {text: colour for (text, _), colour in zip(distinct, palette)}
    return [of[show(value)] for value in values]
