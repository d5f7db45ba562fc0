"""The sequence models: shapes in every mode, causality, attention and dropout written out, known losses."""

import dataclasses
import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from research import seq2seq_arith as script
from research.common.randomness import make_rng
from research.parts.seq2seq_models import N_PICTURES
from research.seq2seq_arith import (
    Batch,
    Config,
    batch_of,
    build,
    drawers,
    load_data,
    loss_fn,
    lr_at,
    optimizer_of,
    some_pictures,
)
from tests.seq2seq import ALPHABET, CPU, MODES, SMALL, A, H, Q, V, mixture_nats, named, scattered
from tests.seq2seq import store as store  # a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

LSTMS = [{"attention": a, "bidirectional": b} for a, b in itertools.product((False, True), repeat=2)]
MODELS = [*LSTMS, {"model": "transformer"}]
LAYERS = [(1, 1), (2, 1), (1, 3), (3, 2)]  # of the encoder and of the decoder
READERS = [{}, {"attention": True, "bidirectional": True}, {"model": "transformer"}]


def some_batch(cfg: Config, data: script.Data, n: int = 6) -> Batch:
    glyph = drawers(data, CPU)["train"]
    queries = data.train
    return batch_of(
        queries.src[:n], queries.tgt[:n], glyph, make_rng(0, 0, "train"), cfg, data.splits.alphabet
    )


def random_text(n: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of random queries (n, Q) and answers (n, A), which do not belong together."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(V, (n, Q), generator=rng), torch.randint(V, (n, A), generator=rng)


# ---- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS, ids=named)
def test_every_model_in_every_mode(mode, model):
    """Shapes, also with unequal numbers of layers; and the output depends on the query."""
    for (encoder, decoder), ops in itertools.product(LAYERS, ("+-", "*")):
        flags = (
            SMALL | model | {"mode": mode, "encoder_layers": encoder, "decoder_layers": decoder, "ops": ops}
        )
        cfg = Config(**flags)
        alphabet, width = "0123456789" + ops + " ", 4 if ops == "*" else 3
        rng = torch.Generator().manual_seed(0)
        net = scattered(build(cfg, alphabet, CPU))
        src = torch.randint(len(alphabet), (6, Q), generator=rng)
        src = torch.rand(6, Q, 28, 28, generator=rng) if mode == "image_to_text" else src
        tgt = torch.randint(len(alphabet), (6, width), generator=rng)
        logits = net(src, None if mode == "text_to_image" else tgt[:, :-1])
        made = net.answer(src)
        if mode == "text_to_image":
            assert logits.shape == (6, width, N_PICTURES) and made.shape == (6, width, 28, 28)
            for row, t in itertools.product(range(6), range(width)):
                assert torch.equal(made[row, t].flatten(), net.pictures[logits[row, t].argmax()])
            assert (logits[:, 0] != logits[:, 1]).any(1).all()  # it counts what it has drawn
            assert not made.requires_grad
        else:
            assert logits.shape == (6, width, len(alphabet)) and made.shape == (6, width)
            assert made.dtype == torch.int64 and 0 <= made.min() <= made.max() < len(alphabet)
            assert net.pictures is None
        assert logits.dtype == torch.float32
        other = net(src.roll(1, 0), None if mode == "text_to_image" else tgt[:, :-1])
        assert (logits - other).flatten(2).abs().amax(2).min() > 1e-7  # at every place, the first too


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_no_output_depends_on_a_later_character(model):
    net = build(Config(**SMALL | model | {"decoder_layers": 2}), ALPHABET, CPU)
    src, tgt = random_text()
    before = tgt.repeat(1, 3)  # longer than an answer needs no more than the LSTM, which has no places
    before = before[:, : 8 if not model.get("model") else A - 1]
    logits = net(src, before)
    for t in range(before.shape[1]):
        changed = before.clone()
        changed[:, t] = (changed[:, t] + 1) % V
        other = net(src, changed)
        assert torch.equal(other[:, : t + 1], logits[:, : t + 1])
        assert (other[:, t + 1] - logits[:, t + 1]).abs().amax(1).min() > 1e-6


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_an_answer_is_the_most_probable_character_each_time(model):
    """Written out: a decoder that is called again for each character, with one query at a time."""
    net = build(Config(**SMALL | model | {"encoder_layers": 2}), ALPHABET, CPU)
    for p in net.parameters():
        p.data *= 3  # decided enough, so that queries have different answers
    src, _ = random_text(20)
    made = net.answer(src)
    for query, answer in zip(src, made):
        so_far: list[int] = []
        for _ in range(A):
            logits = net(query[None], torch.tensor([so_far], dtype=torch.long).view(1, -1))
            assert logits.shape == (1, len(so_far) + 1, V)
            so_far.append(int(logits[0, -1].argmax()))
        assert so_far == answer.tolist()
    assert torch.equal(net(src, made[:, :-1]).argmax(2), made)  # all at once, as in training
    assert len({tuple(answer) for answer in made.tolist()}) > 3 and not made.requires_grad


@pytest.mark.parametrize("bidirectional", [False, True])
def test_attention_weighs_all_of_the_query(bidirectional):
    net = build(Config(**SMALL, attention=True, bidirectional=bidirectional), ALPHABET, CPU)
    src, tgt = random_text()
    memory = net.encode(src)
    assert memory.outputs.shape == (8, Q, 2 * H if bidirectional else H)
    h, _ = net.decoder(net.inputs(memory, tgt[:, :-1]), memory.state)
    weights = net.look(h, memory)
    assert weights.shape == (8, A, Q) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(8, A))
    scores = torch.einsum("bth,hk,bqk->btq", h, net.score.weight, memory.outputs)  # Luong et al., eq. 8
    torch.testing.assert_close(weights, scores.exp() / scores.exp().sum(2, keepdim=True))
    context = torch.einsum("btq,bqk->btk", weights, memory.outputs)
    mixed = torch.tanh(torch.cat((h, context), 2) @ net.mix.weight.T)  # eq. 5
    torch.testing.assert_close(net.decode(memory, tgt[:, :-1]), net.head(mixed))


def test_only_with_attention_the_decoder_sees_more_than_the_last_state():
    src, tgt = random_text()
    for attention in (False, True):
        net = build(Config(**SMALL, attention=attention), ALPHABET, CPU)
        memory = net.encode(src)
        other = dataclasses.replace(memory, outputs=memory.outputs.roll(1, 0))
        same = torch.equal(net.decode(other, tgt[:, :-1]), net.decode(memory, tgt[:, :-1]))
        assert same != attention


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("encoder", "decoder", "taken"), [(3, 2, [1, 2]), (1, 3, [0, 0, 0]), (2, 3, [0, 0, 1])]
)
def test_the_decoder_begins_with_the_topmost_states(encoder, decoder, taken, bidirectional):
    flags = {"encoder_layers": encoder, "decoder_layers": decoder, "bidirectional": bidirectional}
    net = build(Config(**SMALL | flags), ALPHABET, CPU)
    src, _ = random_text()
    _, states = net.encoder(F.one_hot(src, V).float())
    for found, state in zip(net.encode(src).state, states, strict=True):
        if bidirectional:  # both directions of a layer, side by side, through one matrix
            both = [torch.cat((state[2 * k], state[2 * k + 1]), 1) for k in range(encoder)]
            state = torch.stack([s @ net.bridge.weight.T for s in both])
        assert found.shape == (decoder, 8, H)
        torch.testing.assert_close(found, state[taken])


def test_a_bidirectional_encoder_reads_from_both_ends():
    """With a bidirectional encoder its first output knows the last character of the query; without, it knows
    only the first.
    """
    src, _ = random_text()
    other = src.clone()
    other[:, -1] = (other[:, -1] + 1) % V
    for both in (False, True):
        net = build(Config(**SMALL, bidirectional=both), ALPHABET, CPU)
        first, second = (net.encode(x).outputs[:, 0] for x in (src, other))
        assert torch.equal(first, second) != both


def share_of_zeros(x: torch.Tensor) -> float:
    return (x == 0).double().mean().item()


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_dropout_hides_what_the_encoder_tells_and_what_the_head_gets(model, monkeypatch):
    """Each entry is dropped by itself; the others are scaled up to make up for it."""
    cfg = Config(**SMALL | model | {"dropout": 0.25})
    net, (src, tgt) = build(cfg, ALPHABET, CPU), random_text(100)
    heads, memories = [], []
    net.head.register_forward_pre_hook(lambda _, args: heads.append(args[0]))
    decode = net.decode
    monkeypatch.setattr(net, "decode", lambda memory, *rest: memories.append(memory) or decode(memory, *rest))
    assert torch.equal(net(src, tgt[:, :-1]), net(src, tgt[:, :-1], None))
    assert share_of_zeros(heads[-1]) == share_of_zeros(memories[-1].outputs) == 0
    net(src, tgt[:, :-1], torch.Generator().manual_seed(1))
    given, whole = memories[-1], net.encode(src)
    decode(given, tgt[:, :-1])  # what the head would get of such a memory, with nothing hidden
    pairs = [(given.outputs, whole.outputs), (heads[-2], heads[-1])]
    if not model.get("model"):
        pairs += [(some[0], all_of[0]) for some, all_of in zip(given.state, whole.state, strict=True)]
    for some, all_of in pairs:  # 1200 numbers or more: the share is off by 0.0125 (sd)
        assert share_of_zeros(some) == pytest.approx(0.25, abs=0.05)
        torch.testing.assert_close(some[some != 0], all_of[some != 0] / 0.75)
        assert (some == 0).float().mean(0).max() < 0.6  # the same places are not hidden of all queries
    again = [net(src, tgt[:, :-1], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


@pytest.mark.parametrize("mode", MODES)
def test_dropout_is_for_training_alone(mode, store):
    cfg = Config(**SMALL, dropout=0.5, mode=mode, data_dir=str(store))
    net, batch = scattered(build(cfg, ALPHABET, CPU), 0.3), some_batch(cfg, load_data(cfg))

    def found(step, cfg=cfg):
        return loss_fn(net, batch, make_rng(0, step, "train") if step else None, cfg).item()

    assert len({found(None), found(1), found(2)}) == 3 and found(1) == found(1)
    assert found(1, dataclasses.replace(cfg, dropout=0.0)) == found(None)


def test_initial_weights():
    net = build(Config(**SMALL, encoder_layers=2), ALPHABET, CPU)
    for lstm in (net.encoder, net.decoder):
        bias = lstm.bias_ih_l0.data + lstm.bias_hh_l0.data
        assert bias.tolist() == H * [0] + H * [1] + 2 * H * [0]  # i, f, g, o: cells remember
        for gate in lstm.weight_hh_l0.data.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(H), atol=1e-5, rtol=0)


def test_build_is_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    for model in ("lstm", "transformer"):
        a, b, c = (build(Config(**SMALL, model=model, seed=s), ALPHABET, CPU).state_dict() for s in (1, 1, 2))
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert not all(torch.equal(a[name], c[name]) for name in a)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pictures_are_read_one_by_one():
    """A picture's features do not depend on the pictures beside it, nor on the other queries."""
    net = build(Config(**SMALL, mode="image_to_text"), ALPHABET, CPU)
    x = torch.rand(4, Q, 28, 28, generator=torch.Generator().manual_seed(0))
    found = net.features(x)
    assert found.shape == (4, Q, H)
    torch.testing.assert_close(found[2, 3], net.see(x[2, 3][None, None])[0])


# ---- the objective -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", READERS, ids=named)
def test_a_model_that_knows_nothing_costs_ln_13(model):
    cfg = Config(**SMALL | model)
    data = load_data(cfg)
    net, batch = build(cfg, ALPHABET, CPU), some_batch(cfg, data, 500)
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(math.log(13), abs=0.5)
    torch.nn.init.zeros_(net.head.weight), torch.nn.init.zeros_(net.head.bias)
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(math.log(13), rel=1e-6)


def test_a_picture_of_which_nothing_is_known_costs_784_ln_2(store):
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store))
    data = load_data(cfg)
    net, batch = build(cfg, ALPHABET, CPU), some_batch(cfg, data)
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(784 * math.log(2), rel=1e-6)
    net.pictures.data += 0.3  # the same logit everywhere: −x l + ln(1 + eˡ), a picture's sum
    expected = 784 * math.log1p(math.exp(0.3)) - 0.3 * batch.drawn.sum((2, 3)).mean().item()
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_nats_of_a_mixture_of_pictures(store, size):
    """The same as with torch.distributions in double precision, even for logits that leave
    hardly any choice.
    """
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store))
    net, batch = scattered(build(cfg, ALPHABET, CPU), size), some_batch(cfg, load_data(cfg))
    logits = size * torch.randn(6, A, N_PICTURES, generator=torch.Generator().manual_seed(1))
    found = net.nats_of(batch.drawn, logits)
    assert found.shape == (6, A) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mixture_nats(net, batch.drawn, logits), rtol=1e-5, atol=0)
    made = net(batch.src)
    expected = mixture_nats(net, batch.drawn, made).mean().item()  # over all pictures, blanks too
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(expected, rel=1e-5)


def test_nats_of_one_picture_written_out():
    """p(k) by hand: two pictures that count and one pixel that distinguishes them; and all probabilities sum
    to 1.
    """
    net = build(Config(**SMALL, mode="text_to_image"), ALPHABET, CPU)
    net.pictures.data[:] = -40.0  # every pixel is surely black
    net.pictures.data[0, 5] = math.log(0.8 / 0.2)
    net.pictures.data[1, 5] = math.log(0.1 / 0.9)
    logits = torch.full((1, 2, N_PICTURES), -1e4)
    logits[..., 0], logits[..., 1] = math.log(3), 0.0  # 3/4 and 1/4
    drawn = torch.zeros(1, 2, 28, 28)
    drawn[0, 1, 0, 5] = 1
    p = net.nats_of(drawn, logits).neg().exp()[0]
    assert p.tolist() == pytest.approx([0.75 * 0.2 + 0.25 * 0.9, 0.75 * 0.8 + 0.25 * 0.1], rel=1e-4)
    assert p.sum().item() == pytest.approx(1, rel=1e-4)


def test_the_mixture_teaches_the_pictures_and_the_choice(store):
    """Gradients by hand: each picture moves towards what it probably shows, and the choice towards what it
    probably was.
    """
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store))
    net, batch = scattered(build(cfg, ALPHABET, CPU), 0.05), some_batch(cfg, load_data(cfg))
    logits = net(batch.src)
    logits.retain_grad()
    net.nats_of(batch.drawn, logits).mean().backward()
    with torch.no_grad():
        x, n = batch.drawn.flatten(0, 1).flatten(1).double(), 6 * A
        pixels = torch.sigmoid(net.pictures.double())
        p = logits.double().softmax(2).flatten(0, 1)
        log_p = torch.stack([(x * q.log() + (1 - x) * (1 - q).log()).sum(1) for q in pixels], 1)
        posterior = (p.log() + log_p).softmax(1)  # of each picture that was drawn
        expected = -torch.stack([(r[:, None] * (x - q)).sum(0) for r, q in zip(posterior.T, pixels)]) / n
    torch.testing.assert_close(net.pictures.grad.double(), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(logits.grad.flatten(0, 1).double(), (p - posterior) / n, rtol=1e-3, atol=1e-6)
    assert net.pictures.grad.abs().amax(1).min() > 0 and net.head.weight.grad.abs().amax(1).min() > 0
    assert posterior.amax(1).max() < 0.9 and (p - posterior).abs().max() > 0.05


@pytest.mark.parametrize("ops", ["+", "+-", "*"])
def test_pictures_begin_as_some_of_the_training_part(store, ops):
    """As many pictures of each character as answers have on average; they depend only on the seed."""
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store), ops=ops)
    data = load_data(cfg)
    alphabet, glyph = data.splits.alphabet, drawers(data, CPU)["train"]
    x, same, other = (some_pictures(data, glyph, dataclasses.replace(cfg, seed=s)) for s in (3, 3, 4))
    assert x.shape == (N_PICTURES, 28, 28) and torch.equal(x, same) and not torch.equal(x, other)
    labels = {p.numpy().tobytes(): str(int(k)) for p, k in zip(data.digits.train, data.digits.train_labels)}
    seen = [p.mul(255).round().byte().numpy() for p in x]
    read = Counter(labels.get(p.tobytes(), "-" if p.any() else " ") for p in seen)
    assert set(read) == {alphabet[i] for i in data.train.tgt.unique()}  # never the +, and - only with it
    assert max(read.values()) - min(read.values()) <= 1 and read.total() == N_PICTURES
    assert len({p.tobytes() for p in seen if p.any()}) > 0.9 * (N_PICTURES - read[" "])  # not one of each
    net = build(cfg, alphabet, CPU)
    assert not net.pictures.any()
    net.begin_with(x)
    assert isinstance(net.pictures, torch.nn.Parameter) and net.pictures.shape == (N_PICTURES, 784)
    torch.testing.assert_close(torch.sigmoid(net.pictures).unflatten(1, (28, 28)), 0.1 + 0.5 * x)


@pytest.mark.parametrize("model", READERS, ids=named)
def test_the_loss_is_the_mean_over_all_characters(model):
    """Including blanks; each is predicted from the query and the true characters before it."""
    cfg = Config(**SMALL | model)
    net = build(cfg, ALPHABET, CPU)
    batch = some_batch(cfg, load_data(cfg), 10)
    nats = []
    for src, tgt in zip(batch.src, batch.tgt):
        for t in range(A):
            log_p = F.log_softmax(net(src[None], tgt[None, :t])[0, t], 0)
            nats.append(-log_p[tgt[t]].item())
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(sum(nats) / (10 * A), rel=1e-5)
    assert (batch.tgt == 12).any()


@pytest.mark.parametrize("model", READERS, ids=named)
def test_teacher_forcing(model):
    """1: the true characters; 0: the model's own, all at once; in between: each by its own draw."""
    cfg = Config(**SMALL | model)
    net = build(cfg, ALPHABET, CPU)
    for p in net.parameters():
        p.data *= 2
    src, tgt = random_text(200)
    batch = Batch(src, tgt)
    with torch.no_grad():
        own = net(src, tgt[:, :-1])[:, :-1].argmax(2)

    def by_hand(before):
        return F.cross_entropy(net(src, before).flatten(0, 1), tgt.flatten())

    def found(share, rng):
        return loss_fn(net, batch, rng, dataclasses.replace(cfg, teacher_forcing=share))

    true = by_hand(tgt[:, :-1])
    torch.testing.assert_close(found(1.0, make_rng(0, 0, "train")), true)
    torch.testing.assert_close(found(0.0, make_rng(0, 0, "train")), by_hand(own))
    assert abs(by_hand(own) - true) > 1e-4
    torch.testing.assert_close(found(0.0, None), true)  # validation is with the true ones
    draw = torch.rand(200, A - 1, generator=make_rng(0, 7, "train"))
    mixed = torch.where(draw < 0.75, tgt[:, :-1], own)
    torch.testing.assert_close(found(0.75, make_rng(0, 7, "train")), by_hand(mixed))
    assert found(0.75, make_rng(0, 8, "train")) != found(0.75, make_rng(0, 7, "train"))


@pytest.mark.parametrize("model", READERS, ids=named)
def test_what_is_read_of_its_own_costs_no_gradient_in_bf16(model):
    """The weights that wrote the model's own characters, without gradients, are not used
    again as they were.
    """
    cfg = Config(**SMALL | model | {"precision": "bf16", "teacher_forcing": 0.5})
    net = build(cfg, ALPHABET, CPU)
    loss_fn(net, Batch(*random_text(20)), make_rng(0, 0, "train"), cfg).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", READERS, ids=named)
def test_bf16_on_a_cpu(mode, model, store):
    found, slopes, drawn = {}, {}, mode == "text_to_image"
    for precision in ("fp32", "bf16"):
        cfg = Config(**SMALL | model | {"mode": mode, "precision": precision, "data_dir": str(store)})
        net, data = build(cfg, ALPHABET, CPU), load_data(cfg)
        if drawn:
            net.begin_with(some_pictures(data, drawers(data, CPU)["train"], cfg))
        loss = loss_fn(net, some_batch(cfg, data), make_rng(0, 0, "train"), cfg)
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
        found[precision], slopes[precision] = loss.item(), net.head.weight.grad
    near = {"abs": 0.02} if drawn else {"rel": 0.02}  # of 170: the pixels are summed in fp32
    assert found["fp32"] == pytest.approx(found["bf16"], **near)
    assert not torch.equal(slopes["fp32"], slopes["bf16"])


def test_learning_rate():
    cfg = Config(steps=10_000, learning_rate=0.5)
    rates = [lr_at(step, cfg) for step in range(10_001)]
    assert rates[0] == pytest.approx(0.5 / 200) and rates[10_000] == pytest.approx(0, abs=1e-9)
    assert max(rates) == rates[199] == pytest.approx(0.5, rel=0.01)
    assert rates[5000] == pytest.approx(0.25)
    assert lr_at(0, Config(steps=1, learning_rate=0.5)) == 0.5  # the only step is at the peak
    assert lr_at(9, Config(steps=200, learning_rate=0.5)) == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", READERS, ids=named)
def test_matrices_alone_decay(model, mode):
    """And not for the pictures that are drawn, which would all become grey."""
    cfg = Config(**SMALL | model | {"weight_decay": 0.25, "mode": mode})
    net = build(cfg, ALPHABET, CPU)
    groups = optimizer_of(net, cfg).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay == {id(p): 0.25 if p.ndim > 1 and p is not net.pictures else 0.0 for p in net.parameters()}
    assert sum(len(g["params"]) for g in groups) == len(decay) and set(decay.values()) == {0.25, 0.0}
    assert mode != "text_to_image" or decay[id(net.pictures)] == 0
