"""The character models: none sees the future, cached equals uncached, dropout uses only its own generator."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from research.parts.charlm_models import LSTM, TCN, Transformer, dropout, rotate, rotation

pytestmark = pytest.mark.usefixtures("one_thread")

V, W = 11, 8  # characters, window of the small Transformers
MAKE = {
    "lstm": lambda **kw: LSTM(V, 8, 12, 2, **kw),
    "tcn": lambda **kw: TCN(V, 8, 12, 3, 3, **kw),
    "tcn-wide": lambda **kw: TCN(V, 12, 12, 2, 4, **kw),
    "tcn-plain": lambda **kw: TCN(V, 8, 12, 3, 2, norm="none", **kw),
    "none": lambda **kw: Transformer(V, 16, 2, 2, W, "none", **kw),
    "learned": lambda **kw: Transformer(V, 16, 2, 2, W, "learned", **kw),
    "rope": lambda **kw: Transformer(V, 16, 2, 2, W, "rope", **kw),
}
each = pytest.mark.parametrize("name", MAKE)


def make(name: str, trained: bool = True, dtype: torch.dtype = torch.float64, **kw) -> nn.Module:
    """A small model; trained: with weights as if it were, none of which is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MAKE[name](**kw).to(dtype)
        for p in model.parameters() if trained else ():
            nn.init.normal_(p, std=0.4)
    return model


def text(b: int, t: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (b, t), generator=torch.Generator().manual_seed(seed))


def length(name: str) -> int:
    return W if name == "learned" else 3 * W + 5


# ---- forward -------------------------------------------------------------------------------------------


@each
def test_no_output_depends_on_a_later_character(name):
    model, tokens = make(name), text(2, length(name))
    before, t = model(tokens), tokens.shape[1]
    for i in range(1, t):
        changed = tokens.clone()
        changed[:, i:] = (tokens[:, i:] + 1) % V
        after = model(changed)
        assert torch.equal(after[:, :i], before[:, :i]) and (after[:, i] != before[:, i]).any(), i


@each
def test_gradients_reach_what_a_position_may_see_and_nothing_else(name):
    model, tokens = make(name), text(1, length(name))
    seen = []
    model.embedding.register_forward_hook(lambda _m, _i, out: seen.append(out))
    logits, i = model(tokens), tokens.shape[1] - 2
    (grad,) = torch.autograd.grad(logits[0, i].square().sum(), seen)
    reached = grad[0].abs().sum(1) > 0  # (T,)
    far = {"none": 2 * (W - 1) + 1, "rope": 2 * (W - 1) + 1}  # two layers, each W − 1 further back
    field = min(i + 1, far.get(name, getattr(model, "receptive_field", i + 1)))
    assert reached.nonzero()[:, 0].tolist() == list(range(i + 1 - field, i + 1))


@pytest.mark.parametrize(("n_layers", "kernel_size"), [(1, 2), (2, 3), (4, 2), (3, 5)])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_receptive_field_is_exact(n_layers, kernel_size, norm):
    model = TCN(V, 6, 6, n_layers, kernel_size, norm=norm).double()
    for p in model.parameters():
        nn.init.uniform_(p, 0.1, 0.5)  # positive, so that no ReLU is closed
    field = 1 + 2 * (kernel_size - 1) * (2**n_layers - 1)
    assert model.receptive_field == field
    seen = []
    model.embedding.register_forward_hook(lambda _m, _i, out: seen.append(out))
    logits = model(text(1, field + 5))
    (grad,) = torch.autograd.grad((logits[0, -1] * torch.arange(V)).sum(), seen)
    reached = grad[0].abs().sum(1) > 0
    assert reached.tolist() == [False] * 5 + [True] * field


@each
def test_an_untrained_model_guesses(name):
    model, tokens = make(name, trained=False, dtype=torch.float32), text(16, W + 1)
    logits = model(tokens[:, :-1])
    assert logits.shape == (16, W, V) and logits.dtype == torch.float32
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(V), abs=0.1)


def test_parameter_counts():
    count = {
        pos: sum(p.numel() for p in Transformer(65, 128, 4, 4, 256, pos).parameters())
        for pos in ("none", "rope", "learned")
    }
    blocks, ends = 4 * 12 * 128**2, 2 * 65 * 128 + 65
    assert count["rope"] == count["none"] == blocks + ends == 803_137  # nanoGPT's setting: 0.80 million
    assert count["learned"] == 803_137 + 256 * 128


def test_cells_of_the_lstm_begin_by_remembering():
    for layer in LSTM(V, 8, 12, 2).layers:
        bias = (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, 12)
        assert torch.equal(bias, torch.tensor([0.0, 1, 0, 0])[:, None].expand(4, 12))


@pytest.mark.parametrize("name", ["tcn", "none", "learned", "rope"])
def test_residual_blocks_begin_as_the_identity(name):
    model = make(name, trained=False, dtype=torch.float32)
    x = torch.randn(2, 5, 12 if name == "tcn" else 16, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        y = block(x, 0.0, None) if name == "tcn" else block(x, None, None, 0.0, None)
        assert torch.equal(x, y)


# ---- cached --------------------------------------------------------------------------------------------


def learned_window(tokens: torch.Tensor) -> torch.Tensor:
    """What a model with W learned positions sees after these characters, one by one."""
    window = tokens[:, :0]
    for i in range(tokens.shape[1]):
        if window.shape[1] == W:  # the table is full
            window = window[:, -(W // 2) :]
        window = torch.cat((window, tokens[:, i : i + 1]), 1)
    return window


def uncached(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """tokens (B, T) → logits (B, T, V), in one go or, for learned positions, window by window."""
    if getattr(model, "pos", "") != "learned":
        return model(tokens)
    ends = range(1, tokens.shape[1] + 1)
    return torch.stack([model(learned_window(tokens[:, :t]))[:, -1] for t in ends], 1)


@each
@settings(max_examples=25, deadline=None, derandomize=True)
@given(parts=st.lists(st.integers(0, 2 * W + 3), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_cached_equals_uncached(name, parts, seed):
    """It does not matter how a text is split into reads (a 0 stands for three steps), even
    beyond the window.
    """
    model, tokens = make(name), text(3, sum(n or 3 for n in parts), seed)
    with torch.inference_mode():
        expected, state, i = uncached(model, tokens), model.start(3, "cpu"), 0
        for n in parts:
            if n:
                logits, state = model.read(tokens[:, i : i + n], state)
                i += n
                torch.testing.assert_close(logits, expected[:, i - 1], rtol=1e-9, atol=1e-9)
            for _ in range(0 if n else 3):
                logits, state = model.step(tokens[:, i], state)
                i += 1
                torch.testing.assert_close(logits, expected[:, i - 1], rtol=1e-9, atol=1e-9)
        assert logits.shape == (3, V)


@each
def test_generating_far_beyond_the_window_in_float32(name):
    model, tokens = make(name, dtype=torch.float32), text(2, 12 * W)
    with torch.no_grad():
        expected, (logits, state) = uncached(model, tokens), model.read(tokens[:, :1], model.start(2, "cpu"))
        for i in range(1, tokens.shape[1]):
            logits, state = model.step(tokens[:, i], state)
            torch.testing.assert_close(logits, expected[:, i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows_by_large_matrices(rows):
    """Up to three long rows take another path: the products of two halves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(V, 384, 1, 6, W)
        nn.init.normal_(model.blocks[0].out.weight, std=0.05)
        nn.init.normal_(model.blocks[0].down.weight, std=0.02)
        nn.init.normal_(model.head.weight, std=0.3)
    tokens = text(rows, 2 * W)
    with torch.no_grad():
        expected, state = model(tokens), model.start(rows, "cpu")
        for i in range(tokens.shape[1]):
            logits, state = model.step(tokens[:, i], state)
            torch.testing.assert_close(logits, expected[:, i], rtol=1e-4, atol=1e-4)


@each
def test_rows_of_a_batch_do_not_meet_and_states_do_not_grow(name):
    model, tokens, other = make(name), text(3, 3 * W), text(3, 3 * W, seed=1)
    other[1] = tokens[1]

    def size(state) -> int:
        tensors = [
            t
            for layer in getattr(state, "layers", state if isinstance(state, list) else ())
            for t in (vars(layer).values() if hasattr(layer, "k") else layer)
        ]
        return sum(t.untyped_storage().nbytes() for t in tensors + getattr(state, "caches", []))

    with torch.no_grad():
        one, two = model.start(3, "cpu"), model.start(3, "cpu")
        empty = size(one)
        for i in range(tokens.shape[1]):
            a, one = model.step(tokens[:, i], one)
            b, two = model.step(other[:, i], two)
        torch.testing.assert_close(a[1], b[1], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(a[0], b[0]) and not torch.allclose(a[2], b[2])
        assert size(one) == empty > 0


@each
def test_under_autocast(name):
    model, tokens = make(name, dtype=torch.float32), text(2, W)
    with torch.no_grad():
        exact = model(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            logits, state = model(tokens), model.start(2, "cpu")
            last, state = model.read(tokens[:, :3], state)
            for i in range(3, W):
                last, state = model.step(tokens[:, i], state)
    assert logits.dtype == last.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.1 * exact.std() + 0.1
    torch.testing.assert_close(last, logits[:, -1], rtol=0, atol=0.1 * exact.std().item() + 0.05)


def test_a_text_longer_than_the_learned_table_is_refused():
    with pytest.raises(AssertionError, match=f"{W + 1} characters, but a table of {W}"):
        make("learned")(text(1, W + 1))


# ---- dropout -------------------------------------------------------------------------------------------


@each
def test_dropout_is_a_function_of_its_generator(name):
    model, tokens = make(name, dropout=0.3), text(4, W)
    before = torch.random.get_rng_state()

    def logits(seed: int) -> torch.Tensor:
        return model(tokens, torch.Generator().manual_seed(seed))

    assert torch.equal(logits(1), logits(1)) and not torch.allclose(logits(1), logits(2))
    assert torch.equal(model(tokens), make(name)(tokens))  # none without a generator, in training mode too
    assert torch.equal(make(name)(tokens, torch.Generator()), make(name)(tokens))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_keeps_the_mean():
    x = torch.ones(100_000)
    y = dropout(x, 0.2, torch.Generator().manual_seed(0))
    assert y.unique().tolist() == [0, 1.25] and y.mean().item() == pytest.approx(1, abs=0.01)
    assert dropout(x, 0.2, None) is x and dropout(x, 0.0, torch.Generator()) is x


# ---- rotary positions ----------------------------------------------------------------------------------


def score(q: torch.Tensor, k: torch.Tensor, at_q: int, at_k: int) -> torch.Tensor:
    return (rotate(q, *rotation(at_q, 1, 32, q)) * rotate(k, *rotation(at_k, 1, 32, k))).sum()


@given(a=st.integers(0, 300), b=st.integers(0, 300), shift=st.integers(0, 200_000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_scores_depend_on_the_distance_alone(a, b, shift):
    q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(a), dtype=torch.float64)
    torch.testing.assert_close(score(q, k, a, b), score(q, k, a + shift, b + shift), rtol=0, atol=1e-8)
    near = score(q.float(), k.float(), a + shift, b + shift).double()  # float32 at far positions
    torch.testing.assert_close(near, score(q, k, a, b), rtol=0, atol=2e-5)
    assert abs(score(q, k, 0, 0) - (q * k).sum()) < 1e-12


def test_rotation_is_precise_at_position_100_000():
    cos, sin = rotation(100_000, 3, 32, torch.zeros(()))
    assert cos.dtype == torch.float32
    for n in range(3):
        for i in range(16):
            angle = (100_000 + n) * 10_000 ** (-i / 16)
            assert cos[n, i].item() == cos[n, 31 - i].item() == pytest.approx(math.cos(angle), abs=1e-7)
            assert -sin[n, i].item() == sin[n, 31 - i].item() == pytest.approx(math.sin(angle), abs=1e-7)


@pytest.mark.parametrize("name", ["rope", "none"])
def test_a_state_may_begin_at_any_position(name):
    """Only distances count: after 100,000 other characters, the logits are the same as after none."""
    model, tokens = make(name, dtype=torch.float32), text(2, 3 * W)
    with torch.no_grad():
        near, far = model.start(2, "cpu"), model.start(2, "cpu")
        filler = text(2, 2 * W, seed=5)
        model.read(filler, near)
        far.pos = 100_000 * W  # as if that much was read; what is in the window is read now
        model.read(filler, far)
        for i in range(tokens.shape[1]):
            a, near = model.step(tokens[:, i], near)
            b, far = model.step(tokens[:, i], far)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# ---- learning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "tcn", "tcn-plain", "none", "learned", "rope"])
def test_a_repeating_text_is_learned(name):
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "embed_dim": 32, "n_layers": 2}
    if name == "lstm":
        model = LSTM(**sizes, hidden_dim=32)
    elif name.startswith("tcn"):
        norm = "none" if name == "tcn-plain" else "layer"
        model = TCN(**sizes, hidden_dim=32, kernel_size=3, norm=norm)
    else:
        model = Transformer(**sizes, n_heads=2, seq_len=24, pos=name)
    words = torch.tensor([0, 1, 2, 0, 1, 3, 4, 4, 5, 6, 7, 0])  # some characters have several successors
    if name == "none":  # which has to find out the order, in 450 steps: here each has one successor
        words = torch.arange(12)
    tokens = words.repeat(14).unfold(0, 25, 7)  # (N, 25), beginning anywhere in the word
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(150):
        logits = model(tokens[:, :-1])
        # the first characters cannot be foretold: they do not tell where in the word they are
        loss = F.cross_entropy(logits[:, 4:].flatten(0, 1), tokens[:, 5:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    with torch.no_grad():  # and is generated, past the window
        state, out = model.start(1, "cpu"), []
        logits, state = model.read(words[None], state)
        for _ in range(60):
            out.append(logits.argmax(-1))
            logits, state = model.step(out[-1], state)
    assert torch.cat(out).tolist() == words.repeat(5).tolist()
