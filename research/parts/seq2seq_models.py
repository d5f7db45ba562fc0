"""Sequence-to-sequence models of text or pictures: an LSTM with or without attention, and a Transformer.

What    encode(src)            what the decoder needs to know about a query
        decode(memory, before) logits of each character of `before` and of the next one:
                               (B, t) → (B, t + 1, V); where answers are pictures, logits of all of them at
                               once, (B, A, K)
Sources Sutskever et al. 2014 (arXiv:1409.3215), §2: encoder and decoder LSTM; Luong et al. 2015
        (arXiv:1508.04025), eq. 5, 7 and 8 (general): attention; Vaswani et al. 2017 (arXiv:1706.03762); Wu
        & He 2018 (arXiv:1803.08494), §3: group normalisation with one group, in the layers that see pictures.
Departs Attention is not fed back into the decoder, so that training decodes all characters in one call. The
        Transformer normalises before its layers (Xiong et al. 2020, arXiv:2002.04745) and learns its
        positions. A decoder that draws does not see what it has drawn before. For each character it chooses
        one of K learned pictures, which train as a mixture. A picture made from the decoder's output by
        transposed convolutions would have to be all handwritings of a digit at once; with it, the units
        digit stayed a guess (docs/LOG.md).
Shapes  B batch, Q characters of a query, A characters of an answer, V vocabulary, H hidden units, K learned
        pictures. Queries are one-hot, or pictures (B, Q, 28, 28). The decoder reads answers as one-hot
        characters, with a row of zeros before the first.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from research.parts.lstm import LSTMLayers

EDGE = 28
N_PICTURES = 64  # K: about five for each character


def one_hot(ids: Tensor, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """ids (B, T) → one-hot (B, T, V) of this dtype."""
    return F.one_hot(ids.long(), vocab_size).to(dtype)


def dropout(x: Tensor, p: float, rng: torch.Generator | None) -> Tensor:
    """x with each entry set to 0 with probability p, the others divided by 1 − p; x itself without `rng`."""
    if rng is None or p == 0:
        return x
    return x * (torch.rand(x.shape, generator=rng, device=x.device) >= p) / (1 - p)


def picture_encoder(n_out: int) -> nn.Sequential:
    """(N, 1, 28, 28) in [0, 1] → (N, n_out).

    It normalises after each convolution. Otherwise the output of the small initial weights would hardly
    depend on the picture, and an LSTM after them would learn answers without reading the query.
    """
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, 16, 3, 2, 1),
        nn.GroupNorm(1, 16),
        nn.SiLU(),  # → 16 × 7 × 7
        nn.Conv2d(16, 48, 3, 1, 1),
        nn.GroupNorm(1, 48),
        nn.SiLU(),
        nn.Conv2d(48, 64, 3, 2, 1),
        nn.GroupNorm(1, 64),
        nn.SiLU(),  # → 64 × 4 × 4
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, n_out),
        nn.SiLU(),
    )


@dataclass
class Memory:
    """What the decoder gets from the encoder. outputs (B, Q, H or 2H): the encoder's output at each character
    of the query; state: hidden and cell (layers, B, H), for the LSTM only.
    """

    outputs: Tensor
    state: tuple[Tensor, Tensor] | None = None


class Seq2Seq(nn.Module):
    """What both models share: how they read queries and write answers, as characters or as pictures."""

    def __init__(
        self, vocab_size: int, answer_width: int, n_in: int, n_out: int, p: float, reads: str, writes: str
    ):
        super().__init__()
        self.vocab_size, self.answer_width, self.p, self.writes = vocab_size, answer_width, p, writes
        self.see = picture_encoder(n_in) if reads == "image" else None
        self.head = nn.Linear(n_out, N_PICTURES if writes == "image" else vocab_size)
        self.pictures = nn.Parameter(torch.zeros(N_PICTURES, EDGE * EDGE)) if writes == "image" else None

    def features(self, src: Tensor) -> Tensor:
        """The encoder's input: ids (B, Q) → one-hot (B, Q, V), or pictures (B, Q, 28, 28) → (B, Q, n_in)."""
        if self.see is None:
            return one_hot(src, self.vocab_size, torch.float32)
        seen = self.see(rearrange(src, "b q h w -> (b q) 1 h w"))
        return rearrange(seen, "(b q) n -> b q n", b=len(src))

    def inputs(self, memory: Memory, before: Tensor | None) -> Tensor:
        """What the decoder reads, (B, t + 1, V): zeros, then the answer's characters so far, `before` (B, t).
        Where answers are pictures, `before` is None and the decoder reads zeros (B, A, V).
        """
        n = len(memory.outputs)
        if before is None:
            return memory.outputs.new_zeros(n, self.answer_width, self.vocab_size)
        return F.pad(one_hot(before, self.vocab_size, torch.float32), (0, 0, 1, 0))

    def logits(self, h: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The decoder's output (B, t, n_out) → logits (B, t, V), or (B, t, K) for pictures; float32."""
        return self.head(dropout(h, self.p, rng)).float()

    def begin_with(self, x: Tensor) -> None:
        """Make the K pictures begin as x (K, 28, 28) in [0, 1], but paler. If all began alike, none would
        ever become the picture of one character.
        """
        self.pictures.data = torch.logit(0.1 + 0.5 * x.flatten(1))

    def nats_of(self, drawn: Tensor, logits: Tensor) -> Tensor:
        """−log Σ_k p(k) p(drawn | k), (B, A), in nats, of the true pictures drawn (B, A, 28, 28) in [0, 1].

        p(k) is the softmax of logits (B, A, K); p(drawn | k) is that of Bernoulli pixels whose logits are the
        k-th of `pictures`.
        """
        log_p = drawn.flatten(2) @ self.pictures.T - F.softplus(self.pictures).sum(1)
        return -(logits.log_softmax(2) + log_p).logsumexp(2)

    def forward(
        self, src: Tensor, before: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """Logits of the whole answer at once: (B, A, V) if answers are characters, where before (B, A − 1)
        has all of them but the last; (B, A, K) if they are pictures, where before is None.

        rng: draws the masks of dropout, which acts between encoder and decoder, and before the head. Without
        it there is no dropout.
        """
        memory = self.encode(src)
        outputs = dropout(memory.outputs, self.p, rng)
        state = memory.state and tuple(dropout(s, self.p, rng) for s in memory.state)
        return self.decode(Memory(outputs, state), before, rng)

    @torch.no_grad()
    def answer(self, src: Tensor) -> Tensor:
        """The model's greedy answer: ids (B, A) of the most probable characters, each after the model's own.
        Where answers are pictures, the pixel logits (B, A, 28, 28) of the most probable of the K pictures.
        """
        memory = self.encode(src)
        if self.writes == "image":
            return self.pictures[self.decode(memory, None).argmax(2)].unflatten(2, (EDGE, EDGE))
        ids = torch.zeros(len(src), 0, dtype=torch.long, device=src.device)
        for _ in range(self.answer_width):
            ids = torch.cat((ids, self.decode(memory, ids)[:, -1:].argmax(2)), 1)
        return ids


class LSTM(Seq2Seq):
    """An encoder LSTM and a decoder LSTM, which begins with the last state of the encoder.

    If the encoder has more layers, the decoder takes the topmost; if it has fewer, the decoder's lowest
    layers share the encoder's lowest. attention: at each character of the answer, the decoder looks at the
    whole query.
    """

    def __init__(
        self,
        vocab_size: int,
        answer_width: int,
        hidden_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        attention: bool,
        bidirectional: bool,
        dropout: float = 0.0,
        reads: str = "text",
        writes: str = "text",
    ):
        n_in = vocab_size if reads == "text" else hidden_dim
        super().__init__(vocab_size, answer_width, n_in, hidden_dim, dropout, reads, writes)
        self.encoder = LSTMLayers(
            n_in, hidden_dim, encoder_layers, batch_first=True, bidirectional=bidirectional
        )
        wide = hidden_dim * (2 if bidirectional else 1)
        self.bridge = nn.Linear(wide, hidden_dim, bias=False) if bidirectional else None
        self.decoder = LSTMLayers(vocab_size, hidden_dim, decoder_layers, batch_first=True)
        self.score = nn.Linear(wide, hidden_dim, bias=False) if attention else None
        self.mix = nn.Linear(hidden_dim + wide, hidden_dim, bias=False) if attention else None
        for name, p in [*self.encoder.named_parameters(), *self.decoder.named_parameters()]:
            if name.startswith("weight_hh"):  # each gate by itself; Saxe et al. 2014, arXiv:1312.6120
                for gate in p.data.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih"):  # gates i, f, g, o: cells begin by remembering
                nn.init.zeros_(p)
                nn.init.ones_(p.data[hidden_dim : 2 * hidden_dim])
            elif name.startswith("bias_hh"):
                nn.init.zeros_(p)

    def encode(self, src: Tensor) -> Memory:
        """src → outputs (B, Q, H), or (B, Q, 2H) if the encoder is bidirectional; a state for the decoder."""
        outputs, (h, c) = self.encoder(self.features(src))
        if self.bridge is not None:
            h, c = (self.bridge(rearrange(s, "(l d) b n -> l b (d n)", d=2)) for s in (h, c))
        n, have = self.decoder.num_layers, len(h)
        if have > n:
            h, c = h[-n:], c[-n:]
        elif have < n:
            layers = [max(0, have - n + i) for i in range(n)]
            h, c = h[layers], c[layers]
        return Memory(outputs, (h, c))

    def decode(self, memory: Memory, before: Tensor | None, rng: torch.Generator | None = None) -> Tensor:
        """before (B, t) → logits (B, t + 1, V); None → (B, A, K), for pictures."""
        h, _ = self.decoder(self.inputs(memory, before), memory.state)
        if self.score is not None:
            context = self.look(h, memory) @ memory.outputs
            h = torch.tanh(self.mix(torch.cat((h, context), 2)))  # Luong et al., eq. 5
        return self.logits(h, rng)

    def look(self, h: Tensor, memory: Memory) -> Tensor:
        """Attention weights (B, t, Q) of the decoder's outputs h (B, t, H) over the query. Luong et al., eq.
        7 and 8 (general).
        """
        return (h @ self.score(memory.outputs).mT).softmax(2)


class Transformer(Seq2Seq):
    """Encoder and decoder of Vaswani et al., with as many layers and units as the LSTM has."""

    def __init__(
        self,
        vocab_size: int,
        query_width: int,
        answer_width: int,
        hidden_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        n_heads: int,
        dropout: float = 0.0,
        reads: str = "text",
        writes: str = "text",
    ):
        super().__init__(vocab_size, answer_width, hidden_dim, hidden_dim, dropout, reads, writes)
        sizes = {
            "nhead": n_heads,
            "dim_feedforward": 4 * hidden_dim,
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.src_in = nn.Identity() if reads == "image" else nn.Linear(vocab_size, hidden_dim, bias=False)
        self.tgt_in = nn.Linear(vocab_size, hidden_dim, bias=False)
        self.src_pos, self.tgt_pos = (
            nn.Parameter(torch.randn(n, hidden_dim)) for n in (query_width, answer_width)
        )
        norm = nn.LayerNorm(hidden_dim)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(hidden_dim, **sizes), encoder_layers, norm, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(hidden_dim, **sizes), decoder_layers, nn.LayerNorm(hidden_dim)
        )

    def encode(self, src: Tensor) -> Memory:
        """src → outputs (B, Q, H)."""
        return Memory(self.encoder(self.src_in(self.features(src)) + self.src_pos))

    def decode(self, memory: Memory, before: Tensor | None, rng: torch.Generator | None = None) -> Tensor:
        """before (B, t) → logits (B, t + 1, V); None → (B, A, K), for pictures."""
        x = self.tgt_in(self.inputs(memory, before))
        n = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=x.device)
        h = self.decoder(x + self.tgt_pos[:n], memory.outputs, tgt_mask=mask, tgt_is_causal=True)
        return self.logits(h, rng)
