"""Text VAE: its model and objective by known values, remedies against collapse, training by
the real `train`.
"""

import dataclasses
import json
import math
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from data import sentences
from data.sentences import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary
from research import text_vae as script
from research.common.messages import UserError
from research.common.run import Preempted, Run
from research.measure import latents
from research.parts import text_vae_pages as pages
from research.parts.charlm_sampling import Decoding
from research.parts.text_vae_writing import Writer, write_sentences
from research.text_vae import Config, Sentences, build, charged, evaluate, kl_weight, loss_fn, nats_of

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
LETTERS = Vocabulary("char", (*SPECIAL, *"abcdefgh "))
SMALL = {
    "latent_dim": 4,
    "embed_dim": 8,
    "encoder_dim": 12,
    "hidden_dim": 12,
    "batch_size": 8,
    "free_bits": 0.0,
}
SMALL |= {"wandb": "disabled", "device": "cpu", "min_length": 2, "threads": 1}


def part_of(lines: list[str], vocabulary: Vocabulary = LETTERS) -> sentences.Part:
    ids = [vocabulary.read(line) for line in lines]
    starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    zeros = np.zeros(len(ids))
    return sentences.Part(np.concatenate(ids), starts, zeros.astype(np.int32), zeros.astype(np.float32))


PART = Sentences(part_of(["abc", "a", "hgfedcba", "bad cab", "face"]), CPU)


@pytest.fixture
def letters(tmp_path):
    """A text of 90 lines of a few letters."""
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefgh "), rng.integers(3, 12))).strip() + "x" for _ in range(90)]
    (tmp_path / "letters.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "letters.txt")


@pytest.fixture
def learn(tmp_path, letters):
    """Train; returns the rows and the run's folder."""

    def run(name: str = "run", **flags):
        places = {"data_dir": str(tmp_path / "store"), "out": str(tmp_path / "runs"), "dataset": letters}
        script.train(Config(**SMALL | places | flags, name=name))
        folder = tmp_path / "runs" / name
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], folder

    return run


# ---- model ---------------------------------------------------------------------------------------------


def test_batches_begin_and_end():
    batch = PART.batch(torch.tensor([0, 3]))
    assert batch.lengths.tolist() == [3, 7]
    assert batch.read[0].tolist() == [BOS, *LETTERS.read("abc").tolist(), PAD, PAD, PAD, PAD]
    assert batch.wanted[0].tolist() == [*LETTERS.read("abc").tolist(), EOS, PAD, PAD, PAD, PAD]
    assert batch.wanted[1].tolist() == [*LETTERS.read("bad cab").tolist(), EOS]
    assert batch.tokens.shape == (2, 7) and batch.read.shape == batch.wanted.shape == (2, 8)


@pytest.mark.parametrize("flags", [{}, {"batch_norm": 0.6}], ids=["plain", "batch norm"])
def test_the_code_and_the_loss_of_a_sentence_do_not_depend_on_its_batch(flags):
    """Padding is never read, neither by the encoder, which reads backwards, nor by the loss."""
    cfg = Config(**SMALL | flags)
    model = build(cfg, LETTERS, CPU).eval()
    together = PART.batch(torch.arange(5))
    mu, logvar = model.encode(together.tokens, together.lengths)
    nats = nats_of(model.decode(mu, together.read), together.wanted)
    for i in range(5):
        alone = PART.batch(torch.tensor([i]))
        m, v = model.encode(alone.tokens, alone.lengths)
        torch.testing.assert_close(m[0], mu[i])
        torch.testing.assert_close(v[0], logvar[i])
        torch.testing.assert_close(nats_of(model.decode(m, alone.read), alone.wanted)[0], nats[i])


def test_one_direction_reads_from_the_end():
    """The backward half equals what its layer makes of the reversed sentence, whatever comes after the
    sentence.
    """
    model = build(Config(**SMALL), LETTERS, CPU)
    with torch.no_grad():
        model.to_gaussian.weight[:, : SMALL["encoder_dim"]] = 0  # of the forward direction
    batch = PART.batch(torch.tensor([0, 2]))
    mu, _ = model.encode(batch.tokens, batch.lengths)
    ids = torch.from_numpy(LETTERS.read("cba")).long()[None]
    last = model.backwards(model.embedding(ids))[0][:, -1]
    whole = torch.cat([torch.zeros_like(last), last], 1)
    torch.testing.assert_close(mu[:1], model.to_gaussian(whole).chunk(2, 1)[0])


def test_the_loss_is_that_of_the_formula():
    cfg = Config(**SMALL, beta=0.5)
    model, batch = build(cfg, LETTERS, CPU), PART.batch(torch.arange(5))
    loss, terms = loss_fn(model, batch, torch.Generator().manual_seed(1), cfg, 0.25, training=True)
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    mu, logvar = model.encode(batch.tokens, batch.lengths)
    logits = model.decode(mu + noise * (0.5 * logvar).exp(), batch.read).detach()
    rec = 0.0
    for i in range(5):
        for t in range(int(batch.lengths[i]) + 1):
            rec -= float(torch.log_softmax(logits[i, t], 0)[batch.wanted[i, t]])
    kl = float((0.5 * (mu**2 + logvar.exp() - 1 - logvar)).sum().detach()) / 5
    loss, terms = loss.detach(), {name: value.detach() for name, value in terms.items()}
    assert float(terms["rec_nats"]) == pytest.approx(rec / 5, rel=1e-5)
    assert float(terms["kl_nats"]) == pytest.approx(kl, rel=1e-4)
    assert float(terms["elbo_nats"]) == pytest.approx(-(rec / 5 + kl), rel=1e-5)
    assert float(loss) == pytest.approx(rec / 5 + 0.25 * 0.5 * kl, rel=1e-5)


def test_a_language_model_has_no_code():
    cfg = Config(**SMALL | {"latent_dim": 0})
    model, batch = build(cfg, LETTERS, CPU), PART.batch(torch.arange(5))
    loss, terms = loss_fn(model, batch, torch.Generator(), cfg, 1.0, training=True)
    assert terms["kl_nats"].item() == 0 and loss.item() == terms["rec_nats"].item()
    assert not [name for name, _ in model.named_parameters() if name.startswith(("forwards", "to_"))]
    logits = model.decode(None, batch.read)
    changed = batch.read.clone()
    changed[:, 4:] = UNK
    torch.testing.assert_close(
        model.decode(None, changed)[:, :4], logits[:, :4]
    )  # it sees only what is before


@pytest.mark.parametrize("latent_dim", [0, 16])
def test_models_of_equal_size(latent_dim):
    none = {"free_bits": 0.0, "latent_dim": latent_dim}
    model = build(Config(parameters=400_000, **none), LETTERS, CPU)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(400_000, rel=0.01)
    with pytest.raises(UserError, match=r"--parameters=1000: must be one that these layers can have"):
        build(Config(parameters=1000, embed_dim=256, **none), LETTERS, CPU)


# ---- remedies ------------------------------------------------------------------------------------------


def test_free_bits_of_all_and_of_each():
    kl = torch.tensor([0.1, 0.0, 3.0, 0.5])
    assert float(charged(kl, Config(free_bits=0))) == pytest.approx(3.6)
    assert float(charged(kl, Config(free_bits=8))) == 8
    assert float(charged(kl, Config(free_bits=2))) == pytest.approx(3.6)
    assert float(charged(kl, Config(free_bits=0, free_bits_per_latent=0.5))) == pytest.approx(4.5)


def test_the_weight_of_kl_over_training():
    def weights(**flags) -> list[float]:
        cfg = Config(steps=100, **flags)
        return [kl_weight(step, cfg) for step in range(100)]

    assert set(weights()) == {1.0}
    line = weights(anneal="linear", anneal_share=0.5)
    assert line[0] == 0 and line[25] == pytest.approx(0.5) and set(line[50:]) == {1.0}
    cycles = weights(anneal="cyclical", cycles=4, anneal_share=0.5)
    assert [i for i, w in enumerate(cycles) if w == 0] == [0, 25, 50, 75]
    assert cycles[:25] == pytest.approx(cycles[50:75]) and max(cycles[13:25]) == min(cycles[13:25]) == 1
    first = weights(pretrain=40, anneal="linear", anneal_share=0.5)
    assert set(first[:41]) == {0.0} and first[55] == pytest.approx(0.5) and set(first[70:]) == {1.0}


def test_means_are_given_a_deviation():
    cfg = Config(**SMALL | {"batch_norm": 0.7})
    model, batch = build(cfg, LETTERS, CPU), PART.batch(torch.arange(5))
    mu, logvar = model.train().encode(batch.tokens, batch.lengths)
    torch.testing.assert_close(mu.std(0, correction=0), torch.full((4,), 0.7), rtol=0.02, atol=0)
    assert latents.kl_per_latent(mu, logvar).sum() >= 4 * 0.7**2 / 2 * 0.95  # Zhu et al., eq. 8
    assert not model.norm.weight.requires_grad and model.norm.bias.requires_grad


def test_dropped_words_are_unknown_and_the_beginning_stays(monkeypatch):
    seen = []
    cfg = Config(**SMALL | {"word_dropout": 0.5})
    model = build(cfg, LETTERS, CPU)
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda t, n, read, *rest: seen.append(read) or forward(t, n, read, *rest)
    )
    batch = PART.batch(torch.arange(5))
    for training in (True, False):
        loss_fn(model, batch, torch.Generator().manual_seed(0), cfg, 1.0, training)
    shown, whole = seen
    assert torch.equal(whole, batch.read) and (shown[:, 0] == BOS).all()
    share = (shown[:, 1:] == UNK).float().mean()
    assert 0.3 < share < 0.7 and set(shown[shown != batch.read].tolist()) == {UNK}


# ---- measuring -----------------------------------------------------------------------------------------


def test_mutual_information_of_codes_that_are_known():
    """Codes that are far apart reveal which sentence it is, ln N nats; equal codes reveal nothing."""
    mu = 100.0 * torch.eye(8)
    z = mu + 0.1 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert latents.mutual_information(z, mu, torch.zeros(8, 8)) == pytest.approx(math.log(8), abs=1e-6)
    assert latents.mutual_information(
        torch.randn(8, 3), torch.zeros(8, 3), torch.zeros(8, 3)
    ) == pytest.approx(0, abs=1e-6)


def test_the_weighted_bound_of_a_decoder_that_ignores_its_code_is_exact():
    """Then p(x|z) = p(x), and with q = p each weight is log p(x) itself."""
    cfg = Config(**SMALL)
    model = build(cfg, LETTERS, CPU).eval()
    with torch.no_grad():
        model.to_gaussian.weight.zero_()
        model.to_gaussian.bias.zero_()
        model.to_state.weight.zero_()
        model.decoder.weight_ih_l0[:, cfg.embed_dim :] = 0
    batch = PART.batch(torch.arange(5))
    exact = -nats_of(model.decode(torch.zeros(5, 4), batch.read), batch.wanted).mean().item()
    assert script.log_likelihood(model, PART, cfg, k=3) == pytest.approx(exact, rel=1e-5)
    found = evaluate(model, PART, "val", cfg)
    assert found["val/elbo_nats"] == pytest.approx(exact, rel=1e-5)
    assert found["val/active_units"] == 0 and found["val/mutual_information_nats"] == pytest.approx(
        0, abs=1e-5
    )


def test_more_codes_give_a_tighter_bound():
    cfg = Config(**SMALL)
    model = build(cfg, LETTERS, CPU).eval()
    with torch.no_grad():
        model.to_gaussian.weight.mul_(5)
    few, many = (script.log_likelihood(model, PART, cfg, k) for k in (1, 200))
    assert many > few


def test_likeness_of_what_is_rebuilt():
    batch = PART.batch(torch.arange(5))
    ends = torch.full((5, 1), EOS)
    same = torch.where(batch.tokens == PAD, EOS, batch.tokens)
    found = pages.likeness(torch.cat([same, ends], 1), batch.tokens, LETTERS)
    assert found["exact"] == found["exact_tokens"] == 1
    short = torch.cat([same[:, :1], ends.expand(-1, same.shape[1])], 1)
    found = pages.likeness(short, batch.tokens, LETTERS)
    assert found["exact"] == pytest.approx(1 / 5) and found["exact_tokens"] == pytest.approx(5 / 23)


def test_plausible_words_and_pairs():
    training = ["the cat sat", "the dog ran"]
    assert pages.plausibility(["the cat ran"], training) == {"known_words": 1, "known_pairs": 0.5}
    assert pages.plausibility(["xx the dog"], training) == {
        "known_words": pytest.approx(2 / 3),
        "known_pairs": 0.5,
    }
    assert pages.plausibility([""], training) == {"known_words": 1, "known_pairs": 1}


# ---- writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["greedy", "temperature", "top_k", "top_p", "min_p", "beam", "contrastive"]
)
@pytest.mark.parametrize("latent_dim", [0, 4])
def test_sentences_end_and_hold_no_marks(strategy, latent_dim):
    model = build(Config(**SMALL | {"latent_dim": latent_dim}), LETTERS, CPU).eval()
    with torch.no_grad():
        model.head.bias[EOS] = 1.0  # so that some end early
    z = torch.randn(6, latent_dim, generator=torch.Generator().manual_seed(0))
    pen = Writer(model, z if latent_dim else None, 6)
    ids = write_sentences(pen, Decoding(strategy=strategy), torch.Generator().manual_seed(0), 9, [5, 6])
    assert ids.shape == (6, 11) and (ids[:, :2] == torch.tensor([5, 6])).all()
    assert not set(ids.flatten().tolist()) & {PAD, BOS, UNK}
    for row in ids.tolist():
        assert EOS not in row or set(row[row.index(EOS) :]) == {EOS}


def test_a_writer_sees_what_the_decoder_sees():
    model = build(Config(**SMALL), LETTERS, CPU).eval()
    z, batch = torch.randn(2, 4), PART.batch(torch.tensor([2, 2]))
    logits = model.decode(z, batch.read)
    pen = Writer(model, z)
    state = pen.start(2, CPU)
    for t in range(batch.read.shape[1]):
        found, state = pen.step(batch.read[:, t], state)
        kept = [i for i in range(len(LETTERS)) if i not in (PAD, BOS, UNK)]
        torch.testing.assert_close(found[:, kept], logits[:, t, kept])


# ---- training ------------------------------------------------------------------------------------------

VAL = {"rec_nats", "kl_nats", "elbo_nats", "perplexity", "active_units", "mutual_information_nats"}
TEST = VAL | {"iw_nats", "known_words", "known_pairs", "exact", "exact_tokens", "bleu"}
TRAIN = {"loss", "rec_nats", "kl_nats", "elbo_nats", "grad_norm", "learning_rate", "kl_weight"}


def test_training_logs_what_the_table_says(learn):
    rows, folder = learn(steps=12, eval_every=6, sample_every=12, log_every=4)
    for row in rows:
        step, expected = row["step"], set()
        if step % 6 == 0:
            expected |= {f"val/{k}" for k in VAL} | {"val/elbo_nats_best"}
        if step % 4 == 0 and step < 12:
            expected |= {f"train/{k}" for k in TRAIN}
        if step % 12 == 0:
            expected |= {"sample/known_words", "sample/known_pairs"}
        if step == 12:
            expected |= {f"test/{k}" for k in TEST}
        assert set(row) - {"step", "epoch", "train/loss_epoch"} == expected, step
        assert all(value is not None for value in row.values())
    kept = {p.relative_to(folder / "media").parent.as_posix() for p in (folder / "media").rglob("*.*")}
    assert kept == {"sample/random", "sample/reconstructions", "sample/interpolation", "latent/map"} | {
        "latent/kl_per_latent",
        "train/curve",
    }
    section = (
        (ROOT / "docs/METRICS.md").read_text(encoding="utf-8").split("\n## text_vae\n")[1].split("\n## ")[0]
    )
    for key in set().union(*rows, kept) - {
        "step",
        "epoch",
        "train/loss_epoch",
        "train/curve",
        "train/learning_rate",
    }:
        part, _, name = key.partition("/")
        assert re.search(rf"(?m)^\| .*`{part}/{name}`.*$", section), f"docs/METRICS.md lacks {key}"
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["step"]) == ("finished", 12)


def test_training_learns(learn):
    rows, _ = learn(steps=60, eval_every=30, sample_every=1000, learning_rate=0.02)
    assert rows[-1]["val/elbo_nats"] > rows[0]["val/elbo_nats"] + 3


REMEDIES = {
    "none": {},
    "linear": {"anneal": "linear"},
    "cyclical": {"anneal": "cyclical", "cycles": 2},
    "free bits": {"free_bits": 3.0},
    "free bits of each": {"free_bits_per_latent": 0.5},
    "word dropout": {"word_dropout": 0.3, "dropout": 0.2},
    "pretrain": {"pretrain": 4, "free_bits": 3.0, "anneal": "linear"},
    "batch norm": {"batch_norm": 0.6},
    "words": {"level": "word", "min_count": 1, "min_length": 1},
    "pieces": {"level": "bpe", "vocab_size": 100},
    "language model": {"latent_dim": 0},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("flags", REMEDIES.values(), ids=REMEDIES)
def test_an_interrupted_run_equals_a_straight_one(learn, tmp_path, flags, monkeypatch):
    """Bit for bit: preempted after step 4 of 7, of --pretrain=4 just before the decoder begins anew."""
    common = {"steps": 7, "eval_every": 3, "sample_every": 1000, "log_every": 1, "save_every": 2} | flags
    monkeypatch.setattr(script, "samples", lambda *args: {})  # another test sees that they change nothing
    straight, a = learn("straight", **common)
    real, count = Run.update, [-1]

    def update(self, loss):
        real(self, loss)
        count[0] += 1
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Run, "update", update)
        learn("broken", **common)
    again, b = learn("broken", **common)
    assert again == straight
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    last = [next((folder / "checkpoints").glob("step_00000007_*.pt")).name for folder in (a, b)]
    assert last[0] == last[1], "the digest of the weights and of the optimiser"


def test_rows_do_not_depend_on_samples(learn):
    often, _ = learn("often", steps=3, log_every=1, sample_every=1)
    seldom, _ = learn("seldom", steps=3, log_every=1, sample_every=1000)
    plain = [{k: v for k, v in row.items() if not k.startswith("sample/")} for row in often]
    assert plain == [{k: v for k, v in row.items() if not k.startswith("sample/")} for row in seldom]
    assert sum("sample/known_words" in row for row in often) == 4


def test_a_decoder_begins_anew(learn, monkeypatch):
    seen = []
    real = script.begin_decoder_anew

    def watch(model, optimizer, cfg):
        before = {name: p.clone() for name, p in model.named_parameters()}
        real(model, optimizer, cfg)
        seen.append({n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])})

    monkeypatch.setattr(script, "begin_decoder_anew", watch)
    learn(steps=5, pretrain=3, sample_every=1000)
    assert seen == [{"to_state", "decoder", "head"}]


def test_a_collapsed_run_says_so(learn, capsys):
    learn(steps=2, beta=50.0, sample_every=1000, learning_rate=1e-9)
    assert "posterior collapse" in " ".join(capsys.readouterr().err.split())


def test_the_longest_sentences_are_learned_from_too():
    """The sentences left over at the end of an epoch are random, even if all are sorted by length at once."""
    lengths, cfg = torch.arange(2, 122), Config(**SMALL | {"batch_size": 64})
    seen = torch.cat([torch.cat(script.order_of_epoch(lengths, epoch, cfg)) for epoch in range(40)])
    assert len(seen.unique()) == 120 and seen.bincount().min() > 8


def test_weights_of_other_tokens_are_refused(learn, tmp_path):
    _, folder = learn(steps=1, sample_every=1000)
    other = tmp_path / "other.txt"
    other.write_text("zabcdefg h\n" * 90)
    with pytest.raises(UserError, match=r"--checkpoint=.*same tokens as --dataset; only one has 'x', 'z'"):
        learn("again", steps=1, sample_every=1000, checkpoint=str(folder), dataset=str(other))


def test_every_sentence_once_an_epoch():
    lengths = torch.randint(2, 40, (1003,), generator=torch.Generator().manual_seed(0))
    cfg = Config(**SMALL)
    orders = [script.order_of_epoch(lengths, epoch, cfg) for epoch in (0, 1)]
    for order in orders:
        assert len(order) == 1003 // 8 and all(len(rows) == 8 for rows in order)
        rows = torch.cat(order)
        assert len(rows.unique()) == len(rows)
        filled = sum(float(lengths[r].sum()) for r in order) / sum(8 * int(lengths[r].max()) for r in order)
        assert filled > 0.9, "sentences of a batch are of like length"
    assert not torch.equal(torch.cat(orders[0]), torch.cat(orders[1]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"latent_dim": 0}, "--free_bits=6.0: must be 0 with --latent_dim=0"),
        ({"latent_dim": 0, "free_bits": 0.0, "anneal": "linear"}, "--anneal=linear: must be none"),
        ({"free_bits_per_latent": 0.1}, "--free_bits_per_latent=0.1: must be 0 unless --free_bits=0"),
        ({"pretrain": 2000}, "--pretrain=2000: must be below --steps=2000"),
        ({"anneal_share": 0.0}, "--anneal_share=0.0: must be above 0"),
        ({"word_dropout": 1.0}, "--word_dropout=1.0: must be from 0 to below 1"),
        ({"min_length": 9, "max_length": 3}, "--max_length=3: must be at least --min_length=9"),
        ({"vocab_size": 3}, "--vocab_size=3: must be at least 100"),
        ({"batch_norm": 0.5, "batch_size": 1}, "--batch_size=1: must be at least 2 with --batch_norm"),
        ({"latent_dim": 0, "free_bits": 0.0, "beta": 2.0}, "--beta=2.0: must be 1 with --latent_dim=0"),
        ({"beta": -1.0}, "--beta=-1.0: must be at least 0"),
        ({"anneal_share": 0.3}, "--anneal_share=0.3: must be left out with --anneal=none"),
        ({"anneal": "linear", "cycles": 2}, "--cycles=2: must be left out with --anneal=linear"),
    ],
)
def test_what_is_impossible_is_refused(flags, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Config(**flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"min_count": 3}, "--min_count=3: must be left out with --level=char"),
        ({"level": "bpe", "min_count": 3}, "--min_count=3: must be left out with --level=bpe"),
        ({"level": "word", "vocab_size": 300}, "--vocab_size=300: must be left out with --level=word"),
    ],
)
def test_a_flag_of_another_level_is_refused(flags, said):
    with pytest.raises(UserError, match=re.escape(said)):
        script.load_data(Config(**flags))


def test_flags_are_kept(learn):
    _, folder = learn(steps=1, sample_every=1000)
    kept = json.loads((folder / "config.json").read_text())
    assert kept["flags"] == dataclasses.asdict(Config(**kept["flags"]))
    assert (kept["family"], kept["headline"], kept["goal"]) == ("text_vae", "val/elbo_nats", "maximize")
