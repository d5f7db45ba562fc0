"""Sequence to sequence: batches, answers and their figures, flags, training that learns and resumes."""

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data import DataError, arithmetic, digits, glyphs
from research import seq2seq_arith as script
from research.common.commandline import parse
from research.common.messages import UserError
from research.common.randomness import make_rng
from research.common.task import flags_of_run
from research.parts import digit_classifier as judge
from research.parts import seq2seq_mistakes, seq2seq_models
from research.seq2seq_arith import (
    Config,
    answers,
    batch_of,
    build,
    drawers,
    load_data,
    loss_fn,
    reader_of,
    some_pictures,
)
from tests.conftest import killed, results
from tests.run_flags import RUN_RESULT_FLAGS, flags_in_key
from tests.seq2seq import (
    ALPHABET,
    CPU,
    LEARN,
    MODES,
    ONE,
    SMALL,
    A,
    H,
    Q,
    mixture_nats,
    named,
    rows_of,
    scattered,
)
from tests.seq2seq import no_charts as no_charts  # fixtures
from tests.seq2seq import quiet as quiet
from tests.seq2seq import short_lesson as short_lesson
from tests.seq2seq import store as store

pytestmark = pytest.mark.usefixtures("one_thread", "short_lesson")

ROOT = Path(__file__).resolve().parents[1]
COMMON = ("train/learning_rate", "train/loss_epoch", "train/curve")  # explained for every family


@pytest.fixture
def learn(tmp_path, store):
    """learn(name, **flags): rows and folder of a run of queries with one digit."""

    def do(name: str = "run", **flags):
        place = {"out": str(tmp_path / "runs"), "data_dir": str(store), "name": name}
        script.train(Config(**SMALL | ONE | {"sample_every": 10_000} | place | flags))
        folder = tmp_path / "runs" / name
        return rows_of(folder), folder

    return do


# ---- data ----------------------------------------------------------------------------------------------


def test_batches(store):
    """The model's inputs in each mode: ids or pictures, and the answer as it is written."""
    queries = [("81+24", "105", "501"), ("41-89", "-48", "84-"), ("7+0", "7", "7")]
    src, tgt, reverse = (
        torch.tensor([arithmetic.encode(t.ljust(n), ALPHABET) for t in texts])
        for texts, n in zip(zip(*queries), (Q, A, A))
    )
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
    """There are more queries than are answered at once; greedy answers, and the loss of the true ones."""
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
        greedy = net.answer(few.src.long())
    assert loss == pytest.approx(-log_p.gather(2, tgt[..., None]).mean().item(), rel=1e-5)
    if cfg.reverse:
        greedy = arithmetic.reverse(greedy, ALPHABET)
    assert torch.equal(ids, greedy)


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

RESULT_FLAGS = RUN_RESULT_FLAGS | {
    "mode",
    "digits",
    "ops",
    "train_fraction",
    "model",
    "encoder_layers",
    "decoder_layers",
    "hidden_dim",
    "n_heads",
    "attention",
    "bidirectional",
    "columns",
    "reverse",
    "vary",
    "teacher_forcing",
    "weight_decay",
    "dropout",
    "clip",
}


def test_the_flags_that_make_the_key():
    assert flags_in_key(Config) == RESULT_FLAGS  # adding one changes what kept runs mean: do it on purpose


def test_tasks_take_all_flags_of_the_model_from_the_run():
    """It has no flag that says how the run was trained: seed, precision and the like are the task's own."""
    trained = Config(
        mode="image_to_text", digits=1, ops="+", attention=True, hidden_dim=8, seed=3, precision="bf16"
    )
    run = {"flags": dataclasses.asdict(trained)}
    cfg = flags_of_run(Config(task="evaluate", checkpoint="a run", hidden_dim=4), run)
    of_training = {"checkpoint", "weights", "seed", "steps", "epochs", "batch_size", "learning_rate"}
    of_training |= {"eval_every", "precision", "compile", "deterministic"}
    differ = {name for name in RESULT_FLAGS if getattr(cfg, name) != getattr(trained, name)}
    assert differ == {"checkpoint", "seed", "precision"} and differ < of_training


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode=text"], "--mode=text: must be one of text_to_text, image_to_text, text_to_image"),
        (["--model=gru"], "--model=gru: must be one of lstm, transformer"),
        (["--encoder_layers=0"], "--encoder_layers=0: must be from 1 to 12"),
        (["--decoder_layers=13"], "--decoder_layers=13: must be from 1 to 12"),
        (["--hidden_dim=0"], "--hidden_dim=0: must be at least 1"),
        (["--n_heads=0"], "--n_heads=0: must be at least 1"),
        (["--model=transformer", "--n_heads=3"], "--hidden_dim=128: must be a multiple of --n_heads, 3"),
        (
            ["--model=transformer", "--attention"],
            "--attention=True: must be False with --model=transformer, which always does this",
        ),
        (
            ["--model=transformer", "--bidirectional=True"],
            "--bidirectional=True: must be False with --model=transformer, which always does this",
        ),
        (
            ["--mode=text_to_image", "--teacher_forcing=0.5"],
            "--teacher_forcing=0.5: must be 1 with --mode=text_to_image",
        ),
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
)
def test_refusals(args, message):
    with pytest.raises(UserError) as refusal:
        parse(Config, args)
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


def test_what_is_allowed():
    """A transformer's number of heads does not restrict an LSTM; operators can be given on
    the command line.
    """
    assert parse(Config, ["--hidden_dim=10", "--n_heads=4"]).hidden_dim == 10
    assert parse(Config, ["--ops=-"]).ops == "-" and parse(Config, ["--ops=+*"]).ops == "+*"
    assert parse(Config, ["--task=ask", "--query=41-89", "--checkpoint=x"]).query == "41-89"
    assert parse(Config, ["--teacher_forcing=0"]).teacher_forcing == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_size": 77}, r"--batch_size=77: must be at most 76, the number of training examples"),
        ({"train_fraction": 0.02}, r"--train_fraction=0.02: it leaves a part without any of the 55 pairs"),
        ({"mode": "image_to_text", "dataset": "no/such"}, r"no/such"),
        ({"mode": "image_to_text", "dataset": "8"}, r"^--dataset=8: must be pictures of the ten digits"),
        ({"mode": "text_to_image", "dataset": "8"}, r"^--dataset=8: must be pictures of the ten digits"),
    ],
)
def test_what_the_data_refuse_leaves_no_folder(learn, tmp_path, flags, message, monkeypatch):
    real = digits.load_arrays  # the embedded set, as a folder would hold it that has eight classes
    letters = ("letters", "0" * 16, real("digits", tmp_path)[2], tuple("01234567"))
    monkeypatch.setattr(
        digits, "load_arrays", lambda name, *rest: letters if name == "8" else real(name, *rest)
    )
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
    """Without weight decay, so that only a gradient moves a weight; all parameters except those that read
    earlier characters of a drawn answer.
    """
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
    """Nats per character of the best guess at a + b for two unknown digits."""
    sums = Counter(a + b for a in range(10) for b in range(10))
    return -sum(n / 100 * math.log(n / 100) for n in sums.values()) / 2


@pytest.mark.parametrize(
    "flags",
    [{}, {"attention": True, "reverse": True}, {"model": "transformer", "learning_rate": 0.01, "steps": 130}],
    ids=named,
)
def test_training_learns(learn, quiet, flags):
    """It knows the sums of its examples, which a model that does not see the query can't know."""
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
    """A model after some steps on four queries, with new handwriting at every step; and these queries, drawn
    once more.
    """
    flags = {"mode": mode, "hidden_dim": 32, "data_dir": str(store), "digits": 1}
    cfg, alphabet = Config(**SMALL | model | flags), ALPHABET
    few = ["1+0", "0-0", "4+2", "9+8"], ["1", "0", "6", "17"]
    src, tgt = (
        torch.tensor([arithmetic.encode(text.ljust(n), alphabet) for text in texts])
        for texts, n in zip(few, (3, 2))
    )
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
    """It says which of four queries is shown in pictures that it has not seen."""
    net, _, fresh = overfit("image_to_text", {"model": "transformer"}, 90, store)
    assert torch.equal(net.answer(fresh.src), fresh.tgt)


@pytest.mark.parametrize("model", [{"attention": True}, {"model": "transformer"}], ids=named)
def test_it_learns_to_draw(store, model):
    """Each answer shows the right characters: of all characters' mean pictures, theirs are the nearest."""
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
    """--clip limits what a step does, and has an effect: without it, plain steps differ."""
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
    assert len(files) == 8  # a page and a picture at 0, 4 and 8, the map, the loss


def test_what_is_logged_stands_in_the_table(learn, no_charts):
    flags = {"steps": 2, "sample_every": 1, "log_every": 1, "eval_every": 2, "ops": "+-*"}
    text, folder = learn("text", **flags)
    rows, drawn = learn("drawn", **flags, mode="text_to_image")
    logged = {key for row in [*text, *rows] for key in row} - {"step", "epoch", *COMMON}
    media = [
        {p.parent.relative_to(f / "media").as_posix() for p in f.glob("media/*/*/*")} for f in (folder, drawn)
    ]
    always = {"sample/answers", "sample/map", "train/curve"}
    assert media == [always, always | {"sample/pictures"}]
    kinds = {f"test/mistakes_{kind}" for kind in seq2seq_mistakes.KINDS}
    assert logged == kinds | {
        "train/loss",
        "train/grad_norm",
        "val/loss",
        "val/exact_match",
        "val/exact_match_best",
        "val/char_accuracy",
        "test/loss",
        "test/exact_match",
        "test/char_accuracy",
        "test/exact_add",
        "test/exact_subtract",
        "test/exact_multiply",
        "test/exact_length_1",
        "test/exact_length_2",
        "test/exact_carry",
        "test/exact_no_carry",
        "test/reader_accuracy",
    }
    assert "test/reader_accuracy" not in text[-1] and "test/reader_accuracy" in rows[-1]
    section = (ROOT / "docs/METRICS.md").read_text().split("## seq2seq_arith")[1].split("\n## ")[0]
    for key in logged.union(*media) - set(COMMON):
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
    figures = {"test/loss": loss} | seq2seq_mistakes.figures(ids, data.splits.test, "", "test")
    assert {key: rows[-1][key] for key in figures} == figures
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
    """The handwriting is the same at every step; each row's name has the query and the answer."""
    cfg = Config(**SMALL, mode=mode, data_dir=str(store))
    data = load_data(cfg)
    net, glyph = scattered(build(cfg, ALPHABET, CPU)), drawers(data, CPU)["val"]
    reader = reader_of(cfg, data)
    real, seen = net.answer, []

    def answer(src):
        answers = real(src)
        seen.append(src if mode == "image_to_text" else torch.sigmoid(answers))
        return answers

    monkeypatch.setattr(net, "answer", answer)
    monkeypatch.setattr(script, "picture", lambda make, *args: (make, args))
    for step in (0, 7):
        make, (tiles, *rest) = script.samples(net, data, glyph, cfg, reader, CPU, step)["sample/pictures"]
        width = Q if mode == "image_to_text" else A
        assert tiles.shape == (script.N_SHOWN, 1, 28, 28 * width)
        shown = tiles[:, 0].unflatten(2, (width, 28)).transpose(1, 2)
        torch.testing.assert_close(shown, seen[0][: script.N_SHOWN])
        (labels,) = (arg for arg in rest if isinstance(arg, list))
        val, expected = data.splits.val, []
        few = arithmetic.Queries(*(getattr(val, f.name)[: script.N_SHOWN] for f in dataclasses.fields(val)))
        ids, _ = answers(net, few, glyph, cfg, ALPHABET, reader, CPU)
        for i in range(script.N_SHOWN):
            query, answer, said = (arithmetic.decode(x[i], ALPHABET) for x in (few.src, few.tgt, ids))
            wrong = "" if torch.equal(ids[i], few.tgt[i]) else f", not {answer}"
            expected.append(f"{query} = {said or '?'}{wrong}")
        assert labels == expected and make(tiles, *rest).std() > 5
        what = {"image_to_text": "Handwritten validation queries", "text_to_image": "Drawn answers"}
        assert rest[-1].startswith(what[mode]) and rest[-1].endswith(f"step {step}")


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
    """Training also survives when samples are due and the weights are not finite."""
    rows = {"steps": 9, "log_every": 5, "eval_every": 9, "sample_every": 2}
    _, folder = learn(**flags, **rows, learning_rate=1e38)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged" and status["step"] <= 6


@pytest.mark.parametrize("mode", ["text_to_text", "text_to_image"])
def test_one_step_from_the_weights_of_another_run(learn, quiet, mode, monkeypatch):
    """This includes its pictures: a model that draws begins with real ones only when it starts from the
    beginning.
    """
    begun, real = [], seq2seq_models.Seq2Seq.begin_with
    monkeypatch.setattr(seq2seq_models.Seq2Seq, "begin_with", lambda net, x: begun.append(x) or real(net, x))
    _, folder = learn(steps=3, eval_every=3, mode=mode)
    assert len(begun) == (mode == "text_to_image")
    again, _ = learn("again", steps=1, checkpoint=str(folder), weights="last", mode=mode)
    before = rows_of(folder)[-1]
    assert again[0]["val/loss"] == before["val/loss"] != rows_of(folder)[0]["val/loss"]
    assert len(begun) == (mode == "text_to_image")
    with pytest.raises(UserError, match=r"--checkpoint=.*no weights of this model"):
        learn("other", hidden_dim=H + 2, steps=1, checkpoint=str(folder), mode=mode)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"train_fraction": 0.5},
            r"^--train_fraction=0\.5: must be 0\.8, as in the run of --checkpoint; else ",
        ),
        ({"train_fraction": 0.9}, r"^--train_fraction=0\.9: must be 0\.8, as in the run of --checkpoint"),
        ({"digits": 2}, r"^--digits=2: must be 1, as in the run of --checkpoint"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_weights_that_learned_from_test_queries_are_refused(learn, quiet, tmp_path, flags, message):
    _, folder = learn(steps=1, eval_every=1)
    with pytest.raises(UserError, match=message):
        learn("other", steps=1, checkpoint=str(folder), **flags)
    (folder / "config.json").unlink()
    with pytest.raises(
        UserError, match=r"^--checkpoint=.*: must be of a run whose config.json has the flag --digits$"
    ):
        learn("other", steps=1, checkpoint=str(folder))
    assert not (tmp_path / "runs" / "other").exists()
