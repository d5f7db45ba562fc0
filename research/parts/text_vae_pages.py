"""Pages, charts and figures of what a text VAE writes, for research/text_vae.py and its tasks."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from data.characters import words_of
from data.sentences import EOS, PAD, Vocabulary
from research.common.media import File, picture
from research.draw import charts
from research.draw.pages import literal, page, table


def random_page(written: Mapping[str, Sequence[str]], title: str) -> str:
    """A page of sentences, written[strategy][i]: a row for each code, a column for each strategy."""
    rows = [[literal(text) for text in row] for row in zip(*written.values(), strict=True)]
    return page(title, table(rows, list(written)))


def rebuilt_page(truth: Sequence[str], again: Sequence[str], title: str) -> str:
    """A page of sentences beside their reconstructions; equal ones are marked."""
    rows = [
        [literal(x, "given"), literal(y, "right" if x == y else "")]
        for x, y in zip(truth, again, strict=True)
    ]
    return page(title, table(rows, ["sentence", "reconstruction"]))


def way_page(ends: Sequence[str], way: Sequence[str], title: str) -> str:
    """A page with the sentences written from codes on the way from the code of one sentence to that of
    another.

    ends: these two sentences; way: what is written, from the first end (t = 0) to the second (t = 1).
    """
    rows = [["", "from", literal(ends[0], "given")]]
    for i, text in enumerate(way):
        rows.append([f"{i / max(1, len(way) - 1):.2f}", "", literal(text)])
    rows.append(["", "to", literal(ends[1], "given")])
    return page(title, table(rows, ["t", "", "sentence"]))


def plane(mu: Tensor) -> Tensor:
    """The two directions (D, 2) in which codes (N, D) vary most. With D = 1, the second direction is zero."""
    centred = (mu - mu.mean(0)).double()
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    if axes.shape[1] < 2:
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    return axes.to(mu.dtype)


def map_picture(points: np.ndarray, values: np.ndarray, title: str) -> np.ndarray:
    """A chart of points (N, 2), coloured by `values` (N,), the place of each in the text, from 0 to 1."""

    def draw(ax) -> None:
        shown = ax.scatter(points[:, 0], points[:, 1], c=values, s=5, cmap="viridis", alpha=0.7, linewidths=0)
        ax.figure.colorbar(shown, ax=ax, label="place in the text, from its beginning to its end")
        ax.set_xlabel("first principal direction of the codes")
        ax.set_ylabel("second")

    return charts.chart(7, 5, title, draw)


def map_file(mu: Tensor, positions: np.ndarray, title: str) -> File:
    """A picture of codes mu (N, D) on the plane in which they vary most, coloured by `positions` (at least
    N): the place of each sentence in the text, from 0 to 1.
    """
    return picture(map_picture, (mu @ plane(mu)).numpy(), positions[: len(mu)], title)


def kl_file(order: Tensor, kl: Tensor, about: str) -> File:
    """A bar chart of `kl`, in nats, of the latents `order`."""
    names = [f"z{d}" for d in order.tolist()]
    return picture(charts.bars, kl.tolist(), names, f"KL per latent, {about}", "nats")


# ---- figures -------------------------------------------------------------------------------------------


def likeness(made: Tensor, tokens: Tensor, vocabulary: Vocabulary) -> dict[str, float]:
    """How near the written sentences made, ids (N, T'), are to the true ones, tokens: ids (N, T) padded with
    PAD.

    exact: share of sentences that are equal; exact_tokens: share of the true tokens for which the same token
    is written in the same place; bleu: BLEU of up to four words (Papineni et al. 2002), by torchmetrics.
    """
    from torchmetrics.functional.text import bleu_score

    truth = [vocabulary.write(row) for row in tokens.tolist()]
    again = [vocabulary.write(row) for row in made.tolist()]
    inside = tokens != PAD
    same = (made[:, : tokens.shape[1]] == tokens.cpu()) & inside.cpu()
    ended = (made == EOS).cumsum(1)[:, : tokens.shape[1]] > 0
    same &= ~ended
    return {
        "exact": float(np.mean([x == y for x, y in zip(truth, again, strict=True)])),
        "exact_tokens": float(same.sum() / inside.sum()),
        "bleu": float(bleu_score(again, [[x] for x in truth])),
    }


def plausibility(written: Sequence[str], training: Iterable[str]) -> dict[str, float]:
    """known_words: share of the written words that occur in the training sentences; known_pairs: the same for
    pairs of neighbouring words. Both are 1 if there is nothing to count.
    """
    known, pairs = set(), set()
    for sentence in training:
        words = words_of(sentence.lower())
        known.update(words)
        pairs.update(pairwise(words))
    found = [words_of(sentence.lower()) for sentence in written]
    words = [word for some in found for word in some]
    both = [pair for some in found for pair in pairwise(some)]
    return {
        "known_words": sum(word in known for word in words) / len(words) if words else 1.0,
        "known_pairs": sum(pair in pairs for pair in both) / len(both) if both else 1.0,
    }


def twisted_page(before: Sequence[str], after: Sequence[str], title: str) -> str:
    """A page of sentences before and after the twist; those that it does not change are grey."""
    rows = [[literal(x), literal(y, "given" if x == y else "")] for x, y in zip(before, after, strict=True)]
    return page(title, table(rows, ["written", "twisted"]))
