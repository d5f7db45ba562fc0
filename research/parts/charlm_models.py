"""Three language models of characters that are trained, read and sampled in the same way.

What    LSTM, TCN (temporal convolutional network) and Transformer. Each has
        forward(tokens, rng)  logits of the next character at all positions at once: training, evaluation
        start(batch, device)  a state that has read nothing
        read(tokens, state)   logits of the character after the tokens: reads any number of characters
        step(token, state)    the same for one character: generation, at a cost that does not grow
        The last two change the state in place. Use a state within torch.inference_mode() (a sixth faster) or
        no_grad(), and within one autocast throughout or within none.
Sources Hochreiter & Schmidhuber 1997; Jozefowicz et al. 2015 (ICML), §2.2 (forget gate); Zaremba et al. 2014
        (arXiv:1409.2329), §3.1 (where dropout goes); Bai et al. 2018 (arXiv:1803.01271), §3 (TCN); He et al.
        2016 (arXiv:1603.05027), fig. 4e (pre-activation); Vaswani et al. 2017 (arXiv:1706.03762); Zhang &
        Sennrich 2019 (arXiv:1910.07467, RMSNorm); Henry et al. 2020 (arXiv:2010.04245, QK-norm); So et al.
        2021 (arXiv:2109.08668, squared ReLU); Su et al. 2021 (arXiv:2104.09864), eq. 34 (rotary positions).
Departs TCN: the published block can break down once it knows its text by heart, if the learning rate is
        constant and gradients are not clipped (benchmarks/tcn_collapse.py). Our block normalises before each
        convolution and starts as the identity (norm="layer"); norm="none" is the published one. Embeddings
        are widened before the first block.
        Transformer: rotates the pairs (i, D − 1 − i) of a head instead of neighbours; has no biases.
Dropout draws its masks from the generator that forward is given, never from torch's global one; without a
        generator there is no dropout. In the LSTM it acts between the layers, not within them.
Shapes  B batch, T time (characters), V vocabulary, E embedding, C hidden units or channels, H heads,
        D = E / H head size, W = seq_len the window of the Transformer. Logits are float32 at least.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from research.parts.lstm import LSTMLayers

MAX_SCORE = 6.0  # attention logits are cosines of queries and keys times this, so they lie within ± this
ROPE_BASE = 10_000.0  # wavelengths of rotary positions go from 2π to almost 2π times this, in characters
EMBED_STD = 0.3  # small, so that what the blocks add soon matters beside the embeddings


def dropout(x: Tensor, p: float, rng: torch.Generator | None) -> Tensor:
    """x with each entry set to 0 with probability p, the others divided by 1 − p; x itself without `rng`."""
    if rng is None or p == 0:
        return x
    keep = torch.rand(x.shape, generator=rng, device=x.device, dtype=torch.float32) >= p
    return x * keep.to(x.dtype).div_(1 - p)


def at_least_float32(x: Tensor) -> Tensor:
    """x as float32; x itself if it is float32 or float64 already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def rms_norm(x: Tensor) -> Tensor:
    """x (…, N) divided by its root mean square over N, without gains.

    It takes half as many operations as F.rms_norm on a CPU, where those would be a third of the time that a
    generated character takes.
    """
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul(x.shape[-1] ** -0.5).add(1e-6)


def output_layer(n_in: int, vocab_size: int) -> nn.Linear:
    """Layer from n_in units to logits. They begin so small that an untrained model's loss is ln V, that of
    guessing.
    """
    head = nn.Linear(n_in, vocab_size)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


# ------------------------------------------------------------------------------------------------ LSTM

LSTMState = list[tuple[Tensor, Tensor]]  # hidden and cell (B, C) of each layer


class LSTM(nn.Module):
    """Layers of LSTM cells; dropout on what goes into each layer and into the head (Zaremba et al. 2014)."""

    def __init__(self, vocab_size: int, embed_dim: int, hidden_dim: int, n_layers: int, dropout: float = 0.0):
        super().__init__()
        self.p = dropout
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        sizes = [embed_dim] + [hidden_dim] * (n_layers - 1)
        self.layers = nn.ModuleList(LSTMLayers(n_in, hidden_dim, batch_first=True) for n_in in sizes)
        self.head = output_layer(hidden_dim, vocab_size)
        for layer in self.layers:
            nn.init.zeros_(layer.bias_ih_l0)
            nn.init.zeros_(layer.bias_hh_l0)
            # gates are in the order i, f, g, o: cells begin by remembering (Jozefowicz et al. 2015, §2.2)
            nn.init.ones_(layer.bias_ih_l0[hidden_dim : 2 * hidden_dim])

    def forward(self, tokens: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """tokens (B, T) → logits (B, T, V)."""
        x = dropout(self.embedding(tokens), self.p, rng)  # (B, T, E)
        for layer in self.layers:
            x = dropout(layer(x)[0], self.p, rng)  # (B, T, C)
        return at_least_float32(self.head(x))

    def start(self, batch_size: int, device: torch.device | str) -> LSTMState:
        """State that has read nothing: zeros."""
        dtype = self.head.weight.dtype
        shape = (batch_size, self.head.in_features)
        return [tuple(torch.zeros(2, *shape, device=device, dtype=dtype)) for _ in self.layers]

    def read(self, tokens: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """tokens (B, T), T ≥ 1 → logits (B, V) of what follows, state."""
        x = self.embedding(tokens)
        for layer, (h, c) in zip(self.layers, state, strict=True):
            x, (h_new, c_new) = layer(x, (h[None], c[None]))
            h.copy_(h_new[0])
            c.copy_(c_new[0])
        return at_least_float32(self.head(x[:, -1])), state

    def step(self, token: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """token (B,) → logits (B, V) of what follows, state."""
        x = self.embedding(token)  # (B, E)
        for layer, (h, c) in zip(self.layers, state, strict=True):
            # not the layer itself, which lays out its weights anew at each call: 27 times slower at C = 512
            weights = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
            x, c_new = torch.lstm_cell(x, (h, c), *weights)
            h.copy_(x)
            c.copy_(c_new)
        return at_least_float32(self.head(x)), state


# ------------------------------------------------------------------------------------------------ TCN


class CausalConv(nn.Conv1d):
    """Dilated convolution over (B, T, C) in which a position sees only itself and earlier ones.

    Its cache (d, B, C, k − 1), for dilation d and kernel size k, keeps the inputs that are still needed.
    Position p sees p, p − d, p − 2d …, which all have the same remainder mod d. Those before p are one row of
    the cache, the oldest first.
    """

    def __init__(self, n_in: int, n_out: int, kernel_size: int, dilation: int):
        assert kernel_size >= 2, f"kernel_size={kernel_size} sees no other position"
        super().__init__(n_in, n_out, kernel_size, dilation=dilation)

    def forward(self, x: Tensor, cache: Tensor | None = None, pos: int = 0) -> Tensor:
        """x (B, T, C) → (B, T, C'). cache holds the inputs before position `pos` and is changed in place;
        without it, those inputs are zeros.
        """
        (k,), (d,) = self.kernel_size, self.dilation
        x = x.mT  # (B, C, T)
        if cache is None:
            x = F.pad(x, ((k - 1) * d, 0))  # only on the left, so that the future stays unseen
        elif x.shape[2] == 1:
            row = cache[pos % d]
            taps = torch.cat((row, x), 2)  # (B, C, k)
            row.copy_(taps[..., 1:])
            return F.linear(taps.flatten(1), self.weight.flatten(1), self.bias)[:, None]
        else:
            n_new = x.shape[2]
            past = cache.roll(-(pos % d), 0).permute(1, 2, 3, 0).flatten(2)  # (B, C, (k − 1) d), by time
            x = torch.cat((past, x), 2)
            kept = x[..., n_new:].unflatten(2, (k - 1, d)).permute(3, 0, 1, 2)
            cache.copy_(kept.roll((pos + n_new) % d, 0))
        return F.conv1d(x, self.weight, self.bias, dilation=d).mT


class ConvBlock(nn.Module):
    """Residual block of two causal convolutions with the same dilation: (B, T, C) → (B, T, C).

    norm="layer": x + conv(GELU(norm(conv(GELU(norm(x)))))); the weights of the outer convolution start at 0.
    The norm is over the channels of one position. It keeps the size of the convolutions' inputs, whatever the
    learning rate does to the residual stream. A norm over time, such as BatchNorm, would let a position see
    later ones.
    norm="none": Bai et al. 2018, fig. 1b: relu(x + relu(conv(relu(conv(x))))) with weight norm.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int, norm: str):
        super().__init__()
        self.convs = nn.ModuleList(CausalConv(channels, channels, kernel_size, dilation) for _ in range(2))
        self.norm = norm
        if norm == "none":
            for conv in self.convs:
                nn.init.normal_(conv.weight, std=0.01)  # as in the authors' code
                weight_norm(conv)
        else:
            self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
            for conv in self.convs:
                nn.init.normal_(conv.weight, std=(channels * kernel_size) ** -0.5)
                nn.init.zeros_(conv.bias)
            nn.init.zeros_(self.convs[1].weight)

    def forward(
        self, x: Tensor, p: float, rng: torch.Generator | None, caches: Tensor | None = None, pos: int = 0
    ) -> Tensor:
        h = x
        for i, conv in enumerate(self.convs):
            cache = None if caches is None else caches[i]
            if self.norm == "none":
                h = dropout(F.relu(conv(h, cache, pos)), p, rng)
            else:
                h = conv(dropout(F.gelu(self.norms[i](h)), p, rng), cache, pos)
        return F.relu(x + h) if self.norm == "none" else x + h


@dataclass
class ConvState:
    """pos: number of characters read; caches: for each block those of its two convolutions,
    (2, dilation, B, C, k − 1).
    """

    pos: int
    caches: list[Tensor]


class TCN(nn.Module):
    """Residual blocks of causal convolutions; the dilation doubles from block to block.

    receptive_field: the number of characters, including the latest, that a prediction depends on.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        hidden_dim: int,
        n_layers: int,
        kernel_size: int,
        dropout: float = 0.0,
        norm: str = "layer",
    ):
        super().__init__()
        assert norm in ("layer", "none"), f"norm={norm} is neither layer nor none"
        self.p, self.norm = dropout, norm
        self.receptive_field = 1 + 2 * (kernel_size - 1) * (2**n_layers - 1)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.widen = nn.Identity() if embed_dim == hidden_dim else nn.Linear(embed_dim, hidden_dim)
        self.blocks = nn.ModuleList(ConvBlock(hidden_dim, kernel_size, 2**i, norm) for i in range(n_layers))
        self.head = output_layer(hidden_dim, vocab_size)

    def _trunk(
        self, tokens: Tensor, rng: torch.Generator | None = None, state: ConvState | None = None
    ) -> Tensor:
        """tokens (B, T) → (B, T, C), what the head reads."""
        x = self.widen(dropout(self.embedding(tokens), self.p, rng))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, self.p, rng) if state is None else block(x, 0.0, None, state.caches[i], state.pos)
        return x if self.norm == "none" else F.layer_norm(x, x.shape[2:])

    def forward(self, tokens: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """tokens (B, T) → logits (B, T, V)."""
        return at_least_float32(self.head(self._trunk(tokens, rng)))

    def start(self, batch_size: int, device: torch.device | str) -> ConvState:
        """State that has read nothing: zeros, as in the padding of the convolutions."""
        conv, like = self.blocks[0].convs[0], {"device": device, "dtype": self.head.weight.dtype}
        shape = (batch_size, conv.in_channels, conv.kernel_size[0] - 1)
        return ConvState(0, [torch.zeros(2, 2**i, *shape, **like) for i in range(len(self.blocks))])

    def read(self, tokens: Tensor, state: ConvState) -> tuple[Tensor, ConvState]:
        """tokens (B, T), T ≥ 1 → logits (B, V) of what follows, state."""
        x = self._trunk(tokens, state=state)
        state.pos += tokens.shape[1]
        return at_least_float32(self.head(x[:, -1])), state

    def step(self, token: Tensor, state: ConvState) -> tuple[Tensor, ConvState]:
        """token (B,) → logits (B, V) of what follows, state."""
        return self.read(token[:, None], state)


# ------------------------------------------------------------------------------------------------ Transformer


def rotation(first: int, n: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin, both (n, D), with which `rotate` turns the vectors of the n positions from `first`
    on.

    They have the type and device of `like`. The angles are computed in float64, because float32 has steps of
    0.008 at position 100,000.
    """
    exact = {"device": "cpu" if like.device.type == "mps" else like.device, "dtype": torch.float64}
    i, positions = torch.arange(head_dim // 2, **exact), torch.arange(first, first + n, **exact)
    angles = torch.outer(positions, ROPE_BASE ** (-2 * i / head_dim))
    cos, sin = angles.cos().to(like), angles.sin().to(like)
    return torch.cat((cos, cos.flip(1)), 1), torch.cat((-sin, sin.flip(1)), 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, D) → the same with the pair (i, D − 1 − i) turned by its angle; Su et al. 2021, eq. 34."""
    return torch.addcmul(x * cos, x.flip(-1), sin)


class RingCache:
    """Keys and values (B, H, W, D) of the last W positions of one layer; position p lies in slot p mod W.

    Keys are kept rotated by their own positions, so that their order within the ring does not matter.
    """

    def __init__(self, k: Tensor, v: Tensor):
        self.k, self.v = k, v
        self.flat_k, self.flat_v = k.flatten(0, 1), v.flatten(0, 1)  # the same memory as (B H, W, D)

    def add(self, k: Tensor, v: Tensor, pos: int) -> tuple[Tensor, Tensor]:
        """Keep k and v (B, H, D) of position `pos`.

        Returns the filled part of the ring, to all of which this position may attend, as (B H, filled, D).
        """
        window = self.k.shape[2]
        self.k.select(2, pos % window).copy_(k)
        self.v.select(2, pos % window).copy_(v)
        if pos + 1 >= window:
            return self.flat_k, self.flat_v
        return self.flat_k.narrow(1, 0, pos + 1), self.flat_v.narrow(1, 0, pos + 1)

    def extend(self, k: Tensor, v: Tensor, pos: int) -> tuple[Tensor, Tensor]:
        """Keep k and v (B, H, T, D) of the T ≤ W positions pos, pos + 1 …

        Returns the ring as it was, followed by the new ones. A mask must say which of them a position may
        attend to.
        """
        (n, window), slot = (k.shape[2], self.k.shape[2]), pos % self.k.shape[2]
        filled = min(pos, window)
        keys, values = (torch.cat((t[:, :, :filled], new), 2) for t, new in ((self.k, k), (self.v, v)))
        slots = torch.arange(slot, slot + n, device=k.device) % window
        self.k[:, :, slots], self.v[:, :, slots] = k, v
        return keys, values

    def pick(self, rows: Tensor, pos: int) -> "RingCache":
        """A new cache for the texts `rows` (B',) of one that has read `pos` characters. Slots that are not
        yet filled are not copied.
        """
        filled, picked = min(pos, self.k.shape[2]), []
        for old in (self.k, self.v):
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, :filled] = old[:, :, :filled].index_select(0, rows)
            picked.append(new)
        return RingCache(*picked)


def halved(w: Tensor) -> Tensor:
    """A weight (M, N) as `project` multiplies by it: a large one on a CPU as its halves (2, M / 2, N)."""
    return w.view(2, -1, w.shape[1]) if w.numel() >= 1 << 17 and w.device.type == "cpu" else w


def project(x: Tensor, w: Tensor) -> Tensor:
    """x (B, N) times the transposed weight w (M, N), or (2, M / 2, N) as `halved` gives it: (B, M).

    Generation multiplies few rows by a large matrix, which takes as long as reading the matrix. On a CPU the
    batched product of its two halves with one row is twice as fast as the product with the whole, and a
    little faster with two or three. The column must come from t(): with the strides of view(-1, 1) the
    product is six times slower.
    """
    if w.ndim == 2:
        return F.linear(x, w)
    if len(x) > 3:
        return F.linear(x, w.flatten(0, 1))
    y = torch.bmm(w, x.t().expand(2, -1, -1))  # (2, M / 2, B)
    return y.permute(2, 0, 1).reshape(len(x), -1)


class AttentionBlock(nn.Module):
    """Pre-norm residual block: self-attention, then an MLP, (B, T, E) → (B, T, E)."""

    def __init__(self, embed_dim: int, n_heads: int):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, embed_dim // n_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)
        self.up = nn.Linear(embed_dim, 4 * embed_dim, bias=False)
        self.down = nn.Linear(4 * embed_dim, embed_dim, bias=False)
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=embed_dim**-0.5)
        for layer in (self.out, self.down):  # the block begins as the identity
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        p: float,
        rng: torch.Generator | None,
        cache: RingCache | None = None,
        pos: int = 0,
    ) -> Tensor:
        """x (B, T, E) → (B, T, E). mask (T, keys) is True where a position may attend; without it, a position
        attends to itself and to all earlier ones.
        """
        (b, n, e), h = x.shape, self.n_heads
        qkv = self.qkv(rms_norm(x)).view(b, n, 3 * h, -1).transpose(1, 2)  # (B, 3H, T, D)
        qk, v = qkv.narrow(1, 0, 2 * h), qkv.narrow(1, 2 * h, h)
        qk = at_least_float32(qk)
        qk = qk / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).add(1e-6)
        if rope is not None:
            qk = rotate(qk, *rope)
        qk = qk.to(v.dtype)
        q, k = qk.narrow(1, 0, h), qk.narrow(1, h, h)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(k, v, pos)
        causal = mask is None and n > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=MAX_SCORE)
        x = x + dropout(self.out(y.transpose(1, 2).reshape(b, n, e)), p, rng)
        y = F.relu(self.up(rms_norm(x)))
        return x + dropout(self.down(y * y), p, rng)

    def weights(self) -> tuple[Tensor, ...]:
        """The weights as `step` takes them. To find them in the module at each step takes a tenth of it."""
        return tuple(halved(layer.weight) for layer in (self.qkv, self.out, self.up, self.down))

    def step(
        self,
        x: Tensor,
        weights: tuple[Tensor, ...],
        rope: tuple[Tensor, Tensor] | None,
        cache: RingCache,
        pos: int,
    ) -> Tensor:
        """The same for position `pos` alone, after those in the cache: x (B, E), which is changed in place.

        One position is so little work that it takes as long to start operations as to do them. So they are
        cheap ones: on two dimensions, and in place. For one query on a CPU, two products and a softmax take
        two thirds of the time of scaled_dot_product_attention.
        """
        qkv_weight, out_weight, up_weight, down_weight = weights
        b, h = len(x), self.n_heads
        qkv = project(rms_norm(x), qkv_weight).view(b, 3, h, -1)  # (B, 3, H, D)
        qk, v = at_least_float32(qkv.narrow(1, 0, 2)), qkv.select(1, 2)
        qk = qk / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).add_(1e-6)
        if rope is not None:
            qk = rotate(qk, *rope)
        q, k = qk.to(v.dtype).unbind(1)  # (B, H, D)
        keys, values = cache.add(k, v, pos)  # (B H, filled, D)
        scores = torch.bmm(q.reshape(b * h, 1, -1), keys.mT).mul_(MAX_SCORE)  # (B H, 1, filled)
        y = torch.bmm(scores.softmax(-1), values).view(b, -1)
        x += project(y, out_weight)
        y = project(rms_norm(x), up_weight).relu_()
        x += project(y.mul_(y), down_weight)
        return x


@dataclass
class AttentionState:
    """pos: position of the next character; layers: the cache of each layer; weights: those of each layer,
    where `step` finds them soonest; tokens (B, W): the characters read, kept only for learned positions;
    rope: cos and sin of W positions around pos, only for rotary positions.
    """

    pos: int
    layers: list[RingCache]
    weights: list[tuple[Tensor, ...]]
    tokens: Tensor | None = None
    rope: tuple[Tensor, Tensor] | None = None


class Transformer(nn.Module):
    """Decoder-only, pre-norm; a position attends to the last W = seq_len positions, including itself.

    With pos="rope" (rotary) and "none" a text may have any length: beyond W characters every layer attends to
    a sliding window, so the last layer depends on up to 1 + n_layers (W − 1) characters. pos="learned" has a
    table of W positions; when it is full, the later half of the window (W // 2) is kept and is read again,
    from position 0.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        n_layers: int,
        n_heads: int,
        seq_len: int,
        pos: str = "rope",
        dropout: float = 0.0,
    ):
        super().__init__()
        assert pos in ("none", "learned", "rope"), f"pos={pos} is not one of none, learned, rope"
        assert embed_dim % (2 * n_heads) == 0, (
            f"embed_dim={embed_dim} is not a multiple of 2 * {n_heads} heads"
        )
        self.p, self.pos, self.seq_len, self.head_dim = dropout, pos, seq_len, embed_dim // n_heads
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.positions = nn.Parameter(torch.zeros(seq_len, embed_dim)) if pos == "learned" else None
        self.blocks = nn.ModuleList(AttentionBlock(embed_dim, n_heads) for _ in range(n_layers))
        self.head = output_layer(embed_dim, vocab_size)
        nn.init.normal_(self.embedding.weight, std=EMBED_STD)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=EMBED_STD)

    def _mask(self, pos: int, n: int, filled: int, device: torch.device) -> Tensor | None:
        """(T, filled + T): which of the ring's `filled` entries and of the T new characters each of these
        sees.
        """
        if filled == 0 and n <= self.seq_len:
            return None
        slots = torch.arange(filled, device=device)
        old = pos - 1 - (pos - 1 - slots) % self.seq_len  # the latest position before pos in each slot
        query = torch.arange(pos, pos + n, device=device)
        distance = query[:, None] - torch.cat((old, query))
        return (distance >= 0) & (distance < self.seq_len)

    def _trunk(
        self, tokens: Tensor, rng: torch.Generator | None = None, state: AttentionState | None = None
    ) -> Tensor:
        """tokens (B, T) → (B, T, E), what the head reads."""
        pos, n = 0 if state is None else state.pos, tokens.shape[1]
        x = self.embedding(tokens)  # (B, T, E)
        if self.positions is not None:
            x = x + self.positions[pos : pos + n]
        x = dropout(x, self.p, rng)
        rope = rotation(pos, n, self.head_dim, self.head.weight) if self.pos == "rope" else None
        mask = self._mask(pos, n, 0 if state is None else min(pos, self.seq_len), x.device)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, mask, self.p, rng, None if state is None else state.layers[i], pos)
        return rms_norm(x)

    def forward(self, tokens: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """tokens (B, T) → logits (B, T, V); T ≤ W with learned positions."""
        assert self.pos != "learned" or tokens.shape[1] <= self.seq_len, (
            f"{tokens.shape[1]} characters, but a table of {self.seq_len} positions"
        )
        return at_least_float32(self.head(self._trunk(tokens, rng)))

    def start(self, batch_size: int, device: torch.device | str) -> AttentionState:
        """State that has read nothing. Under autocast, its caches have the type that autocast computes in."""
        kind, dtype = torch.device(device).type, self.head.weight.dtype
        if torch.is_autocast_enabled(kind):  # else the whole cache would be converted at each step
            dtype = torch.get_autocast_dtype(kind)
        shape = (batch_size, self.blocks[0].n_heads, self.seq_len, self.head_dim)
        rings = [RingCache(*torch.zeros(2, *shape, device=device, dtype=dtype)) for _ in self.blocks]
        tokens = None
        if self.pos == "learned":
            tokens = torch.zeros(batch_size, self.seq_len, device=device, dtype=torch.int64)
        return AttentionState(0, rings, [block.weights() for block in self.blocks], tokens)

    def read(self, tokens: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """tokens (B, T), T ≥ 1 → logits (B, V) of what follows, state."""
        if state.tokens is not None:
            excess = state.pos + tokens.shape[1] - self.seq_len
            if excess > 0:  # the table would run over
                tokens = torch.cat((state.tokens[:, : state.pos], tokens), 1)
                freed = self.seq_len - self.seq_len // 2  # positions; this is repeated as often as needed
                tokens, state.pos = tokens[:, -(-excess // freed) * freed :], 0
            state.tokens[:, state.pos : state.pos + tokens.shape[1]] = tokens
        state.rope = None
        for chunk in tokens.split(self.seq_len, 1):
            x = self._trunk(chunk, state=state)
            state.pos += chunk.shape[1]
        return at_least_float32(self.head(x[:, -1])), state

    def step(self, token: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """token (B,) → logits (B, V) of what follows, state."""
        pos = state.pos
        if state.tokens is not None:
            if pos == self.seq_len:  # the table is full
                return self.read(token[:, None], state)
            state.tokens[:, pos] = token
        x, rope = self.embedding(token), None  # (B, E)
        if self.positions is not None:
            x += self.positions[pos]
        if self.pos == "rope":
            slot = pos % self.seq_len
            if slot == 0 or state.rope is None:  # for the next W steps
                state.rope = rotation(pos - slot, self.seq_len, self.head_dim, self.head.weight)
            rope = tuple(t[slot] for t in state.rope)  # (D,)
        for block, weights, cache in zip(self.blocks, state.weights, state.layers, strict=True):
            x = block.step(x, weights, rope, cache, pos)
        state.pos += 1
        return at_least_float32(self.head(rms_norm(x))), state
