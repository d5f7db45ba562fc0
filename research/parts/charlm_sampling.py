"""Seven ways to write with a character language model, and figures of what is written.

What    generate() continues prompts with any model of charlm_models.py by its start, read and step.
        EXPLAINED describes each strategy in plain words; statistics() measures repetition and copying.
Sources Holtzman et al. 2020 (arXiv:1904.09751, top_p); Nguyen et al. 2024 (arXiv:2407.01082, min_p); Su et
        al. 2022 (arXiv:2202.06417), eq. 5 (contrastive); Paulus et al. 2017 (arXiv:1705.04304), section 2.5
        (no_repeat, which they use for three words in beam search); Li et al. 2016 (arXiv:1510.03055,
        distinct n-grams).
Departs Texts have a given length, so beam search needs no length penalty and no character ends a text.
        Contrastive search compares with at most the last N_COMPARED vectors. Of the prompt it uses only the
        last vector, because `read` shows no other to the head.
Choices are made in float64 and draws on the CPU, so that all devices write the same text unless their logits
differ by enough to matter. Texts of a batch do not depend on one another, unless their draws share a
generator.
Shapes  B batch, P prompt (characters), V vocabulary, K hypotheses or candidates of a text, C head input.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from data.characters import PIECE, whole, words_of
from research.common.flags import aside, require
from research.parts.charlm_models import AttentionState, ConvState

TASKS = ("generate", "compare")  # the tasks that read the flags of Decoding
STRATEGIES = ("greedy", "temperature", "top_k", "top_p", "min_p", "beam", "contrastive")
DRAWN = ("temperature", "top_k", "top_p", "min_p")
N_COMPARED = 256  # vectors that contrastive search compares with, at most, so that its cost stays bounded
SPAN = 20  # characters: when a span of this length occurs twice, this is not a coincidence of common words
LOOPS = 0.5  # repetition above which a text is said to loop

State = list[tuple[Tensor, Tensor]] | ConvState | AttentionState
OnChar = Callable[[Tensor], None]


@dataclass
class LineStates:
    """One state for each of B texts: their lines begin at different characters, so they can't share one."""

    each: list[State]


EXPLAINED = {
    "greedy": "Always takes the most probable character. Nothing is drawn at random, so the text shows what "
    "the model is most certain of, and spelling is at its best. Typical failure: loops. What has been "
    "written once becomes more probable, and nothing ends the loop.",
    "temperature": "Draws each character with the model's own probability, after dividing the logits by the "
    "temperature: below 1 likely characters gain, above 1 unlikely ones do. At 1 the texts are fair samples "
    "of what the model has learned. Typical failure: each unlikely character is rare, but there are many, "
    "so that one is drawn every few words; it misspells a word and misleads the model from there on. Low "
    "temperatures loop like greedy.",
    "top_k": "Draws among the k most probable characters only, so that absurd ones never appear. Typical "
    "failure: k is the same everywhere. Within a word, where one character is right, k - 1 wrong ones stay "
    "possible; at the start of a word, where twenty are right, good ones are lost.",
    "top_p": "Draws among the smallest set of characters that together have at least the probability p, the "
    "nucleus. The set is small where the model is sure and large where it is not, which suits both the "
    "middle and the start of a word. Typical failure: where the model is very unsure, or the temperature "
    "high, the set reaches far into the tail; with a small p it loops like greedy.",
    "min_p": "Draws among the characters that are at least min_p times as probable as the most probable "
    "one. The surer the model, the higher this threshold, so that higher temperatures can be tried than "
    "with top_p. Typical failure: where many characters are about equally bad guesses, all of them pass; a "
    "large min_p loops like greedy.",
    "beam": "Keeps several candidate texts at a time: those that are most probable as a whole, so that an "
    "improbable character can be accepted if a probable continuation follows. It often finds more probable "
    "texts than greedy, which is useful where there is one right answer. Typical failure: the most probable "
    "text is dull: repetitive, flat, and often a passage learned by heart.",
    "contrastive": "Of the k most probable characters, takes the one with the best balance of two "
    "properties: it is probable, and after it the model's hidden state is unlike all its earlier states; "
    "alpha weighs the second property against the first. It ends many loops without drawing at random, but "
    "no loop of which the model is certain. Typical "
    "failure: states of small character models are alike for simple reasons, after every space for "
    "example, and with a large alpha it then avoids the right character and misspells words. "
    "Each character costs k steps of the model.",
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next character is chosen. An impossible value raises UserError, which names the flag."""

    HEADING = ("sampling", "how the next character (or token) of a new text is chosen")

    strategy: Literal[STRATEGIES] = aside("temperature", "generate")
    """how the next character is chosen; compare uses every strategy"""
    no_repeat: int = aside(0, *TASKS)
    """any strategy: never write a run of this many characters twice, 12 for example; 0: no limit"""
    temperature: float = aside(1.0, *TASKS)
    """strategies that draw (temperature, top_k, top_p, min_p): the logits are divided by this number"""
    top_k: int = aside(10, *TASKS)
    """top_k: draw from this many most probable characters; contrastive: number of candidates"""
    top_p: float = aside(0.9, *TASKS)
    """top_p: draw from the most probable characters that together have this probability"""
    min_p: float = aside(0.05, *TASKS)
    """min_p: draw from the characters whose probability is at least this number times that of the most
    probable one"""
    beam_width: int = aside(4, *TASKS)
    """beam: number of candidate texts that are kept after each character"""
    alpha: float = aside(0.6, *TASKS)
    """contrastive: weight of the penalty for similarity to the text so far"""

    def __post_init__(self):
        require(self.strategy in STRATEGIES, self, "strategy", f"one of {', '.join(STRATEGIES)}")
        require(self.no_repeat >= 0, self, "no_repeat", "at least 0 (0: whatever was written may recur)")
        finite = 0 < self.temperature < math.inf
        require(finite, self, "temperature", "a number above 0; for the most probable take greedy")
        require(self.top_k >= 1, self, "top_k", "at least 1")
        require(0 < self.top_p <= 1, self, "top_p", "above 0, at most 1")
        require(0 <= self.min_p <= 1, self, "min_p", "from 0 to 1")
        require(self.beam_width >= 1, self, "beam_width", "at least 1")
        require(0 <= self.alpha <= 1, self, "alpha", "from 0 to 1")


ACTS_WITH = {  # flags that only some strategies look at
    "temperature": DRAWN,
    "top_k": ("top_k", "contrastive"),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "beam_width": ("beam",),
    "alpha": ("contrastive",),
}


def refuse_unread(how: Decoding) -> None:
    """Refuse a flag that was changed although --strategy does not look at it. Raises UserError."""
    for name, strategies in ACTS_WITH.items():
        acts = how.strategy in strategies or getattr(how, name) == getattr(Decoding, name)
        allowed = f"left out with --strategy={how.strategy}; it acts with {', '.join(strategies)}"
        require(acts, how, name, allowed)


# ------------------------------------------------------------------------------------------------ choosing


def filtered(logits: Tensor, how: Decoding) -> Tensor:
    """logits (B, V) → probabilities (B, V) with which temperature, top_k, top_p or min_p draws; float64, CPU.

    Characters that are left out have probability 0. If several are equally probable at the edge of top_k or
    top_p, only some of them stay.
    """
    assert how.strategy in DRAWN, f"{how.strategy} draws nothing; only {', '.join(DRAWN)} do"
    x = logits.cpu().double()
    # The largest is subtracted: it becomes 0 and stays 0 where a tiny temperature makes all others infinite.
    # Some processors take a temperature below the smallest normal number for 0.
    x = (x - x.amax(-1, keepdim=True)) / max(how.temperature, sys.float_info.min)
    p = torch.softmax(x, -1)
    if how.strategy == "temperature":
        return p
    if how.strategy == "min_p":
        p = p.where(p >= how.min_p * p.amax(-1, keepdim=True), 0)
    else:
        # sorted by logits: different ones can have the same probability; greedy takes the first of equals
        index = x.sort(dim=-1, descending=True, stable=True).indices
        values = p.gather(-1, index)
        if how.strategy == "top_k":
            values[:, how.top_k :] = 0
        else:  # a character stays while those before it have not reached top_p
            values = values.where(values.cumsum(-1) - values < how.top_p, 0)
        p = torch.zeros_like(p).scatter(-1, index, values)
    return p / p.sum(-1, keepdim=True)


def draw(p: Tensor, rng: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """p (B, V) probabilities, on the CPU → characters (B,), drawn with rng: a generator for each text, or one
    that all share.

    Each character waits for an exponential time of rate p, and the first one wins. torch.multinomial does the
    same and draws the same, but it must be called for each generator, and each call takes longer than this.
    """
    assert (p.sum(-1) > 0).all(), f"probabilities {p.sum(-1).tolist()} in all: the logits are not numbers"
    waits = torch.empty_like(p)
    if isinstance(rng, torch.Generator):
        waits.exponential_(generator=rng)
    else:
        for row, one in zip(waits, rng, strict=True):
            row.exponential_(generator=one)
    return (p / waits).argmax(-1)


def without_repeats(logits: Tensor, text: Tensor, n: int) -> Tensor:
    """logits (B, V) with −∞ for every character that would complete a run of n characters which text (B, T)
    already contains. A row in which every character would do so stays as it is. n = 0 changes nothing.
    """
    t = text.shape[1]
    if n == 0 or t < n:
        return logits
    runs = text.unfold(1, n, 1)  # (B, T − n + 1, n)
    begun = (runs[..., :-1] == text[:, None, t - n + 1 :]).all(-1)  # the runs that begin as the text ends
    row, place = begun.nonzero(as_tuple=True)
    repeats = torch.zeros_like(logits, dtype=torch.bool)
    repeats[row, runs[row, place, -1]] = True
    others = logits.masked_fill(repeats, -math.inf)
    return others.where(others.amax(1, keepdim=True) > -math.inf, logits)


def reorder(state: State | LineStates, rows: Tensor) -> State | LineStates:
    """A new state for the texts with the numbers `rows` (B',) of the B texts in `state`, in this order.

    A text may be named several times; its copies then go on independently. The old state stays as it is.
    """
    if isinstance(state, LineStates):
        return LineStates([reorder(state.each[row], rows.new_zeros(1)) for row in rows.tolist()])
    if isinstance(state, ConvState):  # (2, dilation, B, C, k − 1)
        return ConvState(state.pos, [cache.index_select(2, rows) for cache in state.caches])
    if isinstance(state, AttentionState):
        tokens = None if state.tokens is None else state.tokens.index_select(0, rows)
        return replace(state, layers=[cache.pick(rows, state.pos) for cache in state.layers], tokens=tokens)
    return [(h.index_select(0, rows), c.index_select(0, rows)) for h, c in state]


@contextmanager
def _head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each call of the model within the `with` block adds what its head reads: (B, C), or
    (B, T, C).
    """
    seen: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _directions(seen: list[Tensor], batch_size: int) -> Tensor:
    """The vectors in `seen` as (B, T, C), scaled to length 1, so that their products are cosines; empties
    `seen`.
    """
    latest = torch.cat(seen).reshape(batch_size, -1, seen[-1].shape[-1])
    seen.clear()
    return F.normalize(latest.float(), dim=-1)


# ------------------------------------------------------------------------------------------------ lines


class LineModel:
    """Wraps a model of single lines, so that it begins anew with each line: of the text before a line it
    reads only the line break.

    In training, the model never saw one line after another. So it never met the state that it would have
    after the end of a line.
    """

    def __init__(self, model: nn.Module, newline: int):
        self.model, self.newline, self.head = model, newline, model.head

    def start(self, batch_size: int, device: torch.device | str) -> LineStates:
        return LineStates([self.model.start(1, device) for _ in range(batch_size)])

    def read(self, tokens: Tensor, state: LineStates) -> tuple[Tensor, LineStates]:
        """tokens (B, T) → logits (B, V) of what follows, state."""
        read = [self._one(row[None], one) for row, one in zip(tokens, state.each, strict=True)]
        return torch.cat([logits for logits, _ in read]), LineStates([one for _, one in read])

    def step(self, token: Tensor, state: LineStates) -> tuple[Tensor, LineStates]:
        """token (B,) → logits (B, V) of what follows, state."""
        return self.read(token[:, None], state)

    def _one(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        ends = (tokens[0] == self.newline).nonzero()
        if len(ends):
            tokens, state = tokens[:, int(ends[-1]) :], self.model.start(1, tokens.device)
        if tokens.shape[1] == 1:
            return self.model.step(tokens[0], state)
        return self.model.read(tokens, state)


def writer(model: nn.Module, cut: str, alphabet: str) -> nn.Module | LineModel:
    """The model to give to `generate`: one that was trained with --cut=lines begins anew with each line."""
    return LineModel(model, alphabet.index("\n")) if cut == "lines" else model


# ------------------------------------------------------------------------------------------------ writing


@torch.inference_mode()
@parametrize.cached()  # a weight that is normalised is computed once, not at each character
def generate(
    model: nn.Module,
    prompt: Tensor,
    n_chars: int,
    how: Decoding,
    rng: torch.Generator | Sequence[torch.Generator],
    on_char: OnChar | None = None,
) -> Tensor:
    """prompt (B, P) int64 on the model's device, P ≥ 1 → exactly n_chars further characters (B, n_chars).

    rng: a CPU generator for each text, or one that all texts share; greedy, beam and contrastive draw
    nothing. on_char is called with the ids (B,) of each character as it is chosen. Beam search may change its
    mind until the end, so it makes all these calls then.
    """
    shape = tuple(prompt.shape)
    assert len(shape) == 2 and shape[1] >= 1, f"prompt of shape {shape}, not (B, at least 1)"
    assert n_chars >= 0, f"n_chars={n_chars}, but it must be at least 0"
    shared = isinstance(rng, torch.Generator)
    assert shared or len(rng) == len(prompt), f"{len(rng)} generators for {len(prompt)} texts"
    for one in [rng] if shared else rng:
        assert one.device.type == "cpu", f"a generator of {one.device}, but draws are made on the cpu"
    on_char = on_char or (lambda _: None)
    if n_chars == 0:
        return prompt[:, :0]
    if how.strategy == "beam":
        return _beam(model, prompt, n_chars, how, on_char)
    if how.strategy == "contrastive":
        return _contrastive(model, prompt, n_chars, how, on_char)
    logits, state = model.read(prompt, model.start(len(prompt), prompt.device))
    whole, text = _room(prompt, n_chars)
    for i in range(n_chars):
        logits = without_repeats(logits, whole[:, : prompt.shape[1] + i], how.no_repeat)
        if how.strategy == "greedy":
            token = logits.argmax(-1)
        else:
            token = draw(filtered(logits, how), rng).to(prompt.device)
        text[:, i] = token
        on_char(token)
        if i < n_chars - 1:
            logits, state = model.step(token, state)
    return text


def _room(prompt: Tensor, n_chars: int) -> tuple[Tensor, Tensor]:
    """The prompt followed by empty room, (B, P + n_chars), and a view of that room alone, (B, n_chars)."""
    room = prompt.new_empty(len(prompt), n_chars)
    whole = torch.cat((prompt, room), 1)
    return whole, whole[:, prompt.shape[1] :]


def _beam(model: nn.Module, prompt: Tensor, n_chars: int, how: Decoding, on_char: OnChar) -> Tensor:
    """The most probable of --beam_width hypotheses for each text. All grow by one character at a time."""
    b, device, before = len(prompt), prompt.device, prompt.cpu()
    logits, state = model.read(prompt, model.start(b, device))
    total = torch.zeros(b, 1, dtype=torch.float64)  # (B, K) log probabilities; at first K = 1
    texts = torch.zeros(b, 1, n_chars, dtype=torch.int64)
    for i in range(n_chars):
        k = total.shape[1]
        log_p = torch.log_softmax(logits.cpu().double(), -1)  # (B K, V)
        if how.no_repeat:
            whole = torch.cat((before[:, None].expand(-1, k, -1), texts[:, :, :i]), 2)
            log_p = without_repeats(log_p, whole.flatten(0, 1), how.no_repeat)
        log_p = log_p.view(b, k, -1)
        n_next = min(how.beam_width, log_p[0].numel())  # at first there are fewer than beam_width
        total, best = (total[..., None] + log_p).flatten(1).topk(n_next)  # sorted
        parent, token = best // log_p.shape[2], best % log_p.shape[2]
        texts = texts.gather(1, parent[..., None].expand(-1, -1, n_chars))
        texts[:, :, i] = token
        if i < n_chars - 1:
            rows = (torch.arange(b)[:, None] * k + parent).flatten()
            logits, state = model.step(token.flatten().to(device), reorder(state, rows.to(device)))
    text = texts[:, 0].to(device)
    for ids in text.unbind(1):
        on_char(ids)
    return text


def _contrastive(model: nn.Module, prompt: Tensor, n_chars: int, how: Decoding, on_char: OnChar) -> Tensor:
    """At each step the candidate with the largest (1 − alpha) p − alpha (largest cosine to an earlier
    vector); eq. 5.

    The vectors are what the head reads. Each candidate is read by its own copy of the text's state.
    """
    b, device = len(prompt), prompt.device
    whole, text = _room(prompt, n_chars)
    with _head_inputs(model) as seen:
        logits, state = model.read(prompt, model.start(b, device))
        past = _directions(seen, b)  # (B, 1, C): `read` shows only its last position to the head
        chosen = every = torch.arange(b, device=device)  # the row of the state that each text goes on with
        for i in range(n_chars):
            k = min(how.top_k, logits.shape[1])
            allowed = without_repeats(logits, whole[:, : prompt.shape[1] + i], how.no_repeat)
            # float64: in float32, different logits can become the same probability
            p, candidates = torch.softmax(allowed.cpu().double(), -1).topk(k)  # (B, K), sorted
            candidates = candidates.to(device)
            state = reorder(state, chosen.repeat_interleave(k))
            logits, state = model.step(candidates.flatten(), state)
            vectors = _directions(seen, b)  # (B, K, C)
            with torch.autocast(device.type, enabled=False):  # bf16 has only steps of 0.004 below 1
                penalty = (vectors @ past.mT).amax(2).cpu().double()
            value = (1 - how.alpha) * p - how.alpha * penalty
            best = value.masked_fill(p == 0, -math.inf).argmax(1).to(device)  # p = 0: it would be a repeat
            chosen = every * k + best
            past = torch.cat((past, vectors[every, best][:, None]), 1)[:, -N_COMPARED:]
            text[:, i], logits = candidates[every, best], logits[chosen]
            on_char(text[:, i])
    return text


# ------------------------------------------------------------------------------------------------ figures


def statistics(text: str, training_text: str) -> dict[str, float]:
    """Repetition and copying of a text:

    distinct_n  n = 1, 2, 3: the number of different word n-grams divided by the number of all (Li et al.
                2016); words are separated by white space; 1 if there are none
    repetition  share of the characters that lie in a span of SPAN characters which occurs in the text more
                than once; the occurrences may overlap
    copied      characters in the longest span of the text that occurs in training_text word for word
    known_words share of the text's words, as `words_of` finds them, that occur in training_text; 1 if there
                are none
    """
    words = text.split()
    grams = {n: list(zip(*(words[i:] for i in range(n)), strict=False)) for n in (1, 2, 3)}
    distinct = {f"distinct_{n}": len(set(g)) / len(g) if g else 1.0 for n, g in grams.items()}
    found, known = words_of(text), _vocabulary(training_text)
    share = sum(word in known for word in found) / len(found) if found else 1.0
    copied = float(_copied(text, training_text))
    return distinct | {"repetition": _repetition(text), "copied": copied, "known_words": share}


@lru_cache(maxsize=1)  # many texts are compared with the same training text, which may be long
def _vocabulary(training_text: str) -> frozenset[str]:
    pieces = (training_text[i : i + PIECE] for i in range(0, len(training_text), PIECE))
    known: set[str] = set()
    for piece in whole(pieces, "\n ", ""):  # a list of all words would be many times as large as the text
        known.update(words_of(piece))
    return frozenset(known)


def _repetition(text: str) -> float:
    spans = [text[i : i + SPAN] for i in range(len(text) - SPAN + 1)]
    counts, n, end = Counter(spans), 0, 0  # `n` characters before `end` are repeated
    for i, span in enumerate(spans):
        if counts[span] > 1:
            n, end = n + i + SPAN - max(i, end), i + SPAN
    return n / max(len(text), 1)


def _copied(text: str, training_text: str) -> int:
    """Length of the longest span of `text` that occurs in `training_text`, in characters.

    Two pointers: a span that occurs grows at its end; any other moves on and keeps its length.
    """
    start = 0
    for end in range(1, len(text) + 1):
        if text[start:end] not in training_text:
            start += 1
    return len(text) - start
