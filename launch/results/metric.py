"""The figure by which a sweep's runs are judged: the metric that its YAML names, and its value for a run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A sweep's metric. name: a logged key; goal: minimize or maximize."""

    name: str
    goal: str

    @property
    def heading(self) -> str:
        """Its heading in a table; a running best and a figure of the test part keep their names."""
        return self.name if self._is_one_value else f"best {self.name}"

    @property
    def column(self) -> str:
        """The name of its column in a CSV, formed like that of the headline."""
        return self.name if self._is_one_value else f"{self.name}_best"

    @property
    def _is_one_value(self) -> bool:
        return self.name.startswith("test/") or self.name.endswith("_best")

    def is_headline(self, headline: str | None) -> bool:
        """Whether a run with this headline is judged by it anyway."""
        return self.name in (headline, f"{headline}_best")

    def value(self, rows: Iterable[dict[str, Any]], diverged: bool = False) -> float | None:
        """The best finite value in the rows, or the worst for a diverged run; None if there is none.

        The same rule as in launch/sweep/history.py, by which bayes, hyperband and --confirm choose.
        """
        values = [value for row in rows if is_finite(value := row.get(self.name))]
        largest = (self.goal == "maximize") != diverged
        return max(values, default=None) if largest else min(values, default=None)


def metric_of(spec: dict[str, Any]) -> Metric | None:
    """The metric of a sweep's YAML; None if it names none. The goal is minimize unless it says maximize."""
    given = spec.get("metric")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    return Metric(given["name"], "maximize" if given.get("goal") == "maximize" else "minimize")


def is_finite(value: Any) -> bool:
    """Whether a logged value is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)
