"""Character language models: an LSTM, a TCN and a Transformer behind one loop.

What    Each learns p(next character | the characters before it) from windows of a text. All three score the
        same positions: every character of the text except the first, each from the characters before it in
        its window.
Run     python research/charlm.py                                                # Python's manual, embedded
        python research/charlm.py --dataset=shakespeare --model=lstm
        python research/charlm.py --dataset=songs.csv --model=tcn --cut=lines
        python research/charlm.py --task=generate --checkpoint=runs/<run> --start="To be" --chars=300
        from research.tasks.charlm import LyricsGenerator; LyricsGenerator("I walk", 300)   # in Python
        python launch/local.py sweeps/charlm_arch.yaml      or: wandb sweep sweeps/charlm_arch.yaml
Expect  Time and test figures: the headers of sweeps/charlm*.yaml.
Models  research/parts/charlm_models.py, with their sources and departures.
Sources Cross-entropy and windows as in nanoGPT (github.com/karpathy/nanoGPT); Loshchilov & Hutter 2019
        (arXiv:1711.05101, AdamW); Jordan et al. 2024 (kellerjordan.github.io/posts/muon, Muon).
Departs Muon on the hidden matrices, AdamW on the rest; the learning rate falls to 0 along a straight line.
Shapes  B batch, T time = --seq_len characters, V vocabulary; tokens (B, T) int64, logits (B, T, V).
Units   loss in nats per character; bpc, bits per character, is loss / ln 2, both over the whole part.
"""

import bisect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import text
from data.characters import shown
from research.common.checkpoints import load_file, load_weights, resolve
from research.common.commandline import main
from research.common.flags import RunFlags, aside, require, resolved, with_epochs
from research.common.media import File, html
from research.common.messages import UserError, console, escape
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.parts import charlm_pages as pages
from research.parts.charlm_models import LSTM, TCN, Transformer
from research.parts.charlm_sampling import DRAWN, STRATEGIES, Decoding, generate, statistics, writer
from research.parts.text_flags import TEXT_FLAGS, TextFlags, load_text

KEY_VERSION = 1  # raised when a default or a meaning changes: runs then get new keys
DATA_FLAGS = ("dataset", "data_dir", *TEXT_FLAGS)  # what load_data depends on
TASKS = ("train", "generate", "evaluate")
LEARNING_RATES = {"lstm": 0.008, "tcn": 0.002, "transformer": 0.002}  # why: sweeps/charlm_lr.yaml
IGNORED = -1  # target at the positions after the end of a shorter sequence, where there is no character
N_PROMPTS, PROMPT_CHARS, SHOWN_CHARS = 3, 40, 60  # of the samples while training
ON_DEVICE = 64 << 20  # characters; a longer part stays on the CPU, and only its rows go to the device
COPY_LIMIT = 20_000_000  # characters of the training text in which copied spans are searched for


@dataclass(frozen=True, kw_only=True)
class Config(TextFlags, Decoding, RunFlags):
    """Character language models: an LSTM, a TCN and a Transformer behind one loop."""

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes its results beside it"""
    dataset: str = aside("pydoc")
    """pydoc (embedded), shakespeare, a text file, or a CSV of lyrics (artist, song, lyrics)"""
    steps: int = 2000
    """training length in steps; a step is one optimiser update"""
    batch_size: int = 12
    """windows per step"""
    learning_rate: float | None = resolved(0.002)
    """peak learning rate of AdamW; Muon's is ten times as high. Default: 0.008 for lstm, 0.002 for tcn and
    transformer"""
    eval_every: int = 250
    """steps between evaluations on the validation part; step 0 and the last step are always evaluated"""
    sample_every: int = aside(0, "train")
    """steps between samples; 0: at steps 0, 1, 2, 4, 8 ..."""
    model: Literal["lstm", "tcn", "transformer"] = "transformer"
    """architecture"""
    n_layers: int = 4
    """lstm: number of layers; tcn: number of residual blocks, each with two convolutions; transformer: number
    of attention blocks"""
    n_heads: int = 4
    """transformer: attention heads"""
    embed_dim: int = 128
    """size of a character's embedding; transformer: width of all layers"""
    hidden_dim: int = 256
    """lstm: units; tcn: channels"""
    parameters: int | None = None
    """number of parameters of the model; --hidden_dim (lstm, tcn) or --embed_dim (transformer) is then chosen
    accordingly"""
    kernel_size: int = 3
    """tcn: number of characters that a convolution sees"""
    norm: Literal["layer", "none"] = "layer"
    """tcn: layer: normalise the input of each convolution; none: the block as published"""
    pos: Literal["none", "learned", "rope"] = "rope"
    """transformer: how positions enter the model: not at all (none), by a learned table (learned), or by
    rotation (rope)"""
    seq_len: int = 64
    """number of characters in a window, T; a transformer attends no further back"""
    dropout: float = 0.0
    """share of hidden values set to 0 in training"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon on the hidden matrices, AdamW on everything else; adamw: AdamW on everything"""
    weight_decay: float = 0.01
    """decoupled weight decay of all matrices; each step shrinks them by this number times the learning
    rate"""
    clip: float = 1.0
    """largest norm of the gradient; a larger gradient is scaled down to it"""
    start: str = aside("", "generate")
    """generate: what the text begins with; may be empty"""
    chars: int = aside(500, "generate")
    """generate: number of characters that follow --start"""
    samples: int = aside(1, "generate")
    """generate: how many texts"""
    strategy: Literal[STRATEGIES] = aside("top_p", "generate")
    """generate: how the next character is chosen"""
    text: str | None = aside(None, "evaluate")
    """evaluate: a text file to score; default: the test part"""

    def __post_init__(self):
        if self.learning_rate is None:  # from here on it is a number, which config.json and the key contain
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.model])
        for flags in (RunFlags, TextFlags, Decoding):
            flags.__post_init__(self)
        for name in ("n_layers", "n_heads", "embed_dim", "hidden_dim", "seq_len", "samples"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        large_enough = self.parameters is None or self.parameters >= 1000
        require(large_enough, self, "parameters", "at least 1000")
        require(self.kernel_size >= 2, self, "kernel_size", "at least 2")
        require(self.seq_len >= 2, self, "seq_len", "at least 2")
        most = 16 if self.model == "tcn" else 64  # the dilation doubles
        require(self.n_layers <= most, self, "n_layers", f"from 1 to {most} with --model={self.model}")
        even = self.model != "transformer" or self.parameters or self.embed_dim % (2 * self.n_heads) == 0
        require(bool(even), self, "embed_dim", f"a multiple of 2 × {self.n_heads}, twice the --n_heads")
        require(0 <= self.dropout < 1, self, "dropout", "from 0 to below 1")
        require(self.weight_decay >= 0, self, "weight_decay", "at least 0")
        require(self.clip > 0, self, "clip", "above 0")
        varies = self.samples == 1 or self.strategy in DRAWN
        require(
            varies, self, "samples", f"1 with --strategy={self.strategy}, which always writes the same text"
        )
        require(self.chars >= 0, self, "chars", "at least 0")


# ------------------------------------------------------------------------------------------------ model


def net(cfg: Config, v: int, width: int | None = None) -> LSTM | TCN | Transformer:
    """The model of `cfg` for v characters; width: in place of --embed_dim (transformer) or --hidden_dim."""
    if cfg.model == "transformer":
        sizes = v, width or cfg.embed_dim, cfg.n_layers, cfg.n_heads, cfg.seq_len
        return Transformer(*sizes, cfg.pos, cfg.dropout)
    if cfg.model == "tcn":
        sizes = v, cfg.embed_dim, width or cfg.hidden_dim, cfg.n_layers, cfg.kernel_size
        return TCN(*sizes, cfg.dropout, cfg.norm)
    return LSTM(v, cfg.embed_dim, width or cfg.hidden_dim, cfg.n_layers, cfg.dropout)


def width_for(cfg: Config, v: int) -> int | None:
    """The width that brings the number of parameters nearest to --parameters; None if that flag is not
    given.
    """
    if cfg.parameters is None:
        return None
    unit = 2 * cfg.n_heads if cfg.model == "transformer" else 1

    def count(k: int) -> int:
        with torch.device("meta"):  # sizes without weights
            return sum(p.numel() for p in net(cfg, v, k * unit).parameters())

    k = 1 + bisect.bisect_left(range(1, 8192 // unit), cfg.parameters, key=count)
    k = min((k - 1 or 1, k), key=lambda k: abs(count(k) - cfg.parameters))
    near = abs(count(k) - cfg.parameters) <= 0.1 * cfg.parameters
    require(near, cfg, "parameters", f"one that these layers can have; the nearest is {count(k):,}")
    return unit * k


def build(cfg: Config, alphabet: str, device: torch.device) -> nn.Module:
    """The model of `cfg` on `device`, with its alphabet; its initial weights are a function of the seed."""
    width = width_for(cfg, len(alphabet))
    with seeded(cfg.seed):
        model = net(cfg, len(alphabet), width)
    model.register_buffer("alphabet", torch.tensor([ord(c) for c in alphabet], dtype=torch.int32))
    return model.to(device)


def optimizers(model: nn.Module, cfg: Config) -> list[torch.optim.Optimizer]:
    """AdamW, after Muon where hidden matrices have it: those between embedding and head."""
    outer = ("embedding", "positions", "head")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if p.ndim == 2 and not name.startswith(outer)]
    made = []
    if cfg.optimizer == "muon" and hidden:
        made.append(torch.optim.Muon(hidden, 10 * cfg.learning_rate, weight_decay=cfg.weight_decay))
        named = [(name, p) for name, p in named if all(p is not h for h in hidden)]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},  # biases and gains
    ]
    fused = next(model.parameters()).device.type != "mps"
    return [*made, torch.optim.AdamW(groups, cfg.learning_rate, betas=(0.9, 0.95), fused=fused)]


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over at most the first 100 steps, then down to 0 along a straight line."""
    warm = max(1, min(100, cfg.steps // 20))
    return cfg.learning_rate * min((step + 1) / warm, (cfg.steps - step) / max(1, cfg.steps - warm))


# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True)
class Part:
    """A part of the text as sequences, from which rows of at most --seq_len characters are cut.

    ids (N,): the whole part. In sequence s, the lengths[s] characters after ids[begin[s]] are scored, each
    from those before it. release: called after rows were read, because the rows of a memory-mapped text would
    stay in memory.
    """

    ids: Tensor
    begin: Tensor  # (S,)
    lengths: Tensor
    seq_len: int
    release: Callable[[], None] | None = None

    def to(self, device: torch.device) -> "Part":
        """The same on `device`, unless it is too large for that."""
        if self.ids.numel() > ON_DEVICE:
            return self
        moved = (t.to(device) for t in (self.ids, self.begin, self.lengths))
        return Part(*moved, self.seq_len, self.release if device.type == "cpu" else None)

    def n_rows(self) -> int:
        """The number of rows in which every character of the part is scored once."""
        last = self.seq_len - 1  # as in `ends`, which takes memory for each sequence
        return sum(int(((some + last) // self.seq_len).sum()) for some in self.lengths.split(text.BLOCK))

    @cached_property
    def ends(self) -> Tensor:
        """The number of rows of each sequence and all sequences before it together, (S,)."""
        return ((self.lengths + self.seq_len - 1) // self.seq_len).cumsum(0)

    def pieces(self, some: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where rows begin and how many characters are scored in each, (R,), so that every character of the
        part is scored once; or only `some` of these rows.
        """
        r = torch.arange(self.n_rows(), device=self.ids.device) if some is None else some
        s = torch.searchsorted(self.ends, r, right=True)
        first = torch.where(s > 0, self.ends[(s - 1).clamp(min=0)], 0)
        done = self.seq_len * (r - first)
        return self.begin[s] + done, (self.lengths[s] - done).clamp(max=self.seq_len)

    def rows(self, begin: Tensor, lengths: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens and targets (R, T) from ids[begin]; targets are IGNORED beyond `lengths` characters."""
        place = torch.arange(self.seq_len + 1, device=begin.device)
        window = self.ids[(begin[:, None] + place).clamp(max=len(self.ids) - 1)].to(device).long()
        if self.release is not None:
            self.release()
        beyond = (place[:-1] >= lengths[:, None]).to(device)
        return window[:, :-1], window[:, 1:].masked_fill(beyond, IGNORED)

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n random rows: each is a random window of a random sequence, or the whole sequence if it is
        shorter.
        """
        device, at = rng.device, self.begin.device
        s = torch.randint(len(self.begin), (n,), generator=rng, device=device).to(at)
        exact = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
        where = torch.rand(n, generator=rng, device=device, dtype=exact).to(at)
        offset = (where * (self.lengths[s] - self.seq_len + 1).clamp(min=1)).long()
        lengths = (self.lengths[s] - offset).clamp(max=self.seq_len)
        return self.rows(self.begin[s] + offset, lengths, device)


@dataclass(frozen=True)
class Data:
    """A text and its parts; train: the rows of one pass over the training part."""

    text: text.TextSplits
    parts: dict[str, Part]
    train: range

    @property
    def name(self) -> str:
        return self.text.name

    @property
    def content_hash(self) -> str:
        return self.text.content_hash

    @cached_property
    def known(self) -> str:
        """The training text in which copies are searched for, up to COPY_LIMIT characters."""
        pieces = []
        for ids in self.text.train[:COPY_LIMIT].split(text.BLOCK):
            pieces.append(text.decode(ids, self.text.alphabet))
            self.text.release()
        return "".join(pieces)


def load_data(cfg: Config) -> Data:
    """The text of `cfg`. Raises DataError when it is missing or unusable."""
    splits = load_text(cfg)
    parts = {name: part_of(splits, name, cfg) for name in text.PARTS}
    return Data(splits, parts, range(parts["train"].n_rows()))


def rows_of(ids: Tensor, starts: Tensor, cfg: Config, release: Callable[[], None] | None = None) -> Part:
    """ids (N,) as a part: one sequence, or lines that begin at `starts`, each read from the end of the line
    before it.
    """
    if cfg.cut == "stream":  # songs follow one another, too: each ends with its own mark
        starts = torch.tensor([0, len(ids)])
    begin = (starts[:-1] - 1).clamp_(min=0)  # the first line has no end of a line before it
    return Part(ids, begin, (starts[1:] - begin).sub_(1), cfg.seq_len, release)


def part_of(splits: text.TextSplits, name: str, cfg: Config) -> Part:
    """The part `name` of a text."""
    release = None if splits.mapping is None else splits.release
    return rows_of(getattr(splits, name), getattr(splits, f"{name}_starts"), cfg, release)


# ------------------------------------------------------------------------------------------------ objective


def loss_fn(
    model: nn.Module, rows: tuple[Tensor, Tensor], rng: torch.Generator | None, cfg: Config
) -> tuple[Tensor, Tensor]:
    """−log p(character | those before it in its row), mean over the scored characters, nats; and how many.

    The only place where it is written, for training (rng draws the dropout) and validation (rng is None).
    """
    tokens, targets = rows
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        logits = model(tokens, rng)  # (B, T, V)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    return nats, (targets != IGNORED).sum()


@torch.no_grad()
def evaluate(model: nn.Module, part: Part, name: str, cfg: Config, device: torch.device) -> dict[str, float]:
    """Loss and bits per character over a whole part, each character once; keys as in docs/METRICS.md."""
    total = torch.zeros(2, dtype=torch.float64)
    n_rows, at_once = part.n_rows(), max(1, 8192 // cfg.seq_len)
    for first in range(0, n_rows, at_once):
        some = torch.arange(first, min(first + at_once, n_rows), device=part.ids.device)
        nats, n = loss_fn(model, part.rows(*part.pieces(some), device), None, cfg)
        total += torch.stack([nats * n, n]).cpu().double()
    nats = (total[0] / total[1]).item()
    return {f"{name}/loss": nats, f"{name}/bpc": nats / math.log(2)}


# ------------------------------------------------------------------------------------------------ samples


@torch.no_grad()
def samples(model: nn.Module, data: Data, cfg: Config, device: torch.device, step: int) -> dict[str, Any]:
    """What the model writes after fixed prompts with every strategy, and figures of these texts; the random
    draws are the same at every step. Each strategy has draws of its own, because with shared draws all would
    write nearly the same.
    """
    alphabet, val = data.text.alphabet, data.parts["val"]
    n = min(PROMPT_CHARS + SHOWN_CHARS, len(val.ids))
    at = torch.linspace(0, len(val.ids) - n, N_PROMPTS).long()[:, None]
    shown = val.ids[at + torch.arange(n)].long()
    prompt, truth = shown[:, :PROMPT_CHARS].to(device), shown[:, PROMPT_CHARS:]
    made, pen = {}, writer(model, cfg.cut, alphabet)
    for strategy in STRATEGIES:
        # temperature, whose figures are logged, keeps the draws that older runs have used
        rng = make_rng(cfg.seed, 0, "pictures", of=() if strategy == "temperature" else (strategy,))
        made[strategy] = generate(pen, prompt, SHOWN_CHARS, Decoding(strategy=strategy), rng).cpu()
    written = {k: [text.decode(row, alphabet) for row in rows] for k, rows in made.items()}
    figures = statistics("\n".join(written["temperature"]), data.known)
    prompts, truths = ([text.decode(row, alphabet) for row in rows] for rows in (prompt, truth))
    title = f"{cfg.model}, {pages.when(step, max(1, len(data.train) // cfg.batch_size))}"
    page: File = html(pages.continuations(prompts, truths, written, title))
    return {f"sample/{k}": v for k, v in figures.items()} | {"sample/continuations": page}


# ------------------------------------------------------------------------------------------------ training


def check_batch(cfg: Config, data: Data) -> None:
    """Refuse a --seq_len or --batch_size for which the training part is too short."""
    n, longest = len(data.train), int(data.parts["train"].lengths.max())
    if n < cfg.batch_size and cfg.cut == "stream":
        require(
            cfg.seq_len <= longest, cfg, "seq_len", f"at most {longest:,}, the length of the training part"
        )
    most = f"at most {n:,}, the sequences of --seq_len={cfg.seq_len} characters in the training part"
    require(n >= cfg.batch_size, cfg, "batch_size", most)


def alphabet_of(cfg: Config, file: Path) -> str:
    """The characters that the model in a checkpoint knows. Raises UserError, which names --checkpoint."""
    try:
        return "".join(map(chr, load_file(file)["states"][0]["alphabet"].tolist()))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"--checkpoint={cfg.checkpoint}: not a character model") from None


def check_alphabet(cfg: Config, known: str, wanted: str) -> None:
    """Refuse weights of a model with other characters than those of --dataset."""
    differ = [*text.unknown(wanted, known), *text.unknown(known, wanted)]
    some = ", ".join(map(shown, differ[:5])) + (" and others" if len(differ) > 5 else "")
    allowed = "of a model that knows the same characters as --dataset"
    require(not differ, cfg, "checkpoint", f"{allowed}; only one of the two has {some}")


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen, and its goal: bits per character."""
    return "val/bpc", "minimize"


def train(cfg: Config) -> dict[str, float]:
    data = load_data(cfg)
    check_batch(cfg, data)
    cfg = with_epochs(cfg, len(data.train))
    model = build(cfg, data.text.alphabet, torch.device("cpu"))
    if cfg.checkpoint:
        file = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts")
        check_alphabet(cfg, alphabet_of(cfg, file), data.text.alphabet)
        load_weights(cfg, model, file)
    run: Run = start_run(cfg, __file__, KEY_VERSION, data, headline(cfg))
    if run.finished:
        return run.metrics
    for line in data.text.report:
        console.print(escape(line))
    device = run.device
    model.to(device)
    optimizer = optimizers(model, cfg)
    part = data.parts["train"].to(device)
    run.describe(model, torch.zeros(1, cfg.seq_len, dtype=torch.int64, device=device))
    forward = torch.compile(model) if cfg.compile else model
    for step, last in run.loop(model, optimizer):  # steps 0 … cfg.steps; the last one makes no update
        metrics = {}

        # once in a while: how well does the model predict text it has not seen? The best weights so far are
        # kept
        if run.due("eval", step):
            metrics |= evaluate(model, data.parts["val"], "val", cfg, device)
            run.keep_best(model, metrics, step)

        # what the model writes now; its random stream is separate, so it does not affect the training
        if run.due("sample", step):
            if all(p.isfinite().all() for p in model.parameters()):
                metrics |= samples(model, data, cfg, device, step)
            else:  # there are no probabilities to draw from; the run ends as diverged
                metrics["train/loss"] = math.nan

        # at the end, once: the test part, with the best weights
        if last:
            metrics |= evaluate(run.best(model), data.parts["test"], "test", cfg, device)
            n = sum(p.numel() for p in model.parameters())
            name = f"{cfg.model}, {n:,} parameters, on {data.name}"
            metrics["sample/learned"] = pages.learned("sample/continuations", name, run.steps_per_epoch)

        # one update; its windows and its dropout are functions of (seed, step)
        if not last:
            rng = run.rng(step)
            loss, _ = loss_fn(forward, part.batch(cfg.batch_size, rng), rng if cfg.dropout else None, cfg)
            rate = lr_at(step, cfg)
            for one in optimizer:
                for group in one.param_groups:
                    group["lr"] = rate * (10 if isinstance(one, torch.optim.Muon) else 1)
                one.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            for one in optimizer:
                one.step()
            run.update(loss)
            if run.due("log", step):
                metrics |= {"train/loss": loss, "train/grad_norm": norm, "train/learning_rate": rate}

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.charlm")
