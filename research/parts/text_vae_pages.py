"""Pages, charts and figures of what a text VAE writes, for research/text_vae.py and its tasks."""

from collections.abc import Mapping, Sequence
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
    """Sentences of the same codes, a column a strategy."""
    rows = [[literal(text) for text in row] for row in zip(*written.values(), strict=True)]
    return page(title, table(rows, list(written)))


def rebuilt_page(truth: Sequence[str], again: Sequence[str], title: str) -> str:
    """Sentences beside what is written of their codes; equal ones are marked."""
    rows = [
        [literal(x, "given"), literal(y, "right" if x == y else "")]
        for x, y in zip(truth, again, strict=True)
    ]
    return page(title, table(rows, ["sentence", "written of its code"]))


def way_page(ends: Sequence[str], way: Sequence[str], title: str) -> str:
    """What is written of codes on the way from the code of one sentence to that of another."""
    rows = [["", "from", literal(ends[0], "given")]]
    for i, text in enumerate(way):
        rows.append([f"{i / max(1, len(way) - 1):.2f}", "", literal(text)])
    rows.append(["", "to", literal(ends[1], "given")])
    return page(title, table(rows, ["t", "", "sentence"]))


def plane(mu: Tensor) -> Tensor:
    """The two directions (D, 2) in which codes (N, D) vary most; of a single latent it and nothing."""
    centred = (mu - mu.mean(0)).double()
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    if axes.shape[1] < 2:
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    return axes.to(mu.dtype)


def map_picture(points: np.ndarray, values: np.ndarray, title: str) -> np.ndarray:
    """Points (N, 2) with colours by their place in the text, 0 to 1."""

    def draw(ax) -> None:
        shown = ax.scatter(points[:, 0], points[:, 1], c=values, s=5, cmap="viridis", alpha=0.7, linewidths=0)
        ax.figure.colorbar(shown, ax=ax, label="place in the text, from its beginning to its end")
        ax.set_xlabel("first principal direction of the codes")
        ax.set_ylabel("second")

    return charts.chart(7, 5, title, draw)


def map_file(mu: Tensor, positions: np.ndarray, title: str) -> File:
    """The codes on the plane in which they vary most, coloured by the place of their sentences."""
    return picture(map_picture, (mu @ plane(mu)).numpy(), positions[: len(mu)], title)


def kl_file(order: Tensor, kl: Tensor, about: str) -> File:
    """KL of each latent, the most telling first."""
    names = [f"z{d}" for d in order.tolist()]
    return picture(charts.bars, kl.tolist(), names, f"KL per latent, {about}", "nats")


# ---- figures -------------------------------------------------------------------------------------------


def likeness(made: Tensor, tokens: Tensor, vocabulary: Vocabulary) -> dict[str, float]:
    """How near what is written, ids (N, T'), is to the sentences, ids (N, T) filled with PAD.

    exact: share of sentences that are equal; exact_tokens: share of the places of the sentences that hold the
    same token; bleu: BLEU of up to four words (Papineni et al. 2002), by torchmetrics.
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


def plausibility(written: Sequence[str], training: Sequence[str]) -> dict[str, float]:
    """Share of the words of sentences that occur in the training sentences, and of their pairs of neighbours.

    1 where there is nothing to count.
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
    """Sentences beside what a twist makes of them; those that stay are grey."""
    rows = [[literal(x), literal(y, "given" if x == y else "")] for x, y in zip(before, after, strict=True)]
    return page(title, table(rows, ["written", "twisted"]))
