"""The figure that a sweep's runs are judged by: the metric that its YAML names, and its value for a run."""

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
        """How a table calls it; a running best and a figure of the test part are named as they are."""
        return self.name if self._is_one_value else f"best {self.name}"

    @property
    def column(self) -> str:
        """Its column in a CSV, named as the headline's is."""
        return self.name if self._is_one_value else f"{self.name}_best"

    @property
    def _is_one_value(self) -> bool:
        return self.name.startswith("test/") or self.name.endswith("_best")

    def is_headline(self, headline: str | None) -> bool:
        """Whether it is what a run with this headline is judged by anyway."""
        return self.name in (headline, f"{headline}_best")

    def value(self, rows: Iterable[dict[str, Any]], diverged: bool = False) -> float | None:
        """The best finite value that the rows have, of a diverged run the worst; None without one.

        The rule of launch/sweep/history.py, by which bayes, hyperband and --confirm choose.
        """
        values = [value for row in rows if is_finite(value := row.get(self.name))]
        largest = (self.goal == "maximize") != diverged
        return max(values, default=None) if largest else min(values, default=None)


def metric_of(spec: dict[str, Any]) -> Metric | None:
    """The metric of a sweep's YAML; None where it names none. Its goal is to minimize unless it says else."""
    given = spec.get("metric")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    return Metric(given["name"], "maximize" if given.get("goal") == "maximize" else "minimize")


def is_finite(value: Any) -> bool:
    """Whether a logged value is a number, and a finite one."""
    return isinstance(value, (int, float)) and math.isfinite(value)
