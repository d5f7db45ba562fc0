"""Sequence to sequence: known losses, causality, every model in every mode, training, and the tasks."""

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data import DataError, arithmetic, glyphs
from research import digit_classifier as judge
from research import seq2seq_analysis, seq2seq_mistakes, seq2seq_models
from research import seq2seq_arith as script
from research.common.commandline import parse
from research.common.flags import UserError, result_flags
from research.common.run import make_rng
from research.seq2seq_arith import (
    Batch,
    Config,
    answers,
    batch_of,
    build,
    drawers,
    load_data,
    loss_fn,
    lr_at,
    optimizer_of,
    reader_of,
    some_pictures,
)
from research.seq2seq_models import N_PICTURES
from tests.conftest import killed, results

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, ROOT = torch.device("cpu"), Path(__file__).resolve().parents[1]
COMMON = ("train/learning_rate", "train/loss_epoch")  # explained for every family
ALPHABET = "0123456789+- "
Q, A, V, H = 5, 3, 13, 12  # of two digits, and units
SMALL = {"hidden_dim": H, "n_heads": 2, "device": "cpu", "threads": 1, "wandb": "disabled"}
ONE = {"digits": 1, "ops": "+", "train_fraction": 0.8, "batch_size": 16}  # 76, 4 and 20 queries
MODES = ("text_to_text", "image_to_text", "text_to_image")
LSTMS = [{"attention": a, "bidirectional": b} for a, b in itertools.product((False, True), repeat=2)]
MODELS = [*LSTMS, {"model": "transformer"}]
LAYERS = [(1, 1), (2, 1), (1, 3), (3, 2)]  # of the encoder and of the decoder
READERS = [{}, {"attention": True, "bidirectional": True}, {"model": "transformer"}]


def named(flags: dict) -> str:
    """A short name of the flags for a test's own."""
    names = (str(value) if key in ("model", "mode") else key for key, value in flags.items() if value)
    return "-".join(names) or "plain"


@pytest.fixture(autouse=True)
def short_lesson(monkeypatch):
    """The classifier that reads drawn answers learns for a moment; its own tests have more."""
    monkeypatch.setattr(judge, "STEPS", 8)


@pytest.fixture
def no_charts(monkeypatch):
    """Black squares for charts, which take longer than a short training."""
    for module, name in (
        (seq2seq_mistakes, "map_picture"),
        (seq2seq_analysis, "bars"),
        (seq2seq_analysis, "heatmap"),
    ):
        monkeypatch.setattr(module, name, lambda *_: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def quiet(monkeypatch, no_charts):
    """Neither samples nor charts: they are tested elsewhere."""
    monkeypatch.setattr(script, "samples", lambda *_: {})


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A --data_dir for all, so that each classifier is trained once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def learn(tmp_path, store):
    """learn(name, **flags): rows and folder of a run of queries with one digit."""

    def do(name: str = "run", **flags):
        place = {"out": str(tmp_path / "runs"), "data_dir": str(store), "name": name}
        script.train(Config(**SMALL | ONE | {"sample_every": 10_000} | place | flags))
        folder = tmp_path / "runs" / name
        return rows_of(folder), folder

    return do


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def some_batch(cfg: Config, data: script.Data, n: int = 6) -> Batch:
    glyph = drawers(data, CPU)["train"]
    queries = data.train
    return batch_of(
        queries.src[:n], queries.tgt[:n], glyph, make_rng(0, 0, "train"), cfg, data.splits.alphabet
    )


def mixture_nats(net: torch.nn.Module, drawn: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """−log p(drawn) (B, A) of a mixture of Bernoulli pictures, in torch's own words and double precision."""
    pixels = torch.distributions.Bernoulli(logits=net.pictures.double(), validate_args=False)
    chosen = torch.distributions.Categorical(logits=logits.double())
    mixture = torch.distributions.MixtureSameFamily(
        chosen, torch.distributions.Independent(pixels, 1), validate_args=False
    )
    return -mixture.log_prob(drawn.double().flatten(2))


def scattered(net: torch.nn.Module, size: float = 1.0) -> torch.nn.Module:
    """A model that draws, with pictures that are not alike; any other as it is."""
    if net.pictures is not None:
        net.pictures.data = size * torch.randn(N_PICTURES, 784, generator=torch.Generator().manual_seed(5))
    return net


def random_text(n: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of queries (n, Q) and answers (n, A) that mean nothing."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(V, (n, Q), generator=rng), torch.randint(V, (n, A), generator=rng)


# ---- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS, ids=named)
def test_every_model_in_every_mode(mode, model):
    """Shapes, with unequal numbers of layers too; and that what comes out depends on the query."""
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
        told = net.answer(src)
        if mode == "text_to_image":
            assert logits.shape == (6, width, N_PICTURES) and told.shape == (6, width, 28, 28)
            for row, t in itertools.product(range(6), range(width)):
                assert torch.equal(told[row, t].flatten(), net.pictures[logits[row, t].argmax()])
            assert (logits[:, 0] != logits[:, 1]).any(1).all()  # it counts what it has drawn
            assert not told.requires_grad
        else:
            assert logits.shape == (6, width, len(alphabet)) and told.shape == (6, width)
            assert told.dtype == torch.int64 and 0 <= told.min() <= told.max() < len(alphabet)
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
    """Written out: a decoder that is called anew for each character, on one query at a time."""
    net = build(Config(**SMALL | model | {"encoder_layers": 2}), ALPHABET, CPU)
    for p in net.parameters():
        p.data *= 3  # decided enough, so that queries have different answers
    src, _ = random_text(20)
    told = net.answer(src)
    for query, answer in zip(src, told):
        so_far: list[int] = []
        for _ in range(A):
            logits = net(query[None], torch.tensor([so_far], dtype=torch.long).view(1, -1))
            assert logits.shape == (1, len(so_far) + 1, V)
            so_far.append(int(logits[0, -1].argmax()))
        assert so_far == answer.tolist()
    assert torch.equal(net(src, told[:, :-1]).argmax(2), told)  # all at once, as in training
    assert len({tuple(answer) for answer in told.tolist()}) > 3 and not told.requires_grad


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
    """Its first output knows the last character of the query; without, it knows only the first."""
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
    """Each number by itself; those that are left are larger by as much as is missing."""
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
    """As torch.distributions have it, in double precision; with logits that leave hardly any choice, too."""
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store))
    net, batch = scattered(build(cfg, ALPHABET, CPU), size), some_batch(cfg, load_data(cfg))
    logits = size * torch.randn(6, A, N_PICTURES, generator=torch.Generator().manual_seed(1))
    found = net.nats_of(batch.drawn, logits)
    assert found.shape == (6, A) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mixture_nats(net, batch.drawn, logits), rtol=1e-5, atol=0)
    told = net(batch.src)
    expected = mixture_nats(net, batch.drawn, told).mean().item()  # over all pictures, blanks too
    assert loss_fn(net, batch, None, cfg).item() == pytest.approx(expected, rel=1e-5)


def test_nats_of_one_picture_written_out():
    """p(k) by hand: two pictures that count, one pixel that tells them apart; and all together are 1."""
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
    """Gradients by hand: each picture goes to what it is probably of, the choice to what it probably was."""
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
    """As many of each character that answers have; a function of the seed."""
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
    """Blanks too; each told from the query and the true ones before it."""
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
    """1: the true characters; 0: the model's own, all at once; between: each by its own draw."""
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
    """And of these not the pictures that are drawn: they would all become grey."""
    cfg = Config(**SMALL | model | {"weight_decay": 0.25, "mode": mode})
    net = build(cfg, ALPHABET, CPU)
    groups = optimizer_of(net, cfg).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay == {id(p): 0.25 if p.ndim > 1 and p is not net.pictures else 0.0 for p in net.parameters()}
    assert sum(len(g["params"]) for g in groups) == len(decay) and set(decay.values()) == {0.25, 0.0}
    assert mode != "text_to_image" or decay[id(net.pictures)] == 0


# ---- data ----------------------------------------------------------------------------------------------


def test_batches(store):
    """What the model gets in each mode: ids or pictures, the answer as it is written."""
    queries = [("81+24", "105", "501"), ("41-89", "-48", "84-"), ("7+0", "7", "7")]
    src, tgt, reverse = (torch.tensor([arithmetic.encode(t.ljust(n), ALPHABET) for t in texts])
                         for texts, n in zip(zip(*queries), (Q, A, A)))  # fmt: skip
    for mode, flip in itertools.product(MODES, (False, True)):
        cfg = Config(**SMALL, mode=mode, reverse=flip, data_dir=str(store))
        glyph = drawers(load_data(cfg), CPU)["train"]
        batch = batch_of(src.byte(), tgt.byte(), glyph, make_rng(0, 3, "train"), cfg, ALPHABET)
        written = reverse if flip else tgt
        assert torch.equal(batch.tgt, written) and batch.tgt.dtype == torch.int64
        if mode == "image_to_text":
            expected = glyph.draw(src, ALPHABET, make_rng(0, 3, "train"))
            assert torch.equal(batch.src, expected) and batch.drawn is None
        else:
            assert torch.equal(batch.src, src)  # a query is never reversed
        if mode == "text_to_image":
            assert torch.equal(batch.drawn, glyph.draw(written, ALPHABET, make_rng(0, 3, "train")))


def test_pictures_of_a_part_are_drawn_with_its_own_digits(store):
    cfg = Config(**SMALL, mode="image_to_text", data_dir=str(store))
    assert drawers(load_data(Config(**SMALL)), CPU) == dict.fromkeys(("train", "val", "test"))
    data = load_data(cfg)
    for part, glyph in drawers(data, CPU).items():
        own = {p.numpy().tobytes() for p in getattr(data.digits, part)}
        assert {p.numpy().tobytes() for p in glyph.images} == own


def test_only_training_pictures_are_varied(store):
    data = load_data(Config(**SMALL, mode="image_to_text", data_dir=str(store)))
    plain, varied = drawers(data, CPU), drawers(data, CPU, vary=True)
    assert drawers(load_data(Config(**SMALL)), CPU, vary=True) == dict.fromkeys(arithmetic.PARTS)
    ids = torch.arange(10)[None]
    for part in arithmetic.PARTS:
        x, y = (g[part].draw(ids, ALPHABET, make_rng(0, 0, "train")) for g in (plain, varied))
        assert (x != y).flatten(2).any(2).all() if part == "train" else torch.equal(x, y)


@pytest.mark.parametrize(("mode", "vary"), [*itertools.product(MODES, (True, False))])
def test_pictures_are_varied_where_they_are_read_and_learned_from(learn, quiet, monkeypatch, mode, vary):
    made, real, seen, used = [], script.drawers, {}, script.loss_fn
    monkeypatch.setattr(script, "drawers", lambda *args: made.append(real(*args)) or made[-1])

    def loss(model, batch, rng, cfg):
        seen.setdefault("val" if rng is None else "train", batch)  # the first of each
        return used(model, batch, rng, cfg)

    monkeypatch.setattr(script, "loss_fn", loss)
    learn(mode=mode, vary=vary, steps=1)
    (glyph,) = made
    if mode == "text_to_text":
        assert not any(glyph.values())
        return
    varied = mode == "image_to_text" and vary
    assert {part: g.vary for part, g in glyph.items()} == {"train": varied, "val": False, "test": False}
    for part, batch in seen.items():
        x = (batch.src if mode == "image_to_text" else batch.drawn).flatten(0, 1)
        stored = {p.numpy().tobytes() for p in glyph[part].images}
        found = [p.mul(255).round().byte().numpy().tobytes() in stored for p in x]
        assert any(found) == (not varied or part == "val")


def test_name_and_hash_of_the_data(store):
    plain = load_data(Config(**SMALL, dataset="nowhere"))  # text needs no pictures
    assert (plain.name, plain.content_hash) == ("2-digit +-", plain.splits.content_hash)
    drawn = load_data(Config(**SMALL, mode="image_to_text", data_dir=str(store)))
    assert drawn.name == "2-digit +-, pictures of digits" and len(drawn.content_hash) == 16
    other = dataclasses.replace(drawn, digits=dataclasses.replace(drawn.digits, content_hash="f" * 16))
    fewer = load_data(Config(**SMALL, mode="image_to_text", data_dir=str(store), train_fraction=0.25))
    assert len({d.content_hash for d in (plain, drawn, other, fewer)}) == 4
    assert drawn.train is drawn.splits.train and len(drawn.train) == 9510
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "VERSION", 99)
        assert drawn.content_hash != fewer.content_hash != other.content_hash
        assert load_data(Config(**SMALL, mode="image_to_text")).content_hash == drawn.content_hash
        renewed = drawn.content_hash
    assert drawn.content_hash != renewed


def test_pictures_that_are_missing_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_data(Config(**SMALL, mode="image_to_text", dataset="nowhere", data_dir=str(tmp_path)))


# ---- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [{"reverse": True}, {"attention": True}, {"model": "transformer"}], ids=named
)
def test_evaluation_equals_a_recount(flags):
    """More queries than are answered at once; greedy answers, and the loss of the true ones."""
    cfg = Config(**SMALL | flags)
    data = load_data(cfg)
    net, part = build(cfg, ALPHABET, CPU), data.splits.test
    few = arithmetic.Queries(*(getattr(part, f.name)[:2500] for f in dataclasses.fields(part)))
    ids, loss = answers(net, few, None, cfg, ALPHABET, None, CPU)
    assert ids.shape == (2500, A)
    tgt = few.tgt.long()
    if cfg.reverse:
        tgt = arithmetic.reverse(tgt, ALPHABET)
    with torch.no_grad():
        log_p = F.log_softmax(net(few.src.long(), tgt[:, :-1]), 2)
        told = net.answer(few.src.long())
    assert loss == pytest.approx(-log_p.gather(2, tgt[..., None]).mean().item(), rel=1e-5)
    if cfg.reverse:
        told = arithmetic.reverse(told, ALPHABET)
    assert torch.equal(ids, told)


def test_answers_that_are_written_in_reverse_are_read_forwards(monkeypatch):
    """A model that writes '501' to '81+24' is right with --reverse and wrong without."""
    part = load_data(Config(**SMALL)).splits.val
    truth = arithmetic.reverse(part.tgt.long(), ALPHABET)
    for flip in (True, False):
        cfg = Config(**SMALL, reverse=flip)
        net = build(cfg, ALPHABET, CPU)
        monkeypatch.setattr(net, "answer", lambda src: truth)
        ids, _ = answers(net, part, None, cfg, ALPHABET, None, CPU)
        same = seq2seq_mistakes.figures(ids, part, ALPHABET, "val")["val/exact_match"]
        assert same == 1 if flip else same < 0.3


def test_drawn_answers_are_what_the_reader_reads(store, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 30)
    cfg = Config(**SMALL, mode="text_to_image", data_dir=str(store / "longer"), reverse=True)
    data = load_data(cfg)
    reader, glyph = reader_of(cfg, data), drawers(data, CPU)["test"]
    known = glyphs.classes(data.digits, ALPHABET)
    assert 0.8 < reader.accuracy == judge.accuracy(reader.model, known.test, known.test_labels)
    assert reader_of(Config(**SMALL), data) is None
    part, net = data.splits.val, build(cfg, ALPHABET, CPU)
    drawn = glyph.draw(arithmetic.reverse(part.tgt.long(), ALPHABET), ALPHABET, make_rng(0, 0, "eval"))
    monkeypatch.setattr(net, "answer", lambda src: torch.logit(drawn, eps=1e-4))  # a model that is perfect
    ids, loss = answers(net, part, glyph, cfg, ALPHABET, reader, CPU)
    assert ids.shape == part.tgt.shape and (ids == part.tgt).double().mean() > 0.8
    assert loss > 450  # its loss is that of its untrained weights, of pictures


def test_pictures_of_the_evaluation_are_always_the_same(store):
    cfg = Config(**SMALL | ONE, mode="image_to_text", data_dir=str(store))
    data = load_data(cfg)
    net, glyph = build(cfg, data.splits.alphabet, CPU), drawers(data, CPU)["test"]

    def loss(cfg):
        return answers(net, data.splits.test, glyph, cfg, data.splits.alphabet, None, CPU)[1]

    assert loss(cfg) == loss(cfg) != loss(dataclasses.replace(cfg, seed=1))


# ---- flags ---------------------------------------------------------------------------------------------

RESULT_FLAGS = {
    "checkpoint", "weights", "seed", "steps", "epochs", "batch_size", "learning_rate", "eval_every",
    "precision", "compile", "deterministic", "mode", "digits", "ops", "train_fraction", "model",
    "encoder_layers", "decoder_layers", "hidden_dim", "n_heads", "attention", "bidirectional", "columns",
    "reverse", "vary", "teacher_forcing", "weight_decay", "dropout", "clip",
}  # fmt: skip


def test_the_flags_that_make_the_key():
    made = set(result_flags(Config(checkpoint="x"))) | set(result_flags(Config(epochs=2)))
    assert made == RESULT_FLAGS  # adding one changes what kept runs mean: do it on purpose


def test_tasks_take_all_flags_of_the_model_from_the_run():
    of_training = {
        "checkpoint", "weights", "seed", "steps", "epochs", "batch_size", "learning_rate", "eval_every",
        "precision", "compile", "deterministic", "vary", "teacher_forcing", "weight_decay", "dropout", "clip",
    }  # fmt: skip
    assert set(seq2seq_analysis.MODEL_FLAGS) == RESULT_FLAGS - of_training


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--mode=text"], "--mode=text: must be one of text_to_text, image_to_text, text_to_image"),
        (["--model=gru"], "--model=gru: must be one of lstm, transformer"),
        (["--encoder_layers=0"], "--encoder_layers=0: must be from 1 to 12"),
        (["--decoder_layers=13"], "--decoder_layers=13: must be from 1 to 12"),
        (["--hidden_dim=0"], "--hidden_dim=0: must be at least 1"),
        (["--n_heads=0"], "--n_heads=0: must be at least 1"),
        (["--model=transformer", "--n_heads=3"], "--hidden_dim=128: must be a multiple of --n_heads, 3"),
        (["--model=transformer", "--attention"],
         "--attention=True: must be False with --model=transformer, which has it by nature"),
        (["--model=transformer", "--bidirectional=True"],
         "--bidirectional=True: must be False with --model=transformer, which has it by nature"),
        (["--mode=text_to_image", "--teacher_forcing=0.5"],
         "--teacher_forcing=0.5: must be 1 with --mode=text_to_image"),
        (["--teacher_forcing=1.5"], "--teacher_forcing=1.5: must be from 0 to 1"),
        (["--teacher_forcing=-0.1"], "--teacher_forcing=-0.1: must be from 0 to 1"),
        (["--train_fraction=0"], "--train_fraction=0.0: must be above 0 and below 1"),
        (["--train_fraction=1"], "--train_fraction=1.0: must be above 0 and below 1"),
        (["--digits=0"], "--digits=0: must be 1 to 3"),
        (["--digits=4"], "--digits=4: must be 1 to 3"),
        (["--ops="], "--ops=: must be some of +-*, in this order"),
        (["--ops=+/"], "--ops=+/: must be some of +-*, in this order"),
        (["--ops=-+"], "--ops=-+: must be some of +-*, in this order"),
        (["--ops=++"], "--ops=++: must be some of +-*, in this order"),
        (["--weight_decay=-1"], "--weight_decay=-1.0: must be at least 0"),
        (["--clip=0"], "--clip=0.0: must be above 0"),
        (["--dropout=1"], "--dropout=1.0: must be from 0 to below 1"),
        (["--dropout=-0.1"], "--dropout=-0.1: must be from 0 to below 1"),
        (["--query=1+1"], "--query=1+1: must be used with --task=ask"),
        (["--task=ask", "--checkpoint=x"], "--query=None: must be given: 81+24, for example"),
        (["--task=evaluate"], "--task=evaluate: must be used with --checkpoint=RUN_FOLDER, which it reads"),
        (["--task=guess"], "--task=guess: must be one of train, evaluate, ask, mistakes"),
    ],
)  # fmt: skip
def test_refusals(args, told):
    with pytest.raises(UserError) as refusal:
        parse(Config, args)
    assert str(refusal.value).startswith(told) and "\n" not in str(refusal.value)


def test_what_is_allowed():
    """A transformer's heads do not bind an LSTM; operators come through the command line."""
    assert parse(Config, ["--hidden_dim=10", "--n_heads=4"]).hidden_dim == 10
    assert parse(Config, ["--ops=-"]).ops == "-" and parse(Config, ["--ops=+*"]).ops == "+*"
    assert parse(Config, ["--task=ask", "--query=41-89", "--checkpoint=x"]).query == "41-89"
    assert parse(Config, ["--teacher_forcing=0"]).teacher_forcing == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_size": 77}, r"--batch_size=77: must be at most 76, the number of training examples"),
        ({"train_fraction": 0.02}, r"--train_fraction=0.02: of 55 pairs it leaves a part without any"),
        ({"mode": "image_to_text", "dataset": "no/such"}, r"no/such"),
    ],
)
def test_what_the_data_refuse_leaves_no_folder(learn, tmp_path, flags, message):
    with pytest.raises((UserError, DataError), match=message) as refusal:
        learn(**flags)
    assert "\n" not in str(refusal.value) and not (tmp_path / "runs").exists()


# ---- training ------------------------------------------------------------------------------------------

TRAINS = [
    {"attention": True, "bidirectional": True, "encoder_layers": 2, "teacher_forcing": 0.5, "dropout": 0.3},
    {"reverse": True, "decoder_layers": 2, "columns": True},
    {"model": "transformer", "encoder_layers": 2},
    {"mode": "image_to_text", "attention": True},
    {"mode": "image_to_text", "model": "transformer"},
    {"mode": "text_to_image", "decoder_layers": 2, "attention": True},
    {"mode": "text_to_image", "model": "transformer", "reverse": True},
]


@pytest.mark.parametrize("flags", TRAINS, ids=named)
def test_one_step_changes_every_weight(learn, quiet, flags, store, monkeypatch):
    """Without decay, so that only a gradient does; all but those that read characters before a picture."""
    batches, real = [], script.loss_fn
    monkeypatch.setattr(
        script, "loss_fn", lambda m, b, rng, cfg: (rng and batches.append(b)) or real(m, b, rng, cfg)
    )
    _, folder = learn(**flags, steps=1, log_every=1, weight_decay=0.0)
    cfg = Config(**SMALL | ONE | flags | {"data_dir": str(store)})
    data = load_data(cfg)
    net, (batch,), row = build(cfg, data.splits.alphabet, CPU), batches, rows_of(folder)[0]
    if cfg.mode == "text_to_image":  # of real pictures
        net.begin_with(some_pictures(data, drawers(data, CPU)["train"], cfg))
        expected = mixture_nats(net, batch.drawn, net(batch.src)).mean().item()
        assert row["train/loss"] == pytest.approx(expected, rel=1e-5) and 100 < expected < 300
    else:
        assert row["train/loss"] == pytest.approx(math.log(12), rel=0.25)
    before = net.state_dict()
    (file,) = (folder / "checkpoints").glob("step_00000001_*.pt")
    after = torch.load(file, weights_only=True)["states"][0]
    blind = {"decoder.weight_ih_l0", "tgt_in.weight"} if cfg.mode == "text_to_image" else set()
    assert before.keys() == after.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == blind & before.keys()
    assert row["train/grad_norm"] > 0 and row["train/learning_rate"] == cfg.learning_rate


def told_nothing() -> float:
    """Nats per character of the best guess at a + b of two digits that are not known."""
    sums = Counter(a + b for a in range(10) for b in range(10))
    return -sum(n / 100 * math.log(n / 100) for n in sums.values()) / 2


LEARN = {"steps": 160, "hidden_dim": 48, "batch_size": 32, "learning_rate": 0.02, "eval_every": 80}


@pytest.mark.parametrize(
    "flags",
    [{}, {"attention": True, "reverse": True}, {"model": "transformer", "learning_rate": 0.01, "steps": 130}],
    ids=named,
)
def test_training_learns(learn, quiet, flags):
    """It knows the sums of its examples, which no model does that is not told the query."""
    rows, folder = learn(**LEARN | flags)
    learned = [row["train/loss_epoch"] for row in rows if "train/loss_epoch" in row]
    assert learned[0] > 1.5 and learned[-1] < 0.6
    assert told_nothing() == pytest.approx(1.397, abs=0.001)
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["family"], kept["headline"], kept["goal"]) == (
        "seq2seq_arith",
        "val/exact_match",
        "maximize",
    )
    cfg = Config(**SMALL | ONE | LEARN | flags)
    data = load_data(cfg)
    net = build(cfg, data.splits.alphabet, CPU)
    (file,) = (folder / "checkpoints").glob(f"step_{cfg.steps:08d}_*.pt")
    net.load_state_dict(torch.load(file, weights_only=True)["states"][0])
    ids, loss = answers(net, data.train, None, cfg, data.splits.alphabet, None, CPU)
    assert seq2seq_mistakes.figures(ids, data.train, "", "train")["train/exact_match"] > 0.8 and loss < 0.6


def overfit(mode: str, model: dict, steps: int, store: Path):
    """A model after some steps on four queries, each in several handwritings that are others at every step;
    these, drawn once more.
    """
    flags = {"mode": mode, "hidden_dim": 32, "data_dir": str(store), "digits": 1}
    cfg, alphabet = Config(**SMALL | model | flags), ALPHABET
    few = ["1+0", "0-0", "4+2", "9+8"], ["1", "0", "6", "17"]
    src, tgt = (torch.tensor([arithmetic.encode(text.ljust(n), alphabet) for text in texts])
                for texts, n in zip(few, (3, 2)))  # fmt: skip
    data, net = load_data(cfg), build(cfg, alphabet, CPU)
    glyph = drawers(data, CPU)["train"]
    if mode == "text_to_image":
        net.begin_with(some_pictures(data, glyph, cfg))
    optimizer = torch.optim.Adam(net.parameters(), 0.01 if mode == "text_to_image" else 0.003)
    rows = torch.arange(4).repeat(8 if mode == "text_to_image" else 1)
    for step in range(steps):
        batch = batch_of(src[rows], tgt[rows], glyph, make_rng(0, step, "train"), cfg, alphabet)
        loss = loss_fn(net, batch, None, cfg)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, glyph, batch_of(src, tgt, glyph, make_rng(1, 0, "train"), cfg, alphabet)


def test_it_learns_to_read(store):
    """Which of four queries stands in pictures that it has not seen."""
    net, _, fresh = overfit("image_to_text", {"model": "transformer"}, 90, store)
    assert torch.equal(net.answer(fresh.src), fresh.tgt)


@pytest.mark.parametrize("model", [{"attention": True}, {"model": "transformer"}], ids=named)
def test_it_learns_to_draw(store, model):
    """Each answer's characters are those asked for: of all characters' mean pictures theirs are nearest."""
    net, glyph, fresh = overfit("text_to_image", model, 80, store)
    drawn = torch.sigmoid(net.answer(fresh.src))
    means = [glyph.images[glyph.first[d] :][: glyph.counts[d]].float().mean(0) / 255 for d in range(10)]
    means += [glyphs.strokes(500, glyphs.SLANTS[op], make_rng(0, 0, "eval")).mean(0) for op in "+-"]
    means = torch.stack([*means, torch.zeros(28, 28)])  # in the alphabet's order
    nearest = torch.cdist(drawn.flatten(0, 1).flatten(1), means.flatten(1)).argmin(1).view(4, 2)
    assert torch.equal(nearest, fresh.tgt)
    assert net.nats_of(fresh.drawn, net(fresh.src)).mean() < 130  # 170 at first
    assert drawn[:3, 1].mean() < 0.07  # blank, which was 0.1


def test_the_gradient_is_clipped(learn, quiet):
    """--clip bounds what a step does, and is not a decoration: without it plain steps differ."""
    rows = {clip: learn(str(clip), steps=3, log_every=1, clip=clip)[0] for clip in (1e-12, 1.0)}
    assert rows[1e-12][0]["train/grad_norm"] == rows[1.0][0]["train/grad_norm"] > 1e-3
    assert rows[1e-12][2]["train/loss"] != rows[1.0][2]["train/loss"]


@pytest.mark.parametrize(("method", "step"), [("log", 5), ("save", 6), ("log", 8)])
def test_interrupted_equals_straight(learn, quiet, method, step):
    flags = {"steps": 8, "log_every": 1, "eval_every": 4, "save_every": 3, "teacher_forcing": 0.5}
    flags |= {"attention": True, "reverse": True, "dropout": 0.3}
    _, straight = learn("straight", **flags)
    with killed(method, step):
        learn("run", **flags)
    _, folder = learn("run", **flags)
    assert results(folder) == results(straight)


@pytest.mark.parametrize(
    "flags", [{"mode": "image_to_text"}, {"mode": "text_to_image", "model": "transformer"}], ids=named
)
def test_interrupted_equals_straight_with_pictures(learn, no_charts, flags):
    """The pictures that are drawn, too, and what is shown of them."""
    flags |= {"dropout": 0.3, "steps": 8, "log_every": 1, "eval_every": 4, "save_every": 3, "sample_every": 4}
    _, straight = learn("straight", **flags)
    with killed("log", 5):
        learn("run", **flags)
    _, folder = learn("run", **flags)
    assert results(folder) == results(straight)
    files = {p.relative_to(straight): p.read_bytes() for p in straight.glob("media/**/*.*")}
    assert {p.relative_to(folder): p.read_bytes() for p in folder.glob("media/**/*.*")} == files
    assert len(files) == 7  # a page and a picture at 0, 4 and 8, and the map


def test_what_is_logged_stands_in_the_table(learn, no_charts):
    flags = {"steps": 2, "sample_every": 1, "log_every": 1, "eval_every": 2, "ops": "+-*"}
    text, folder = learn("text", **flags)
    rows, drawn = learn("drawn", **flags, mode="text_to_image")
    logged = {key for row in [*text, *rows] for key in row} - {"step", "epoch", *COMMON}
    media = [
        {p.parent.relative_to(f / "media").as_posix() for p in f.glob("media/*/*/*")} for f in (folder, drawn)
    ]
    assert media == [{"sample/answers", "sample/map"}, {"sample/answers", "sample/map", "sample/pictures"}]
    kinds = {f"test/mistakes_{kind}" for kind in seq2seq_mistakes.KINDS}
    assert logged == kinds | {
        "train/loss", "train/grad_norm", "val/loss", "val/exact_match", "val/exact_match_best",
        "val/char_accuracy", "test/loss", "test/exact_match", "test/char_accuracy", "test/exact_add",
        "test/exact_subtract", "test/exact_multiply", "test/exact_length_1", "test/exact_length_2",
        "test/exact_carry", "test/exact_no_carry", "test/reader_accuracy",
    }  # fmt: skip
    assert "test/reader_accuracy" not in text[-1] and "test/reader_accuracy" in rows[-1]
    section = (ROOT / "docs/METRICS.md").read_text().split("## seq2seq_arith")[1].split("\n## ")[0]
    for key in logged.union(*media):
        key = re.sub(r"_\d+$", "_…", key)
        assert re.search(rf"(?m)^\| .*`{key}`.*$", section), f"docs/METRICS.md lacks {key}"


def test_test_figures_are_those_of_the_best_weights(learn, quiet):
    rows, folder = learn(steps=40, eval_every=10, learning_rate=0.02, hidden_dim=32)
    seen = [row["val/exact_match"] for row in rows if "val/exact_match" in row]
    assert [row["val/exact_match_best"] for row in rows if "val/exact_match" in row] == [
        max(seen[: i + 1]) for i in range(len(seen))
    ]
    cfg = Config(**SMALL | ONE | {"hidden_dim": 32})
    data = load_data(cfg)
    net = build(cfg, data.splits.alphabet, CPU)
    (file,) = (folder / "checkpoints").glob("best_*.pt")
    net.load_state_dict(torch.load(file, weights_only=True)["states"][0])
    ids, loss = answers(net, data.splits.test, None, cfg, data.splits.alphabet, None, CPU)
    told = {"test/loss": loss} | seq2seq_mistakes.figures(ids, data.splits.test, "", "test")
    assert {key: rows[-1][key] for key in told} == told
    assert not {key for row in rows[:-1] for key in row if key.startswith("test/")}


def test_rows_do_not_depend_on_samples(learn, no_charts):
    flags = {"mode": "image_to_text", "steps": 2, "log_every": 1, "eval_every": 2, "teacher_forcing": 0.5}
    often, _ = learn("often", **flags, sample_every=1)
    seldom, folder = learn("seldom", **flags, sample_every=1000)
    assert often == seldom and len(often) == 3
    assert len([*folder.glob("media/sample/answers/*")]) == 2


def test_samples_are_the_same_queries_at_every_step(learn, no_charts):
    """A page with right and wrong marked, beside what is in the files."""
    _, folder = learn(steps=2, sample_every=1, digits=2, ops="+-", train_fraction=0.2)
    pages = [p.read_text() for p in sorted((folder / "media/sample/answers").glob("*.html"))]
    asked = [re.findall(r"<tr><td><pre class=(?:right|wrong)>(.*?)</pre>", page) for page in pages]
    val = load_data(Config(**SMALL, train_fraction=0.2)).splits.val
    assert asked == 3 * [[arithmetic.decode(row, ALPHABET) for row in val.src[: script.N_SHOWN]]]
    assert [f"step {step}" in page for step, page in enumerate(pages)] == 3 * [True]


@pytest.mark.parametrize("mode", ["image_to_text", "text_to_image"])
def test_pictures_that_are_shown_are_those_that_were_read_or_drawn(store, monkeypatch, mode):
    """The same handwriting at every step; each row's name tells the query and the answer."""
    cfg = Config(**SMALL, mode=mode, data_dir=str(store))
    data = load_data(cfg)
    net, glyph = scattered(build(cfg, ALPHABET, CPU)), drawers(data, CPU)["val"]
    reader = reader_of(cfg, data)
    real, seen = net.answer, []

    def answer(src):
        told = real(src)
        seen.append(src if mode == "image_to_text" else torch.sigmoid(told))
        return told

    monkeypatch.setattr(net, "answer", answer)
    monkeypatch.setattr(script, "picture", lambda make, *args: (make, args))
    for step in (0, 7):
        make, (tiles, *rest) = script.samples(net, data, glyph, cfg, reader, CPU, step)["sample/pictures"]
        width = Q if mode == "image_to_text" else A
        assert tiles.shape == (script.N_SHOWN, 1, 28, 28 * width)
        shown = tiles[:, 0].unflatten(2, (width, 28)).transpose(1, 2)
        torch.testing.assert_close(shown, seen[0][: script.N_SHOWN])
        (labels,) = (arg for arg in rest if isinstance(arg, list))
        few = data.splits.val
        for i, label in enumerate(labels):
            query, answer = (arithmetic.decode(x[i], ALPHABET) for x in (few.src, few.tgt))
            assert re.fullmatch(rf"{re.escape(query)} = .+(, not {re.escape(answer)})?", label)
        assert len(labels) == script.N_SHOWN and make(tiles, *rest).std() > 5


def test_answers_that_are_drawn_in_reverse_are_shown_as_one_reads(store, monkeypatch):
    cfg = Config(**SMALL, mode="text_to_image", reverse=True, data_dir=str(store))
    data = load_data(cfg)
    net, glyph = scattered(build(cfg, ALPHABET, CPU)), drawers(data, CPU)["val"]
    written = torch.tensor([arithmetic.encode(text, ALPHABET) for text in ("84-", "5- ", "7  ", " 12") * 3])
    monkeypatch.setattr(script.Reader, "read", lambda self, logits: written)
    monkeypatch.setattr(script, "picture", lambda make, *args: args)
    tiles, *_ = script.samples(net, data, glyph, cfg, reader_of(cfg, data), CPU, 0)["sample/pictures"]
    shown = tiles[:, 0].unflatten(2, (3, 28)).transpose(1, 2)
    drawn = torch.sigmoid(net.answer(data.splits.val.src[: script.N_SHOWN].long()))
    for i, order in enumerate(([2, 1, 0], [1, 0, 2], [0, 1, 2], [0, 1, 2]) * 3):
        torch.testing.assert_close(shown[i], drawn[i, order])


@pytest.mark.parametrize("flags", [{}, {"mode": "image_to_text", "model": "transformer"}], ids=named)
def test_a_run_that_diverges_says_so(learn, no_charts, flags):
    """Also where samples are due of weights that are not finite."""
    rows = {"steps": 9, "log_every": 5, "eval_every": 9, "sample_every": 2}
    _, folder = learn(**flags, **rows, learning_rate=1e38)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged" and status["step"] <= 6


@pytest.mark.parametrize("mode", ["text_to_text", "text_to_image"])
def test_one_step_from_the_weights_of_another_run(learn, quiet, mode, monkeypatch):
    """Its pictures too: a model that draws begins with real ones only where it begins anew."""
    begun, real = [], seq2seq_models.Seq2Seq.begin_with
    monkeypatch.setattr(seq2seq_models.Seq2Seq, "begin_with", lambda net, x: begun.append(x) or real(net, x))
    _, folder = learn(steps=3, eval_every=3, mode=mode)
    assert len(begun) == (mode == "text_to_image")
    again, _ = learn("again", steps=1, checkpoint=str(folder), weights="last", mode=mode)
    before = rows_of(folder)[-1]
    assert again[0]["val/loss"] == before["val/loss"] != rows_of(folder)[0]["val/loss"]
    assert len(begun) == (mode == "text_to_image")
    with pytest.raises(UserError, match=r"--checkpoint=.*of the same model"):
        learn("other", hidden_dim=H + 2, steps=1, checkpoint=str(folder), mode=mode)


# ---- tasks ---------------------------------------------------------------------------------------------

RUNS = {
    "text": LEARN | {"attention": True, "bidirectional": True, "reverse": True, "teacher_forcing": 0.9},
    "plain": {"steps": 3, "model": "transformer", "ops": "+-*"},
    "read": {"steps": 3, "mode": "image_to_text", "attention": True, "ops": "-"},
    "draw": {"steps": 3, "mode": "text_to_image", "reverse": True, "attention": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of each mode."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "STEPS", 8)
        patch.setattr(script, "samples", lambda *_: {})
        patch.setattr(seq2seq_mistakes, "map_picture", lambda *_: np.zeros((8, 8, 3), np.uint8))
        for name, flags in RUNS.items():
            where = {"data_dir": str(place / "store"), "out": str(place), "name": name}
            script.train(Config(**SMALL | ONE | where | flags))
    return place


def do(place: Path, run: str, task: str, **flags) -> tuple[Path, dict]:
    """Run a task through the script's own entry; returns its folder and what results.json says."""
    fixed = {"task": task, "checkpoint": str(place / run), "wandb": "disabled", "device": "cpu", "threads": 1}
    script.run_task(Config(**fixed | flags))
    folder = place / run / task
    return folder, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def loaded(place: Path, run: str, weights: str = "best") -> tuple[Config, torch.nn.Module, script.Data]:
    cfg = Config(**SMALL | ONE | {"data_dir": str(place / "store")} | RUNS[run])
    data = load_data(cfg)
    net = build(cfg, data.splits.alphabet, CPU)
    (file,) = (place / run / "checkpoints").glob(
        "best_*.pt" if weights == "best" else f"step_*{cfg.steps}_*.pt"
    )
    net.load_state_dict(torch.load(file, weights_only=True)["states"][0])
    return cfg, net.eval(), data


@pytest.mark.parametrize("run", RUNS)
def test_evaluate_finds_what_training_found(trained, run):
    before = {p: p.read_bytes() for p in (trained / run).glob("*.json*")}
    folder, told = do(trained, run, "evaluate")
    last = {
        k.removeprefix("test/"): v for k, v in rows_of(trained / run)[-1].items() if k.startswith("test/")
    }
    assert {key: told[key] for key in last} == pytest.approx(last, rel=1e-6)
    n = {"text": 20, "plain": 60, "read": 20, "draw": 20}[run]
    own = {"task", "checkpoint", "seed", "files", "queries"}
    assert told["queries"] == n and set(told) == set(last) | own and told["files"] == []
    assert [p.name for p in folder.iterdir()] == ["results.json"]
    assert {p: p.read_bytes() for p in (trained / run).glob("*.json*")} == before


@pytest.mark.parametrize("run", RUNS)
def test_mistakes_tells_all_that_is_wrong(trained, run, request):
    if run != "plain":  # one with its charts is enough
        request.getfixturevalue("no_charts")
    folder, told = do(trained, run, "mistakes")
    files = {"mistakes.html", "kinds.png", "map.png"}
    assert {path.name for path in folder.iterdir()} == files | {"results.json"} and set(
        told["files"]
    ) == files
    _, figures = do(trained, run, "evaluate")
    n, wrong = figures["queries"], told["wrong"]
    assert wrong == round((1 - figures["exact_match"]) * n) > 0
    assert {k: v for k, v in told.items() if k in figures and k not in ("task", "files")} == {
        k: v for k, v in figures.items() if k not in ("task", "files", "queries", "reader_accuracy")
    }
    page = (folder / "mistakes.html").read_text()
    assert f"{n - wrong} of {n} test queries right" in page
    counts = dict(re.findall(r"<h2>([a-z_ ]+): (\d+)</h2>", page))
    assert [*counts] == [kind.replace("_", " ") for kind in seq2seq_mistakes.KINDS]
    for kind, count in counts.items():
        assert int(count) == round(told[f"mistakes_{kind.replace(' ', '_')}"] * n)
    assert sum(map(int, counts.values())) == wrong
    cfg, net, data = loaded(trained, run)
    _, alphabet, test = data, data.splits.alphabet, data.splits.test
    ids, _ = answers(net, test, drawers(data, CPU)["test"], cfg, alphabet, reader_of(cfg, data), CPU)
    rows = re.findall(r"<td><pre>(.*?)</pre></td><td><pre>(.*?)</pre></td><td><pre>(.*?)</pre></td>", page)
    shown = {tuple(arithmetic.decode(x[i], alphabet) for x in (test.src, test.tgt, ids)) for i in range(n)}
    assert set(rows) <= shown and all(answer != model for _, answer, model in rows)
    assert len(rows) == sum(min(int(count), seq2seq_analysis.N_OF_A_KIND) for count in counts.values())


def test_examples_of_a_kind_are_limited(trained, no_charts, monkeypatch):
    monkeypatch.setattr(seq2seq_analysis, "N_OF_A_KIND", 1)
    folder, _ = do(trained, "plain", "mistakes")
    counts = [int(n) for n in re.findall(r"<h2>[a-z_ ]+: (\d+)</h2>", (folder / "mistakes.html").read_text())]
    assert max(counts) > 1 and (folder / "mistakes.html").read_text().count("<tr><td>") == sum(
        map(bool, counts)
    )


def test_ask_right_and_wrong(trained, capsys):
    """Two answers, of a model that reverses and has attention, are read forwards: one right, one wrong."""
    cfg, net, data = loaded(trained, "text", "last")
    alphabet = data.splits.alphabet
    every = [arithmetic.load("+", 1, 0.8).train, data.splits.val, data.splits.test]
    told = {}
    for part in every:
        ids, _ = answers(net, part, None, cfg, alphabet, None, CPU)
        right = (ids == part.tgt).all(1)
        for row in range(len(part)):
            query, answer = (arithmetic.decode(x[row], alphabet) for x in (part.src, ids))
            told[query] = answer, bool(right[row])
    right = [q for q, (answer, fine) in told.items() if fine and len(answer) == 2]
    wrong = [q for q, (_, fine) in told.items() if not fine]
    assert len(right) > 10 and wrong
    for query in (right[0], wrong[0]):
        folder, found = do(trained, "text", "ask", query=query, weights="last")
        truth = eval(query)
        assert found["query"] == query and found["truth"] == truth
        assert (found["answer"], found["right"]) == told[query] and found["right"] == (
            found["answer"] == str(truth)
        )
        assert set(found["files"]) == {"attention.png"} and (folder / "attention.png").stat().st_size > 1000
        src = torch.tensor([arithmetic.encode(query, alphabet)])
        written = torch.tensor([arithmetic.encode(found["answer"].ljust(2), alphabet)])
        written = arithmetic.reverse(written, alphabet)
        p = net(src, written[:, :-1]).softmax(2).gather(2, written[..., None])[0, :, 0]
        assert found["probability"] == pytest.approx(p.tolist(), rel=1e-5) and max(found["probability"]) <= 1
        printed = "".join(capsys.readouterr())
        assert f"{query} = {found['answer']}" in printed
        assert ("right" in printed) == found["right"] == (f"wrong, it is {truth}" not in printed)


def test_ask_of_a_model_with_nothing_to_show(trained):
    _, told = do(trained, "plain", "ask", query="3*7")
    assert (
        (told["query"], told["truth"]) == ("3*7", 21)
        and told["files"] == []
        and len(told["probability"]) == 2
    )


def test_ask_writes_a_query_as_the_model_had_it(tmp_path, quiet):
    """In columns where it learned from columns; told without their blanks."""
    flags = {"digits": 2, "columns": True, "dropout": 0.5, "steps": 1, "name": "run", "out": str(tmp_path)}
    script.train(Config(**SMALL | flags))
    cfg, shown = Config(**SMALL | flags), []
    with pytest.MonkeyPatch.context() as patch:
        real = script.batch_of
        patch.setattr(script, "batch_of", lambda src, *rest: shown.append(src) or real(src, *rest))
        _, told = do(tmp_path, "run", "ask", query="1+24")
    assert arithmetic.decode(shown[0][0], load_data(cfg).splits.alphabet) == " 1+24"
    assert (told["query"], told["truth"]) == ("1+24", 25)


def test_ask_shows_the_pictures_that_were_read(trained, no_charts, monkeypatch):
    shown = {}
    real = seq2seq_analysis.pictures.strip

    def strip(tiles, labels, title, **options):
        shown["tiles"], shown["labels"], shown["title"] = tiles, labels, title
        return real(tiles, labels, title, **options)

    monkeypatch.setattr(seq2seq_analysis.pictures, "strip", strip)
    _, told = do(trained, "read", "ask", query="3-7")
    assert told["truth"] == -4 and set(told["files"]) == {"query.png", "attention.png"}
    tiles = shown["tiles"]
    assert tiles.shape == (3, 1, 28, 28) and shown["labels"] == ["3", "-", "7"]
    data = load_data(Config(**SMALL | ONE | {"mode": "image_to_text", "ops": "-"}))
    own = {picture.numpy().tobytes() for picture in data.digits.test}
    assert {tiles[i, 0].mul(255).round().byte().numpy().tobytes() for i in (0, 2)} <= own  # never seen before
    assert shown["title"] == f"3-7 = {told['answer']}"
    do(trained, "read", "ask", query="3-7", seed=1)
    assert not torch.equal(shown["tiles"], tiles)  # --seed draws others


def test_ask_shows_the_pictures_that_were_drawn(trained, monkeypatch):
    shown = []

    def strip(*args, **_):
        shown.append(args)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(script.Reader, "read", lambda self, logits: torch.tensor([[1, 2]]))
    monkeypatch.setattr(seq2seq_analysis.pictures, "strip", strip)
    _, told = do(trained, "draw", "ask", query="9+8")
    ((tiles, labels, title),) = shown
    assert tiles.shape == (2, 1, 28, 28) and (labels, title) == (["2", "1"], "9+8 = 21")  # as one reads
    assert told["answer"] == "21" and told["right"] is False and told["truth"] == 17  # reversed
    assert told["files"] == ["answer.png"] and "probability" not in told
    _, net, data = loaded(trained, "draw")
    src = torch.tensor([arithmetic.encode("9+8", data.splits.alphabet)])
    torch.testing.assert_close(tiles[:, 0], torch.sigmoid(net.answer(src))[0].flip(0))
    monkeypatch.setattr(script.Reader, "read", lambda self, logits: torch.tensor([[2, 1]]))
    assert do(trained, "draw", "ask", query="9+3")[1]["right"] is True


@pytest.mark.parametrize(
    ("run", "query", "message"),
    [
        ("text", "1-1", r"--query='1-1' is no query: must be two numbers of at most 1 digit with one of \+ "),
        ("text", "11+1", r"--query='11\+1' is no query"),
        ("text", "", r"--query='' is no query"),
        ("read", "1+1", r"--query='1\+1' is no query: .* with one of - between them, as in '9-1'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(trained, run, query, message):
    with pytest.raises(DataError, match=f"^{message}") as refusal:
        do(trained, run, "ask", query=query)
    assert "\n" not in str(refusal.value)


def test_the_flags_of_the_model_come_from_the_run(trained):
    """Whatever model the command line names; only its seed and its place are the task's own."""
    _, told = do(trained, "text", "evaluate")
    _, same = do(trained, "text", "evaluate", hidden_dim=7, ops="*", digits=3, model="transformer", n_heads=1)
    assert same == told
    _, other = do(trained, "read", "evaluate", seed=5)
    assert (
        other["seed"] == 5 and other["loss"] != do(trained, "read", "evaluate")[1]["loss"]
    )  # other pictures


def test_checkpoints_that_do_not_fit_are_refused(trained, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for file in (trained / "plain/checkpoints").iterdir():
        (run / "checkpoints" / file.name).write_bytes(file.read_bytes())
    kept = json.loads((trained / "plain/config.json").read_text())
    for change, message in (
        ({"family": "charlm"}, "must be a run of seq2seq_arith; this one is of charlm"),
        ({"flags": kept["flags"] | {"hidden_dim": 14}}, "no weights of this model"),
        ({"flags": {}}, "must be of a run that tells its --mode"),
    ):
        (run / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(UserError, match=f"^--checkpoint=.*{message}"):
            script.run_task(Config(task="evaluate", checkpoint=str(run), wandb="disabled", device="cpu"))
    assert not (run / "evaluate").exists()
