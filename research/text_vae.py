"""Variational autoencoder of sentences: text from a latent space, and remedies that keep the latents in use.

What    An encoder reads a sentence and returns a Gaussian q(z|x); a decoder writes the sentence again, token
        by token, seeing z at every step. The decoder can also ignore z, as a language model does, and
        training tends to end in this state (posterior collapse). Each remedy against it is a flag.
        --latent_dim=0 trains the language model.
Run     python research/text_vae.py                                       # embedded lines, by characters
        python research/text_vae.py --dataset=shakespeare --free_bits=0                     # no remedy
        python research/text_vae.py --dataset=shakespeare --latent_dim=0 --free_bits=0      # the baseline
        python research/text_vae.py --task=generate --checkpoint=runs/<run> --twist=modern
        python launch/local.py sweeps/text_vae.yaml      or: wandb sweep sweeps/text_vae.yaml
Expect  Lines of tinyshakespeare, 5 minutes of a core: a code of 5.9 nats in 14 to 16 latents, log-likelihood
        −63.4 nats a line beside −62.8 of the language model (three seeds each: sweeps/text_vae.yaml and
        text_vae_lm.yaml).
Sources Bowman et al. 2016 (arXiv:1511.06349): model, KL annealing (§3.1), word dropout (§3.2). Remedies: Fu
        et al. 2019 (arXiv:1903.10145), eq. 6: cyclical annealing; Kingma et al. 2016 (arXiv:1606.04934),
        app. C.8: free bits of each latent; Pelsmaeker & Aziz 2020 (arXiv:1904.08194), §3: of all in sum; Li
        et al. 2019 (arXiv:1909.00868), §3: an encoder trained first; Zhu et al. 2020 (arXiv:2004.12585),
        eq. 8: means of fixed variance. Burda et al. 2016 (arXiv:1509.00519), eq. 8: importance-weighted
        bound.
Departs Encoder and decoder share one embedding; z is part of every input of the decoder and its first state.
Shapes  B batch, T tokens of the longest sentence of a batch and its end, D latents, V vocabulary. The tokens
        that the decoder reads begin with BOS; those that it should write end with EOS; both are (B, T).
Units   Nats per sentence: reconstruction summed over its tokens and its end, KL summed over latents.
"""

import bisect
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import sentences
from data.sentences import BOS, EOS, PAD, UNK, Vocabulary
from research.common.checkpoints import load_file, load_weights, resolve
from research.common.commandline import main
from research.common.flags import RunFlags, aside, of_data, require, with_epochs
from research.common.media import html
from research.common.messages import UserError, console, escape
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.measure import latents
from research.parts import text_vae_pages as pages
from research.parts.charlm_sampling import STRATEGIES, Decoding
from research.parts.lstm import LSTMLayers
from research.parts.text_vae_writing import Writer, rebuilt, write_sentences

KEY_VERSION = 1  # raised when a default or a meaning changes: runs then get new keys
SENTENCE_FLAGS = ("level", "unit", "clean", "lower", "min_count", "vocab_size", "min_length", "max_length")
DATA_FLAGS = ("dataset", "data_dir", "encoding", "columns", *SENTENCE_FLAGS)  # what load_data depends on
TASKS = ("train", "generate", "interpolate", "evaluate", "twist")
TWISTS = ("none", "modern", "slang")
COLLAPSED_NATS = 0.5  # KL below which a run is said to have collapsed
N_SHOWN = 8  # sentences that are reconstructed, and samples of each strategy, while training
N_WEIGHTED, N_CODES = 500, 32  # test sentences for the importance-weighted bound, and codes drawn for each
N_REBUILT = 200  # test sentences that are compared with their reconstructions
N_WRITTEN = 200  # samples whose words are looked up at the end
N_MEASURED = 1000  # sentences for the mutual information; the estimate cannot exceed the ln of this number


@dataclass(frozen=True, kw_only=True)
class Config(Decoding, RunFlags):
    """Variational autoencoder of sentences, and the language model that is its baseline."""

    WITHOUT_CHECKPOINT: ClassVar[tuple[str, ...]] = ("train", "twist")

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes its results beside it; twist reads only a text"""
    dataset: str = aside("verses")
    """verses (embedded), shakespeare, pydoc, a text file, a CSV of lyrics, or a folder in the Penn Treebank's
    form"""
    level: Literal[sentences.LEVELS] = "char"
    """what a token is: a character, a word, or a piece of a word (bpe)"""
    unit: Literal[sentences.UNITS] = "lines"
    """what a sentence is: a line, or a sentence that may run over several lines"""
    clean: bool = True
    """leave out names of speakers, stage directions and notes in square brackets"""
    lower: bool = False
    """lower-case the text"""
    min_count: int = 2
    """level word: words that occur less often than this in the training part become <unk>"""
    vocab_size: int = 2000
    """level bpe: number of pieces"""
    min_length: int | None = None
    """sentences of fewer tokens are left out. Default: 8 characters, 2 words or pieces"""
    max_length: int | None = None
    """sentences of more tokens are left out. Default: 60 characters, 20 words, 30 pieces"""
    encoding: str | None = of_data(None)
    """encoding of the file of --dataset, such as cp1251; None: UTF-8, or what its byte order mark says"""
    columns: str | None = of_data(None)
    """names of the columns of a CSV of lyrics: artist=Band,song=Titel,lyrics=Text; None: the usual names"""
    steps: int = 2000
    """training length in steps; a step is one optimiser update"""
    batch_size: int = 64
    """sentences per step"""
    learning_rate: float = 0.008
    """peak learning rate of Adam"""
    eval_every: int = 250
    """steps between evaluations on the validation part; step 0 and the last step are always evaluated"""
    sample_every: int = aside(0, "train")
    """steps between samples; 0: at steps 0, 1, 2, 4, 8 ..."""
    latent_dim: int = 16
    """size D of the code z; 0: no code and no encoder, a language model"""
    embed_dim: int = 128
    """size of a token's embedding"""
    encoder_dim: int = 128
    """units of each direction of the encoder's LSTM"""
    hidden_dim: int = 256
    """units of the decoder's LSTM"""
    parameters: int | None = None
    """number of parameters of the model; --hidden_dim is then chosen accordingly"""
    beta: float = 1.0
    """weight β of the KL term"""
    anneal: Literal["none", "linear", "cyclical"] = "none"
    """weight of the KL term. none: always β; linear: rises once from 0 to β; cyclical: rises from 0 to β in
    each of --cycles cycles"""
    anneal_share: float = 0.5
    """share of the training (cyclical: of each cycle) over which the weight rises to β"""
    cycles: int = 4
    """anneal cyclical: how many times the weight rises"""
    free_bits: float = 6.0
    """nats of KL, summed over latents, that add nothing to the loss"""
    free_bits_per_latent: float = 0.0
    """nats of KL that add nothing to the loss, for each latent separately"""
    word_dropout: float = 0.0
    """share of the decoder's input tokens that are replaced by <unk> in training"""
    pretrain: int = 0
    """number of first steps without the KL term; after them the encoder is kept and a new decoder is
    trained"""
    batch_norm: float = 0.0
    """γ, the standard deviation over a batch to which the means of each latent are scaled, so that E[KL] ≥ D
    γ² / 2; 0: no scaling"""
    dropout: float = 0.0
    """share of the decoder's inputs and outputs set to 0 in training"""
    clip: float = 5.0
    """largest norm of the gradient; a larger gradient is scaled down to it"""
    twist: Literal[TWISTS] = aside("none", "generate", "interpolate", "twist")
    """generate, interpolate, twist: rewrite the text in today's English, or in slang"""
    strategy: Literal[STRATEGIES] = aside("temperature", "generate")
    """generate: how the next token is chosen"""
    no_repeat: int = aside(0, "generate")
    """generate: never write a run of this many tokens twice in a sentence; 0: no limit"""
    start: str = aside("", "generate")
    """generate: what each sentence begins with; may be empty"""
    samples: int = aside(10, "generate")
    """generate: how many sentences"""
    length: int = aside(0, "generate")
    """generate: largest number of tokens of a sentence, --start included; 0: --max_length"""
    sentence: str = aside("", "interpolate")
    """interpolate: the sentence to begin with; empty: one of the test part"""
    sentence2: str = aside("", "interpolate")
    """interpolate: the sentence to end with; empty: one of the test part"""
    text: str | None = aside(None, "twist")
    """twist: the text file to rewrite; default: standard input"""

    def __post_init__(self):
        for flags in (RunFlags, Decoding):
            flags.__post_init__(self)
        for name in ("embed_dim", "encoder_dim", "hidden_dim", "cycles", "min_count", "samples"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("latent_dim", "pretrain", "length"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("min_length", "max_length"):
            value = getattr(self, name)
            require(value is None or value >= 1, self, name, "at least 1")
        least, most = self.min_length, self.max_length
        require(not least or not most or least <= most, self, "max_length", f"at least --min_length={least}")
        require(self.vocab_size >= 100, self, "vocab_size", "at least 100")
        large_enough = self.parameters is None or self.parameters >= 1000
        require(large_enough, self, "parameters", "at least 1000")
        for name in ("beta", "free_bits", "free_bits_per_latent", "batch_norm"):
            require(0 <= getattr(self, name) < math.inf, self, name, "at least 0")
        for name in ("word_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, self, name, "from 0 to below 1")
        require(0 < self.anneal_share <= 1, self, "anneal_share", "above 0, at most 1")
        require(self.clip > 0, self, "clip", "above 0")
        both = self.free_bits == 0 or self.free_bits_per_latent == 0
        require(both, self, "free_bits_per_latent", "0 unless --free_bits=0: only one of the two can be used")
        for name, read, by in (  # flags that nothing reads would promise an effect that they do not have
            ("anneal_share", self.anneal != "none", "--anneal=none"),
            ("cycles", self.anneal == "cyclical", f"--anneal={self.anneal}"),
        ):
            require_read(self, name, read, by)
        if self.latent_dim == 0:
            for name in ("free_bits", "free_bits_per_latent", "pretrain", "batch_norm"):
                require(getattr(self, name) == 0, self, name, "0 with --latent_dim=0, which has no code")
            require(self.anneal == "none", self, "anneal", "none with --latent_dim=0, which has no code")
            require(self.beta == 1, self, "beta", "1 with --latent_dim=0, which has no code")
        shorter = self.epochs is not None or self.pretrain < self.steps  # --epochs: checked again later
        require(shorter, self, "pretrain", f"below --steps={self.steps}")
        several = not self.batch_norm or self.batch_size > 1
        require(several, self, "batch_size", "at least 2 with --batch_norm")


def require_read(cfg: Config, name: str, read: bool, by: str) -> None:
    """Refuse a flag that is not at its default if nothing reads it. by: the flag because of which nothing
    reads it.
    """
    default = Config.__dataclass_fields__[name].default
    require(read or getattr(cfg, name) == default, cfg, name, f"left out with {by}, which does not read it")


# ------------------------------------------------------------------------------------------------ model


class TextVAE(nn.Module):
    """Encoder of two LSTMs, one of which reads backwards, and a decoder LSTM that sees z at every token."""

    def __init__(self, cfg: Config, v: int, hidden: int):
        super().__init__()
        e, d, encoder = cfg.embed_dim, cfg.latent_dim, cfg.encoder_dim
        self.p = cfg.dropout
        self.embedding = nn.Embedding(v, e)
        if d:
            self.forwards = LSTMLayers(e, encoder, batch_first=True)
            self.backwards = LSTMLayers(e, encoder, batch_first=True)
            self.to_gaussian = nn.Linear(2 * encoder, 2 * d)
            self.to_state = nn.Linear(d, 2 * hidden)
        self.norm = nn.BatchNorm1d(d) if d and cfg.batch_norm else None
        if self.norm is not None:  # the shift is learned, the scale is not
            nn.init.constant_(self.norm.weight, cfg.batch_norm).requires_grad_(False)
        self.decoder = LSTMLayers(e + d, hidden, batch_first=True)
        self.head = nn.Linear(hidden, v)

    def decoding_layers(self) -> list[nn.Module]:
        """The layers that --pretrain initialises again."""
        return [self.to_state, self.decoder, self.head]

    def encode(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences (B, T), of lengths (B,) → mu, logvar (B, D), float32."""
        x = self.embedding(tokens)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        # each sentence is read backwards from its own end, so that padding comes last in both directions
        mirrored = (lengths[:, None] - 1 - place).clamp(min=0)[..., None].expand(-1, -1, x.shape[2])
        ends = []
        for layer, seen in ((self.forwards, x), (self.backwards, x.gather(1, mirrored))):
            outputs = layer(seen)[0]
            last = (lengths - 1)[:, None, None].expand(-1, 1, outputs.shape[2])
            ends.append(outputs.gather(1, last)[:, 0])
        mu, logvar = self.to_gaussian(torch.cat(ends, 1)).float().chunk(2, 1)
        if self.norm is not None:
            mu = self.norm(mu)
        return mu, logvar.clamp(-20, 6)

    def first_state(self, z: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """The decoder's state (n, H), twice, before it has read anything."""
        if z is None:
            zeros = self.head.weight.new_zeros(n, self.head.in_features)
            return zeros, zeros
        h, c = self.to_state(z).chunk(2, 1)
        return h.tanh(), c

    def decode(self, z: Tensor | None, read: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Codes (B, D), None for a language model, and tokens (B, T) → logits (B, T, V) of what follows."""
        x = self.embedding(read)
        h, c = self.first_state(z, len(read))
        if z is not None:
            x = torch.cat([x, z[:, None].expand(-1, x.shape[1], -1).to(x.dtype)], 2)
        outputs = self.decoder(dropped(x, self.p, rng), (h[None].to(x.dtype), c[None].to(x.dtype)))[0]
        return self.head(dropped(outputs, self.p, rng)).float()

    def forward(
        self, tokens: Tensor, lengths: Tensor, read: Tensor, noise: Tensor, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sentences (B, T) of lengths (B,), what the decoder reads (B, T), noise (B, D), standard normal →
        logits (B, T, V), mu, logvar (B, D).
        """
        if noise.shape[1] == 0:
            return self.decode(None, read, rng), noise, noise
        mu, logvar = self.encode(tokens, lengths)
        return self.decode(mu + noise * (0.5 * logvar).exp(), read, rng), mu, logvar


def dropped(x: Tensor, p: float, rng: torch.Generator | None) -> Tensor:
    """x with a share p of its values set to 0, drawn by rng, and the others scaled up so that the mean stays
    the same.
    """
    if p == 0 or rng is None:
        return x
    return x * (torch.rand(x.shape, generator=rng, device=x.device) >= p) / (1 - p)


def hidden_for(cfg: Config, v: int) -> int:
    """--hidden_dim, or the value that brings the number of parameters nearest to --parameters."""
    if cfg.parameters is None:
        return cfg.hidden_dim

    def count(hidden: int) -> int:
        with torch.device("meta"):  # sizes without weights
            return sum(p.numel() for p in TextVAE(cfg, v, hidden).parameters())

    k = 1 + bisect.bisect_left(range(1, 8192), cfg.parameters, key=count)
    k = min((max(1, k - 1), k), key=lambda k: abs(count(k) - cfg.parameters))
    near = abs(count(k) - cfg.parameters) <= 0.1 * cfg.parameters
    require(near, cfg, "parameters", f"one that these layers can have; the nearest is {count(k):,}")
    return k


def build(cfg: Config, vocabulary: Vocabulary, device: torch.device) -> TextVAE:
    """The model of `cfg` on `device`, with its vocabulary; its initial weights are a function of the seed."""
    hidden = hidden_for(cfg, len(vocabulary))
    with seeded(cfg.seed):
        model = TextVAE(cfg, len(vocabulary), hidden)
    model.register_buffer("vocabulary", torch.frombuffer(bytearray(vocabulary.pack()), dtype=torch.uint8))
    return model.to(device)


def begin_decoder_anew(model: TextVAE, optimizer: torch.optim.Optimizer, cfg: Config) -> None:
    """Give the decoder new initial weights, a function of the seed, and clear the optimiser's state of the
    old weights.
    """
    with seeded(cfg.seed + 1):
        for layer in model.decoding_layers():
            layer.cpu().reset_parameters()
            layer.to(model.embedding.weight.device)
            for parameter in layer.parameters():
                optimizer.state.pop(parameter, None)


# ------------------------------------------------------------------------------------------------ batches


@dataclass(frozen=True)
class Batch:
    """tokens (B, T), filled up with PAD; lengths (B,); read: BOS and tokens; wanted: tokens and EOS."""

    tokens: Tensor
    lengths: Tensor
    read: Tensor
    wanted: Tensor


class Sentences:
    """A part of the data on a device, from which batches are cut."""

    def __init__(self, part: sentences.Part, device: torch.device):
        self.tokens = torch.from_numpy(part.tokens).to(device)
        self.begin = torch.from_numpy(part.starts[:-1]).to(device)
        self.lengths = torch.from_numpy(part.lengths).to(device)

    def __len__(self) -> int:
        return len(self.begin)

    def batch(self, rows: Tensor) -> Batch:
        """The sentences `rows` (B,), as long as the longest of them."""
        lengths = self.lengths[rows]
        place = torch.arange(int(lengths.max()), device=rows.device)
        inside = place < lengths[:, None]
        at = (self.begin[rows][:, None] + place).clamp(max=len(self.tokens) - 1)
        tokens = torch.where(inside, self.tokens[at].long(), PAD)
        edge = tokens.new_full((len(rows), 1), PAD)
        read = torch.cat([edge + BOS - PAD, tokens], 1)
        wanted = torch.cat([tokens, edge], 1).scatter(1, lengths[:, None], EOS)
        return Batch(tokens, lengths, read, wanted)

    def in_turn(self, n: int) -> list[Tensor]:
        """Rows of all sentences, n at a time, with sentences of similar length together."""
        return list(self.lengths.argsort(stable=True).split(n))


def order_of_epoch(lengths: Tensor, epoch: int, cfg: Config) -> list[Tensor]:
    """Rows of the batches of an epoch: every sentence once, except those of a last batch that is not full.

    The sentences are shuffled, then sorted by length in groups of 50 batches, and the batches are shuffled
    again, so that sentences of a batch have similar lengths and little padding. Which sentences are left over
    is random.
    """
    rng = make_rng(cfg.seed, epoch, "order")
    order = torch.randperm(len(lengths), generator=rng)
    order = order[: len(order) // cfg.batch_size * cfg.batch_size]
    found: list[Tensor] = []
    for stretch in order.split(50 * cfg.batch_size):
        found += stretch[lengths[stretch].argsort(stable=True)].split(cfg.batch_size)
    return [found[i] for i in torch.randperm(len(found), generator=rng).tolist()]


# ------------------------------------------------------------------------------------------------ objective


def kl_weight(step: int, cfg: Config) -> float:
    """Weight of the KL term at `step`, without the factor β: 0 while --pretrain lasts, then as --anneal
    says.
    """
    if step < cfg.pretrain:
        return 0.0
    done = (step - cfg.pretrain) / (cfg.steps - cfg.pretrain)  # share of the later steps
    if cfg.anneal == "none":
        return 1.0
    if cfg.anneal == "cyclical":
        done = (done * cfg.cycles) % 1.0
    return min(1.0, done / cfg.anneal_share)


def charged(kl_each: Tensor, cfg: Config) -> Tensor:
    """The part of the KL per latent (D,) that counts in the objective: all above the free bits."""
    if cfg.free_bits_per_latent:
        return kl_each.clamp(min=cfg.free_bits_per_latent).sum()
    return kl_each.sum().clamp(min=cfg.free_bits)


def loss_fn(
    model: nn.Module, batch: Batch, rng: torch.Generator, cfg: Config, weight: float, training: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective rec + weight · β · KL, where KL counts only above the free bits, and its terms; nats.

    The only place where it is written, for training and validation. rng draws z ~ q(z|x) and, in training,
    which inputs are hidden from the decoder.
    """
    noise = torch.randn(len(batch.tokens), cfg.latent_dim, generator=rng, device=rng.device)
    read = batch.read
    if training and cfg.word_dropout:
        hidden = torch.rand(read.shape, generator=rng, device=rng.device) < cfg.word_dropout
        hidden[:, 0] = False
        read = torch.where(hidden, UNK, read)
    dropout = rng if training and cfg.dropout else None
    with torch.autocast(read.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        logits, mu, logvar = model(batch.tokens, batch.lengths, read, noise, dropout)
    rec = nats_of(logits, batch.wanted).mean()
    kl_each = latents.kl_per_latent(mu, logvar)
    kl = kl_each.sum()
    loss = rec + weight * cfg.beta * charged(kl_each, cfg) if cfg.latent_dim else rec
    return loss, {"rec_nats": rec, "kl_nats": kl, "elbo_nats": -(rec + kl)}


def nats_of(logits: Tensor, wanted: Tensor) -> Tensor:
    """−log p(sentence | z) from logits (B, T, V): (B,), sums over its tokens and its end."""
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=PAD, reduction="none")
    return each.view(wanted.shape).sum(1)


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over at most the first 100 steps, then down to 0 along a half cosine."""
    warm = max(1, min(100, cfg.steps // 10))
    return cfg.learning_rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / cfg.steps))


# ------------------------------------------------------------------------------------------------ measuring


@torch.no_grad()
def encode_all(model: TextVAE, part: Sentences, n: int | None = None) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, D) of a part's sentences, of the first n of them; on the CPU."""
    rows = torch.arange(min(n or len(part), len(part)), device=part.begin.device)
    found = [model.encode(b.tokens, b.lengths) for b in map(part.batch, rows.split(500))]
    mu, logvar = (torch.cat(t).cpu() for t in zip(*found, strict=True))
    return mu, logvar


@torch.no_grad()
def evaluate(model: TextVAE, part: Sentences, name: str, cfg: Config) -> dict[str, float]:
    """The bound, its terms and the information in the latents, over a whole part; keys as in docs/METRICS.md.

    The same noise at every call. For a language model, the bound is the log-likelihood itself.
    """
    was = model.training
    model.eval()
    rng = make_rng(cfg.seed, 0, "eval", part.begin.device)
    sums, n_tokens = torch.zeros(3, dtype=torch.float64), int(part.lengths.sum()) + len(part)
    for rows in part.in_turn(500):
        _, terms = loss_fn(model, part.batch(rows), rng, cfg, 1.0, training=False)
        sums += torch.stack(list(terms.values())).cpu().double() * len(rows)
    metrics = {f"{name}/{key}": value / len(part) for key, value in zip(terms, sums.tolist())}
    metrics[f"{name}/perplexity"] = math.exp(min(700.0, -sums[2].item() / n_tokens))
    if cfg.latent_dim:
        mu, logvar = encode_all(model, part, N_MEASURED)
        noise = torch.randn(mu.shape, generator=make_rng(cfg.seed, 0, "eval", of=("information",)))
        z = mu + noise * (0.5 * logvar).exp()
        metrics[f"{name}/active_units"] = int(latents.active_units(mu).sum())
        metrics[f"{name}/mutual_information_nats"] = latents.mutual_information(z, mu, logvar)
    model.train(was)
    return metrics


@torch.no_grad()
def log_likelihood(model: TextVAE, part: Sentences, cfg: Config, k: int | None = None) -> float:
    """log 1/k Σ_i p(x|z_i) p(z_i) / q(z_i|x), z_i ~ q(z|x), the mean over the first N_WEIGHTED sentences.

    A lower bound of log p(x) that rises with k: Burda et al. 2016, eq. 8. For a language model: log p(x)
    itself.
    """
    rng, total, n = make_rng(cfg.seed, 0, "eval", part.begin.device), 0.0, min(N_WEIGHTED, len(part))
    k = k or N_CODES
    for rows in torch.arange(n, device=part.begin.device).split(16):
        batch = part.batch(rows)
        if cfg.latent_dim == 0:
            total -= float(nats_of(model.decode(None, batch.read), batch.wanted).sum())
            continue
        mu, logvar = model.encode(batch.tokens, batch.lengths)
        noise = torch.randn(k, *mu.shape, generator=rng, device=rng.device)
        z = mu + noise * (0.5 * logvar).exp()
        read, wanted = (t.repeat(k, 1) for t in (batch.read, batch.wanted))
        log_p = -nats_of(model.decode(z.flatten(0, 1), read), wanted).view(k, -1)
        # log p(z) − log q(z|x): the terms (D/2) ln 2π cancel
        log_w = log_p + 0.5 * (noise.square() - z.square() + logvar).sum(2)
        total += float((torch.logsumexp(log_w, 0) - math.log(k)).sum())
    return total / n


def final(best: TextVAE, part: Sentences, data: sentences.SentenceSplits, cfg: Config) -> dict[str, float]:
    """The metrics of the test part, once, with the best weights."""
    best.eval()
    metrics = evaluate(best, part, "test", cfg)
    metrics["test/iw_nats"] = log_likelihood(best, part, cfg)
    rng, longest = make_rng(cfg.seed, 0, "pictures", of=("final",)), int(data.train.lengths.max())
    z = torch.randn(N_WRITTEN, cfg.latent_dim, generator=rng).to(part.begin.device)
    ids = write_sentences(Writer(best, z), Decoding(strategy="temperature"), rng, longest)
    written = [data.vocabulary.write(row) for row in ids.tolist()]
    drawn = (data.vocabulary.write(data.train.ids(s)) for s in range(len(data.train)))
    metrics |= {f"test/{k}": v for k, v in pages.plausibility(written, drawn).items()}
    if cfg.latent_dim:
        rows = torch.arange(min(N_REBUILT, len(part)), device=part.begin.device)
        batch = part.batch(rows)
        made = rebuilt(best, batch.tokens, batch.lengths)
        metrics |= {f"test/{k}": v for k, v in pages.likeness(made, batch.tokens, data.vocabulary).items()}
    return metrics


# ------------------------------------------------------------------------------------------------ samples


@torch.no_grad()
def samples(
    model: TextVAE, data: sentences.SentenceSplits, val: Sentences, cfg: Config, step: int
) -> dict[str, Any]:
    """Pages of what the model writes now, from the same codes and random draws at every step, and a map of
    codes.
    """
    was = model.training
    model.eval()
    vocabulary, about = data.vocabulary, f"{data.name}, step {step:,}"
    rng = make_rng(cfg.seed, 0, "pictures")
    z = torch.randn(N_SHOWN, cfg.latent_dim, generator=rng).to(val.begin.device)
    longest = int(data.train.lengths.max())
    written = {}
    for strategy in STRATEGIES:
        own = make_rng(cfg.seed, 0, "pictures", of=(strategy,))
        ids = write_sentences(Writer(model, z), Decoding(strategy=strategy), own, longest)
        written[strategy] = [vocabulary.write(row) for row in ids.tolist()]
    made: dict[str, Any] = {
        "sample/random": html(pages.random_page(written, f"Sentences from z ~ N(0, I), {about}"))
    }
    drawn = (data.vocabulary.write(data.train.ids(s)) for s in range(min(20_000, len(data.train))))
    made |= {f"sample/{k}": v for k, v in pages.plausibility(written["temperature"], drawn).items()}
    if cfg.latent_dim:
        rows = torch.linspace(0, len(val) - 1, N_SHOWN).long().to(val.begin.device)
        batch = val.batch(rows)
        truth = [vocabulary.write(row) for row in batch.tokens.tolist()]
        again = [vocabulary.write(row) for row in rebuilt(model, batch.tokens, batch.lengths).tolist()]
        made["sample/reconstructions"] = html(
            pages.rebuilt_page(truth, again, f"Validation sentences and their reconstructions, {about}")
        )
        ends = model.encode(batch.tokens[:2], batch.lengths[:2])[0]
        between = latents.lerp(ends[0], ends[1], torch.linspace(0, 1, 9))
        ids = write_sentences(Writer(model, between), Decoding(strategy="greedy"), rng, longest)
        way = [vocabulary.write(row) for row in ids.tolist()]
        made["sample/interpolation"] = html(
            pages.way_page(truth[:2], way, f"Between two validation sentences, {about}")
        )
        mu, logvar = encode_all(model, val)
        made["latent/map"] = pages.map_file(
            mu, data.val.positions, f"Codes of {len(mu):,} validation sentences, {about}"
        )
        order, kl = latents.sort_by_kl(mu, logvar)
        made["latent/kl_per_latent"] = pages.kl_file(order, kl, about)
    model.train(was)
    return made


# ------------------------------------------------------------------------------------------------ training


def load_data(cfg: Config) -> sentences.SentenceSplits:
    """The sentences of `cfg`. Raises DataError when they are missing or unusable."""
    for name, level in (("min_count", "word"), ("vocab_size", "bpe")):
        require_read(cfg, name, cfg.level == level, f"--level={cfg.level}")
    how = {name: getattr(cfg, name) for name in (*SENTENCE_FLAGS, "encoding", "columns")}
    return sentences.load(cfg.dataset, cfg.data_dir, **how)


def vocabulary_of(cfg: Config, file: Path) -> Vocabulary:
    """The vocabulary of the model in a checkpoint. Raises UserError, which names --checkpoint."""
    try:
        return Vocabulary.unpack(bytes(load_file(file)["states"][0]["vocabulary"].tolist()))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"--checkpoint={cfg.checkpoint}: not a text VAE") from None


def check_vocabulary(cfg: Config, known: Vocabulary, wanted: Vocabulary) -> None:
    """Refuse weights of a model with other tokens than those of --dataset."""
    differ = sorted(set(known.tokens) ^ set(wanted.tokens))
    some = ", ".join(map(repr, differ[:5])) + (" and others" if len(differ) > 5 else "")
    same = known == wanted
    require(
        same,
        cfg,
        "checkpoint",
        f"of a model with the same tokens as --dataset; only one has {some or 'them'}",
    )


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen, and its goal: the bound, whatever --beta is."""
    return "val/elbo_nats", "maximize"


def train(cfg: Config) -> dict[str, float]:
    data = load_data(cfg)
    require(len(data.train) >= cfg.batch_size, cfg, "batch_size", f"at most {len(data.train):,} sentences")
    cfg = with_epochs(cfg, len(data.train))
    require(
        cfg.pretrain < cfg.steps, cfg, "pretrain", f"below the {cfg.steps:,} steps of --epochs={cfg.epochs}"
    )
    model = build(cfg, data.vocabulary, torch.device("cpu"))
    if cfg.checkpoint:
        file = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts")
        check_vocabulary(cfg, vocabulary_of(cfg, file), data.vocabulary)
        load_weights(cfg, model, file)
    run: Run = start_run(cfg, __file__, KEY_VERSION, data, headline(cfg))
    if run.finished:
        return run.metrics
    for line in data.report:
        console.print(escape(line))
    device = run.device
    model.to(device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, cfg.learning_rate, fused=device.type != "mps")
    parts = {name: Sentences(getattr(data, name), device) for name in sentences.PARTS}
    one = parts["train"].batch(torch.arange(2, device=device))
    run.describe(model, one.tokens, one.lengths, one.read, torch.zeros(2, cfg.latent_dim, device=device))
    forward = torch.compile(model) if cfg.compile else model
    lengths, epoch, order = parts["train"].lengths.cpu(), -1, []
    for step, last in run.loop(model, optimizer):  # steps 0 … cfg.steps; the last one makes no update
        metrics: dict[str, Any] = {}

        # once in a while: how well does the model explain unseen sentences? The best weights are kept
        if run.due("eval", step):
            metrics |= evaluate(model, parts["val"], "val", cfg)
            run.keep_best(model, metrics, step)

        # what the model writes now; its random stream is separate, so it does not affect the training
        if run.due("sample", step):
            if all(p.isfinite().all() for p in model.parameters()):
                metrics |= samples(model, data, parts["val"], cfg, step)
            else:  # there are no probabilities to draw from; the run ends as diverged
                metrics["train/loss"] = math.nan

        # at the end, once: the test part, with the best weights
        if last:
            metrics |= final(run.best(model), parts["test"], data, cfg)
            if cfg.latent_dim and metrics["test/kl_nats"] < COLLAPSED_NATS:
                kl = metrics["test/kl_nats"]
                said = f"a code carries {kl:.2f} nats about its sentence; the decoder ignores the code"
                run.warn("posterior collapse", said)

        # one update; its sentences and all that is drawn are functions of (seed, step)
        if not last:
            if step == cfg.pretrain and cfg.pretrain:
                begin_decoder_anew(model, optimizer, cfg)
            n = run.steps_per_epoch
            if step // n != epoch:
                epoch = step // n
                order = order_of_epoch(lengths, epoch, cfg)
            batch = parts["train"].batch(order[step % n].to(device))
            loss, terms = loss_fn(forward, batch, run.rng(step), cfg, kl_weight(step, cfg), training=True)
            rate = lr_at(step, cfg)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(learned, cfg.clip)
            optimizer.step()
            run.update(loss)
            if run.due("log", step):
                metrics |= {"train/loss": loss} | {f"train/{name}": value for name, value in terms.items()}
                metrics |= {"train/grad_norm": norm, "train/learning_rate": rate}
                metrics["train/kl_weight"] = kl_weight(step, cfg) * cfg.beta

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.text_vae")
