"""How values of flags and figures are written, and how they are sorted."""

import json
import math
import numbers
from typing import Any


def show(value: Any, digits: int | None = None) -> str:
    """A flag or figure as people write it: 4.0 as 4, NaN as nothing; digits: number of significant digits."""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        text = repr(value) if digits is None else f"{value:.{digits}g}"
        return text.removesuffix(".0")
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return str(value)


def sort_key(value: Any) -> tuple[int, float, str]:
    """A key that sorts numbers before words before None and NaN, so that a flag with 4 and None sorts too."""
    if isinstance(value, numbers.Real) and not math.isnan(value):  # numpy's integers are not instances of int
        return 0, float(value), ""
    text = show(value)
    empty = text in ("None", "")
    return 2 if empty else 1, 0.0, text
