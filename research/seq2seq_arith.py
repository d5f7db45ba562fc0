"""Arithmetic learned from examples: '81+24' → '105', as text or handwriting, by sequence to sequence.

What    An encoder reads the query, a decoder writes the answer, character by character. How few of all
        possible queries are enough for training, and which additions to a plain LSTM make the difference?
        --mode=image_to_text reads handwritten queries; text_to_image draws its answers, which a separately
        trained, frozen classifier reads.
Run     python research/seq2seq_arith.py                                         # the plain LSTM
        python research/seq2seq_arith.py --train_fraction=0.25 --attention=True --reverse=True
        python research/seq2seq_arith.py --mode=text_to_image --attention=True --columns=True --reverse=True
        python research/seq2seq_arith.py --task=ask --query="81+24" --checkpoint=runs/<run>
        python launch/local.py sweeps/seq2seq_split.yaml      or: wandb sweep sweeps/seq2seq_split.yaml
Expect  The plain LSTM: 1 to 2 minutes of a core, 0.978 ± 0.015 of the test answers right (3 seeds). More
        figures: the headers of sweeps/seq2seq_*.yaml and docs/seq2seq_arith.md.
Models  research/parts/seq2seq_models.py, with their sources and departures; the kinds of mistakes:
        research/parts/seq2seq_mistakes.py.
Sources Zaremba & Sutskever 2014 (arXiv:1410.4615), §3.2 and 4.1: addition, characters in reverse; Duckworth
        et al. 2019 (arXiv:1906.04331), §3: the model's own characters as input, all positions at once.
Data    Every query with operands of up to --digits digits. No pair of operands, in either order, is in two
        parts.
Shapes  B batch, Q query and A answer characters, V vocabulary; src (B, Q), or pictures (B, Q, 28, 28);
        tgt (B, A); logits (B, A, V), or (B, A, K) of K pictures if the answer is drawn.
Units   loss: nats per character; for drawn answers nats per picture (784 pixels, a mixture of K Bernoullis).
"""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor

from data import arithmetic, digits, glyphs
from data.arithmetic import Queries
from research.common.checkpoints import load_weights
from research.common.commandline import main
from research.common.flags import RunFlags, aside, of_data, require, with_epochs
from research.common.media import html, picture
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.draw import pages, pictures
from research.parts import digit_classifier as classifier
from research.parts import seq2seq_mistakes as mistakes
from research.parts.seq2seq_models import LSTM, N_PICTURES, Transformer

KEY_VERSION = 2  # raised when a default or a meaning changes: runs then get new keys
DATA_FLAGS = ("dataset", "data_dir", "transpose", "mode", "digits", "ops", "train_fraction", "columns")
TASKS = ("train", "evaluate", "ask", "mistakes")
N_SHOWN = 12  # answers that are shown while training
N_AT_ONCE = 2000  # queries that are answered in one call


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Arithmetic learned from examples: '81+24' → '105', as text or handwriting, by sequence to sequence."""

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes its results beside it"""
    dataset: str = aside("digits")
    """pictures of digits, for modes with pictures: digits (embedded), mnist, or your own (a folder or
    .csv)"""
    transpose: bool = of_data(False)
    """exchange rows and columns of all pictures of digits, as EMNIST's files need"""
    mode: Literal["text_to_text", "image_to_text", "text_to_image"] = "text_to_text"
    """form of queries and answers: text, or a picture of each character"""
    digits: int = 2
    """largest number of digits of an operand. evaluate, ask, mistakes: of an operand in the queries that are
    asked; default there: as in the run"""
    ops: str = "+-"
    """operators, some of + - *"""
    train_fraction: float = 0.5
    """share of the pairs of operands to learn from (a 20th of this share is the validation part); all other
    pairs are the test part"""
    steps: int = 10_000
    """training length in steps; a step is one optimiser update"""
    batch_size: int = 64
    """queries per step"""
    learning_rate: float = 0.01
    """peak learning rate"""
    eval_every: int = 500
    """steps between evaluations on the validation part; step 0 and the last step are always evaluated"""
    sample_every: int = aside(0, "train")
    """steps between samples; 0: at steps 0, 1, 2, 4, 8 ..."""
    model: Literal["lstm", "transformer"] = "lstm"
    """architecture"""
    encoder_layers: int = 1
    """layers that read the query"""
    decoder_layers: int = 1
    """layers that write the answer"""
    hidden_dim: int = 128
    """units of each layer, H"""
    n_heads: int = 4
    """transformer: attention heads"""
    attention: bool = False
    """lstm: the decoder attends to the whole query, not only to the encoder's last state"""
    bidirectional: bool = False
    """lstm: the encoder reads the query in both directions"""
    columns: bool = False
    """align operands at their last digits, ' 1+24'; otherwise all blanks come last, '1+24 '"""
    reverse: bool = False
    """write the answer from its last digit to its first"""
    vary: bool = True
    """image_to_text: in training, rotate, scale and shift every picture a little each time it is used"""
    teacher_forcing: float = 1.0
    """share of the decoder's input characters in training that are the true ones; the rest are the model's
    own output"""
    weight_decay: float = 0.01
    """decoupled weight decay of all matrices; each step shrinks them by this number times the learning
    rate"""
    dropout: float = 0.0
    """share of values set to 0 in training, between encoder and decoder and between decoder and head"""
    clip: float = 1.0
    """largest norm of the gradient; a larger gradient is scaled down to it"""
    query: str | None = aside(None, "ask")
    """ask: the query, as in --query="81+24" """

    def __post_init__(self):
        super().__post_init__()
        for name in ("encoder_layers", "decoder_layers"):
            require(1 <= getattr(self, name) <= 12, self, name, "from 1 to 12")
        for name in ("hidden_dim", "n_heads"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        even = self.model == "lstm" or self.hidden_dim % self.n_heads == 0
        require(even, self, "hidden_dim", f"a multiple of --n_heads, {self.n_heads}")
        for name in ("attention", "bidirectional"):
            lstm_only = self.model == "lstm" or not getattr(self, name)
            require(lstm_only, self, name, "False with --model=transformer, which always does this")
        teaches = self.mode != "text_to_image" or self.teacher_forcing == 1
        require(teaches, self, "teacher_forcing", f"1 with --mode={self.mode}")
        require(0 <= self.teacher_forcing <= 1, self, "teacher_forcing", "from 0 to 1")
        has_pictures = self.mode != "text_to_text" or not self.transpose
        require(has_pictures, self, "transpose", f"False with --mode={self.mode}, which has no pictures")
        require(0 < self.train_fraction < 1, self, "train_fraction", "above 0 and below 1")
        require(1 <= self.digits <= arithmetic.MOST_DIGITS, self, "digits", f"1 to {arithmetic.MOST_DIGITS}")
        in_order = "".join(op for op in arithmetic.OPERATORS if op in self.ops)
        require(
            self.ops != "" and self.ops == in_order,
            self,
            "ops",
            f"some of {arithmetic.OPERATORS}, in this order",
        )
        require(0 <= self.dropout < 1, self, "dropout", "from 0 to below 1")
        require(self.weight_decay >= 0, self, "weight_decay", "at least 0")
        require(self.clip > 0, self, "clip", "above 0")
        require(self.query is None or self.task == "ask", self, "query", "used with --task=ask")
        require(self.query is not None or self.task != "ask", self, "query", "given: 81+24, for example")


# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True)
class Data:
    """All queries in three parts, and the pictures with which their characters are drawn, if --mode has
    pictures.
    """

    splits: arithmetic.ArithmeticSplits
    digits: digits.DigitSplits | None

    @property
    def name(self) -> str:
        return self.splits.name + (f", pictures of {self.digits.name}" if self.digits else "")

    @property
    def content_hash(self) -> str:
        if self.digits is None:
            return self.splits.content_hash
        both = f"{self.splits.content_hash} {self.digits.content_hash} {glyphs.VERSION}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    @property
    def train(self) -> Queries:
        return self.splits.train


def load_data(cfg: Config) -> Data:
    """The queries of `cfg`, with pictures where --mode has them. Raises DataError where these are missing."""
    splits = arithmetic.load(cfg.ops, cfg.digits, cfg.train_fraction, cfg.columns)
    if cfg.mode == "text_to_text":
        return Data(splits, None)
    return Data(splits, glyphs.load(cfg.dataset, cfg.data_dir, cfg.transpose))


def drawers(data: Data, device: torch.device, vary: bool = False) -> dict[str, glyphs.Glyphs | None]:
    """For each part, an object that draws its characters with digit pictures of that part, so that test
    pictures are unseen. vary: pictures of the training part are a little different each time.
    """
    if data.digits is None:
        return dict.fromkeys(arithmetic.PARTS)
    varied = {part: vary and part == "train" for part in arithmetic.PARTS}
    return {part: glyphs.Glyphs(data.digits, part, device, varied[part]) for part in arithmetic.PARTS}


def some_pictures(data: Data, glyph: glyphs.Glyphs, cfg: Config) -> Tensor:
    """(K, 28, 28), equally many of each character that answers contain: the initial pictures of a model that
    draws.
    """
    alphabet, chars = data.splits.alphabet, data.train.tgt.unique()
    ids = chars[torch.arange(N_PICTURES) % len(chars)]
    return glyph.draw(ids[None], alphabet, make_rng(cfg.seed, 0, "init", glyph.images.device))[0]


@dataclass(frozen=True)
class Batch:
    """src (B, Q) ids or (B, Q, 28, 28); tgt (B, A) ids as they are written; drawn (B, A, 28, 28) or None."""

    src: Tensor
    tgt: Tensor
    drawn: Tensor | None = None


def batch_of(
    src: Tensor, tgt: Tensor, glyph: glyphs.Glyphs | None, rng: torch.Generator, cfg: Config, alphabet: str
) -> Batch:
    """src (B, Q) and tgt (B, A), ids, as the model gets them; rng draws the pictures."""
    if cfg.reverse:
        tgt = arithmetic.reverse(tgt.long(), alphabet)
    src, tgt = src.long(), tgt.long()
    if cfg.mode == "image_to_text":
        return Batch(glyph.draw(src, alphabet, rng), tgt)
    return Batch(src, tgt, glyph.draw(tgt, alphabet, rng) if cfg.mode == "text_to_image" else None)


# ------------------------------------------------------------------------------------------------ model


def build(cfg: Config, alphabet: str, device: torch.device) -> LSTM | Transformer:
    """The model of `cfg` on `device`; its initial weights are a function of the seed."""
    width = arithmetic.answer_width(cfg.ops, cfg.digits)
    reads, writes = cfg.mode.split("_to_")
    layers, ends = (cfg.hidden_dim, cfg.encoder_layers, cfg.decoder_layers), (cfg.dropout, reads, writes)
    with seeded(cfg.seed):
        if cfg.model == "lstm":
            model = LSTM(len(alphabet), width, *layers, cfg.attention, cfg.bidirectional, *ends)
        else:
            n = arithmetic.query_width(cfg.digits)
            model = Transformer(len(alphabet), n, width, *layers, cfg.n_heads, *ends)
    return model.to(device)


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over at most the first 200 steps, then down to 0 along a half cosine."""
    warm = max(1, min(200, cfg.steps // 10))
    return cfg.learning_rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / cfg.steps))


def optimizer_of(model: torch.nn.Module, cfg: Config) -> torch.optim.Optimizer:
    """AdamW; weight decay acts on matrices only, and not on pictures."""
    decayed = {name: name != "pictures" and p.ndim >= 2 for name, p in model.named_parameters()}
    groups = [
        {"params": [p for name, p in model.named_parameters() if decayed[name] == yes], "weight_decay": decay}
        for yes, decay in ((True, cfg.weight_decay), (False, 0.0))
    ]
    fused = next(model.parameters()).device.type != "mps"
    return torch.optim.AdamW(groups, cfg.learning_rate, betas=(0.9, 0.98), fused=fused)


# ------------------------------------------------------------------------------------------------ objective


def loss_fn(model: torch.nn.Module, batch: Batch, rng: torch.Generator | None, cfg: Config) -> Tensor:
    """−log p(character | query, those before it), mean over all, blanks too; or −log p(picture), mean over
    pictures; nats. rng: in training, draws the dropout and the places where the input is the model's own
    character.

    The only place where it is written, for training and validation.
    """
    hide = rng if cfg.dropout else None
    before = batch.tgt[:, :-1] if batch.drawn is None else None
    with torch.autocast(batch.tgt.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        if rng is not None and cfg.teacher_forcing < 1:  # never if answers are pictures
            with torch.no_grad():
                own = model(batch.src, before)[:, :-1].argmax(2)
            torch.clear_autocast_cache()  # older versions kept these weights' casts, which have no gradient
            true = torch.rand(before.shape, generator=rng, device=rng.device) < cfg.teacher_forcing
            before = torch.where(true, before, own)
        logits = model(batch.src, before, hide)
    if batch.drawn is not None:  # sums over 784 pixels: float32
        return model.nats_of(batch.drawn, logits).mean()
    return F.cross_entropy(logits.flatten(0, 1), batch.tgt.flatten())


def in_reverse(x: Tensor, ids: Tensor, alphabet: str) -> Tensor:
    """Pictures x (B, A, 28, 28) of answers that are read as ids (B, A), in reverse order."""
    return x.gather(1, arithmetic.reversed_places(ids, alphabet)[..., None, None].expand_as(x))


@dataclass(frozen=True)
class Reader:
    """The frozen classifier that reads drawn answers. accuracy: its accuracy on real pictures of the test
    part.
    """

    model: classifier.Classifier
    accuracy: float

    def read(self, logits: Tensor) -> Tensor:
        """Logits (B, A, 28, 28) → ids (B, A)."""
        x = torch.sigmoid(logits).mul(255).round().byte().cpu()
        return classifier.classify(self.model, x.flatten(0, 1)).view(x.shape[:2])


def reader_of(cfg: Config, data: Data) -> Reader | None:
    """The reader, if answers are drawn; it is trained now unless it is in --data_dir already."""
    if cfg.mode != "text_to_image":
        return None
    known = glyphs.classes(data.digits, data.splits.alphabet)
    model, _ = classifier.load(known, cfg.data_dir)
    return Reader(model, classifier.accuracy(model, known.test, known.test_labels))


def batches(
    queries: Queries, glyph: glyphs.Glyphs | None, cfg: Config, alphabet: str, device: torch.device
) -> Iterator[Batch]:
    """All queries in batches of N_AT_ONCE; their pictures are the same at every call."""
    rng = make_rng(cfg.seed, 0, "eval", device)
    for src, tgt in zip(queries.src.split(N_AT_ONCE), queries.tgt.split(N_AT_ONCE), strict=True):
        yield batch_of(src.to(device), tgt.to(device), glyph, rng, cfg, alphabet)


@torch.no_grad()
def answers(
    model: torch.nn.Module,
    queries: Queries,
    glyph: glyphs.Glyphs | None,
    cfg: Config,
    alphabet: str,
    reader: Reader | None,
    device: torch.device,
) -> tuple[Tensor, float]:
    """The model's answers to all queries, ids (N, A) in normal reading order, on the CPU; and its mean
    loss.
    """
    answered, total = [], 0.0
    for batch in batches(queries, glyph, cfg, alphabet, device):
        total += loss_fn(model, batch, None, cfg).item() * len(batch.src)
        made = model.answer(batch.src)
        ids = made.cpu() if reader is None else reader.read(made)
        answered.append(arithmetic.reverse(ids, alphabet) if cfg.reverse else ids)
    return torch.cat(answered), total / len(queries)


@torch.no_grad()
def pictures_of(
    model: torch.nn.Module,
    queries: Queries,
    ids: Tensor,
    rows: Tensor,
    glyph: glyphs.Glyphs,
    cfg: Config,
    alphabet: str,
    device: torch.device,
) -> Tensor:
    """What `answers`, which said ids (N, A), saw of some rows (R,), in rising order: the handwritten queries,
    or the answers that the model drew, as one reads them; (R, 1, 28, 28 T) in [0, 1], on the CPU.
    """
    shown = []
    for i, batch in enumerate(batches(queries, glyph, cfg, alphabet, device)):
        here = rows[rows // N_AT_ONCE == i]
        if not len(here):
            continue
        if cfg.mode == "image_to_text":
            x = batch.src[here - i * N_AT_ONCE].cpu()
        else:
            x = torch.sigmoid(model.answer(batch.src)[here - i * N_AT_ONCE]).cpu()
            x = in_reverse(x, ids[here], alphabet) if cfg.reverse else x
        shown.append(torch.cat(tuple(x.unbind(1)), 2)[:, None])  # the characters' pictures side by side
    return torch.cat(shown)


# ------------------------------------------------------------------------------------------------ samples


@torch.no_grad()
def samples(
    model: torch.nn.Module,
    data: Data,
    glyph: glyphs.Glyphs | None,
    cfg: Config,
    reader: Reader | None,
    device: torch.device,
    step: int,
) -> dict[str, Any]:
    """A page of answers to the same queries at every step, right and wrong, with pictures if there are
    any.
    """
    val, alphabet = data.splits.val, data.splits.alphabet
    shown = Queries(*(getattr(val, f.name)[:N_SHOWN] for f in dataclasses.fields(Queries)))
    ids, _ = answers(model, shown, glyph, cfg, alphabet, reader, device)
    rows = mistakes.table(ids, shown, alphabet, range(len(shown)))
    cells = [[pages.literal(v, "wrong" if row["mistake"] else "right") for v in row.values()] for row in rows]
    title = f"Answers to validation queries, {data.name}, step {step:,}"
    made: dict[str, Any] = {"sample/answers": html(pages.page(title, pages.table(cells, [*rows[0]])))}
    if glyph is None:
        return made
    every = torch.arange(len(shown))
    tiles = pictures_of(model, shown, ids, every, glyph, cfg, alphabet, device)
    reads = cfg.mode == "image_to_text"
    what = "Handwritten validation queries" if reads else "Drawn answers to validation queries"
    title = f"{what}, {data.name}, step {step:,}"
    labels = [mistakes.told(row) for row in rows]
    return made | {"sample/pictures": picture(pictures.grid, tiles, 1, labels, None, title)}


# ------------------------------------------------------------------------------------------------ training


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen, and its goal: the share of right answers."""
    return "val/exact_match", "maximize"


def train(cfg: Config) -> dict[str, float]:
    data = load_data(cfg)
    cfg, alphabet = with_epochs(cfg, len(data.train)), data.splits.alphabet
    model = build(cfg, alphabet, torch.device("cpu"))
    if cfg.checkpoint:
        # otherwise the test part could contain queries that were learned
        load_weights(cfg, model, same=("digits", "train_fraction"))
    run: Run = start_run(cfg, __file__, KEY_VERSION, data, headline(cfg))
    if run.finished:
        return run.metrics
    device = run.device
    model.to(device)
    optimizer = optimizer_of(model, cfg)
    glyph = drawers(data, device, cfg.vary and cfg.mode == "image_to_text")
    if model.pictures is not None and not cfg.checkpoint:
        model.begin_with(some_pictures(data, glyph["train"], cfg))
    reader = reader_of(cfg, data)
    src, tgt = (t.to(device) for t in (data.train.src, data.train.tgt))
    one = batch_of(src[:1], tgt[:1], glyph["train"], run.rng(0), cfg, alphabet)
    run.describe(model, *((one.src,) if one.drawn is not None else (one.src, one.tgt[:, :-1])))
    forward = torch.compile(model) if cfg.compile else model
    for step, last in run.loop(model, optimizer):  # steps 0 … cfg.steps; the last one makes no update
        metrics = {}

        # once in a while: how many unseen queries does the model answer correctly? The best weights are kept
        if run.due("eval", step):
            ids, loss = answers(model, data.splits.val, glyph["val"], cfg, alphabet, reader, device)
            metrics |= {"val/loss": loss} | mistakes.figures(ids, data.splits.val, alphabet, "val")
            run.keep_best(model, metrics, step)

        # what the model answers now; its random stream is separate, so it does not affect the training
        if run.due("sample", step):
            metrics |= samples(model, data, glyph["val"], cfg, reader, device, step)

        # at the end, once: the test part, with the best weights
        if last:
            metrics |= final(run.best(model), data, glyph["test"], cfg, reader, device)

        # one update; its queries and how they are drawn are functions of (seed, step)
        if not last:
            rows, rng = run.batch_indices(step), run.rng(step)
            batch = batch_of(src[rows], tgt[rows], glyph["train"], rng, cfg, alphabet)
            loss, rate = loss_fn(forward, batch, rng, cfg), lr_at(step, cfg)
            for group in optimizer.param_groups:
                group["lr"] = rate
            model.zero_grad(set_to_none=True)  # the optimizer's own zero_grad takes several times as long
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            optimizer.step()
            run.update(loss)
            if run.due("log", step):
                metrics |= {"train/loss": loss, "train/grad_norm": norm, "train/learning_rate": rate}

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


def final(
    best: torch.nn.Module,
    data: Data,
    glyph: glyphs.Glyphs | None,
    cfg: Config,
    reader: Reader | None,
    device: torch.device,
) -> dict[str, Any]:
    """The metrics of the test part, once, with the best weights, and the map of mistakes."""
    test, alphabet = data.splits.test, data.splits.alphabet
    ids, loss = answers(best, test, glyph, cfg, alphabet, reader, device)
    metrics: dict[str, Any] = {"test/loss": loss} | mistakes.figures(ids, test, alphabet, "test")
    metrics |= mistakes.breakdown(ids, test, alphabet, "test")
    if reader is not None:
        metrics["test/reader_accuracy"] = reader.accuracy
    found = mistakes.maps((ids == test.tgt).all(1), test, cfg.digits)
    return metrics | {"sample/map": picture(mistakes.map_picture, found, cfg.digits, data.name)}


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.seq2seq_arith")
