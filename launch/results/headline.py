"""Chooses the figure by which runs are judged, for runs of scripts that are not ours.

It splits names into words: val/top1_acc and valLoss both say which part of the data they are about and
whether larger is better.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from launch.results.metric import Metric
from research.common.messages import UserError

# The more common ones first. Such a word may follow the part of the data (valloss) and end in a digit (acc1).
LESS_IS_BETTER = (
    "loss",
    "error",
    "err",
    "nll",
    "perplexity",
    "ppl",
    "mse",
    "rmse",
    "mae",
    "bpc",
    "wer",
    "fid",
)
MORE_IS_BETTER = ("acc", "accuracy", "f1", "auc", "bleu", "score", "reward", "return", "iou", "psnr", "ssim")
PARTS = (("val", "valid", "validation", "eval", "dev"), ("test",), (), ("train", "training"))  # best first
WITHOUT_PART = PARTS.index(())
LISTED = 8  # names that a refusal lists, at most


class Choice(NamedTuple):
    """The metric by which runs are judged, and why it was chosen, in words."""

    metric: Metric
    why: str


def _words(name: str) -> list[str]:
    """valLoss/top1 → val, loss, top1."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _part(words: Iterable[str]) -> int:
    """The index in PARTS of the part of the data that a name's words mention."""
    kinds = "|".join(LESS_IS_BETTER + MORE_IS_BETTER)
    for word in words:
        bare = re.sub(rf"(?:{kinds})\d*$", "", word) or word
        for rank, names in enumerate(PARTS):
            if bare in names:
                return rank
    return WITHOUT_PART


def _kind(words: Iterable[str]) -> str | None:
    """The first of a name's words that says whether more is better, in its form in the lists; None: none."""
    for word in words:
        bare = word.rstrip("0123456789")
        for kind in LESS_IS_BETTER + MORE_IS_BETTER:
            # as a word, or after a part of the data (valloss); the "err" in "transferred" does not count
            if (
                word == kind
                or bare == kind
                or (len(kind) > 2 and bare.endswith(kind) and _part([word]) != WITHOUT_PART)
            ):
                return kind
    return None


def goal_of(name: str) -> str | None:
    """minimize or maximize, if the name of a figure says so; else None."""
    kind = _kind(_words(name))
    if kind is None:
        return None
    return "minimize" if kind in LESS_IS_BETTER else "maximize"


def rank(name: str) -> tuple[bool, int, int, str]:
    """A key that sorts figures: those whose name says what is better come first, and among them those on data
    that training does not see.
    """
    words = _words(name)
    kind, kinds = _kind(words), LESS_IS_BETTER + MORE_IS_BETTER
    return kind is None, _part(words), kinds.index(kind) if kind else len(kinds), name


def choose(
    counts: Mapping[str, int],
    recorded: Mapping[str, str],
    name: str | None = None,
    goal: str | None = None,
) -> Choice | None:
    """The metric: the one that is requested, else one whose goal the runs have recorded, else one whose name
    says its goal.

    counts: logged figure → how many runs have it; recorded: figure → goal, as define_metric kept it. A figure
    that has less than half as many runs as the most common one is chosen only if there is nothing else. None:
    no name says which run is better. UserError: no run has logged the requested figure.
    """
    if name is not None:
        if name not in counts:
            raise UserError(f"--metric={name}: no run has logged it{_near(name, counts)}")
        known = recorded.get(name) or goal_of(name)
        why = "as requested"
        if not (goal or known):
            why += (
                "; its name does not say its goal, so smaller is taken to be better (if not: --goal=maximize)"
            )
        return Choice(Metric(name, goal or known or "minimize"), why)
    most = max(counts.values(), default=0)
    candidates = [name for name in counts if name in recorded or goal_of(name)]
    if not candidates:
        return None
    best = min(candidates, key=lambda name: (2 * counts[name] < most, name not in recorded, rank(name)))
    if best in recorded:
        return Choice(Metric(best, goal or recorded[best]), "its goal was recorded by define_metric")
    return Choice(Metric(best, goal or goal_of(best)), "chosen by its name")


def _near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names similar figures, or else those that there are."""
    known = sorted(known, key=rank)
    last = {full.rpartition("/")[2].lower(): full for full in reversed(known)}
    close = difflib.get_close_matches(name, known, n=3)
    close += [last[word] for word in difflib.get_close_matches(name.rpartition("/")[2].lower(), last, n=3)]
    if close:
        return f"; did you mean {' or '.join(list(dict.fromkeys(close))[:3])}?"
    if not known:
        return ", nor any other number"
    return f"; they have {', '.join(known[:LISTED])}{' …' if len(known) > LISTED else ''}"
