"""Character models: rows in which each character counts once, the objective, training that learns and
resumes.
"""

import dataclasses
import itertools
import json
import math
import os
import re
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data import text
from research import charlm
from research.charlm import (
    IGNORED,
    Config,
    Part,
    build,
    evaluate,
    load_data,
    loss_fn,
    lr_at,
    net,
    optimizers,
    width_for,
)
from research.common.commandline import main, parse
from research.common.flags import result_flags
from research.common.identity import run_key
from research.common.messages import UserError
from research.common.randomness import make_rng
from research.parts.charlm_sampling import DRAWN
from research.tasks import charlm as tasks
from tests.conftest import killed, results
from tests.run_flags import RUN_RESULT_FLAGS, flags_in_key

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, ROOT = torch.device("cpu"), Path(__file__).resolve().parents[1]
MODELS = ("lstm", "tcn", "transformer")
SMALL = {"n_layers": 2, "n_heads": 2, "embed_dim": 16, "hidden_dim": 16, "seq_len": 12, "batch_size": 4}
RHYME = """one two three four five,
once i caught a fish alive,
six seven eight nine ten,
then i let it go again.
"""
COMMON = ("train/learning_rate", "train/loss_epoch", "train/curve")  # explained for every family


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory) -> Path:
    """A text of 60 verses that a small model can learn."""
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text(60 * RHYME)
    return path


@pytest.fixture
def learn(rhyme, tmp_path):
    """learn(name, **flags): rows and folder of a run on the rhyme."""

    def do(name: str = "run", **flags):
        flags = SMALL | {"threads": 1, "device": "cpu", "wandb": "disabled", "sample_every": 10_000} | flags
        cfg = Config(
            dataset=str(rhyme), out=str(tmp_path / "runs"), data_dir=str(tmp_path), name=name, **flags
        )
        charlm.train(cfg)
        folder = tmp_path / "runs" / name
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], folder

    return do


@pytest.fixture
def quiet(monkeypatch):
    """No samples: writing under seven strategies takes seconds, and is not what is tested."""
    monkeypatch.setattr(charlm, "samples", lambda *_: {})
    monkeypatch.setattr(charlm.pages, "learned", lambda *_: None)


# ---- rows ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_the_rows_of_a_part_tell_every_character_of_its_lines_once(lengths, seq_len):
    ids = torch.arange(sum(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    begin = (starts[:-1] - 1).clamp(min=0)
    part = Part(ids, begin, starts[1:] - 1 - begin, seq_len)
    tokens, targets = part.rows(*part.pieces(), CPU)
    seen = targets[targets != IGNORED]
    assert seen.tolist() == list(range(1, len(ids)))  # all but the first of all, in order
    assert torch.equal(tokens[targets != IGNORED] + 1, seen)  # each behind the one before it
    line = torch.bucketize(targets, starts, right=True)
    assert all(len(set(row[t != IGNORED].tolist())) == 1 for row, t in zip(line, targets))  # of one line
    tokens, targets = part.batch(20, make_rng(0, 3, "train"))
    scored = targets != IGNORED
    assert torch.equal(tokens[scored] + 1, targets[scored]) and tokens.shape == targets.shape == (20, seq_len)
    line = torch.bucketize(targets, starts, right=True)
    assert all(len(set(row[t].tolist())) <= 1 for row, t in zip(line, scored))


def test_random_windows_of_a_stream_are_whole_and_reach_both_ends(rhyme):
    cfg = Config(dataset=str(rhyme), seq_len=50)
    part = load_data(cfg).parts["val"]
    tokens, targets = part.batch(4000, make_rng(0, 0, "train"))
    assert (targets != IGNORED).all()
    text_of = {tuple(part.ids[i : i + 50].tolist()): i for i in range(len(part.ids) - 50)}
    at = {text_of[tuple(row)] for row in tokens.tolist()}
    assert 0 in {i % len(RHYME) for i in at} and len(at) >= min(len(RHYME), len(part.ids) - 50) - 1


def test_an_epoch_is_one_pass_over_the_training_part(rhyme):
    data = load_data(Config(dataset=str(rhyme), seq_len=10))
    n = len(data.text.train)
    assert len(data.train) == -(-(n - 1) // 10)


# ---- the objective -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_an_untrained_model_guesses(rhyme, model):
    cfg = Config(dataset=str(rhyme), model=model, **SMALL)
    data = load_data(cfg)
    metrics = evaluate(build(cfg, data.text.alphabet, CPU), data.parts["val"], "val", cfg, CPU)
    assert metrics["val/loss"] == pytest.approx(math.log(len(data.text.alphabet)), abs=0.1)
    assert metrics["val/bpc"] == pytest.approx(metrics["val/loss"] / math.log(2))


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_is_the_mean_over_the_characters_told(rhyme, model):
    """All models predict the same positions: each character but the first, from its own window only."""
    cfg = Config(dataset=str(rhyme), model=model, **SMALL)
    part = load_data(cfg).parts["val"]
    net = build(cfg, load_data(cfg).text.alphabet, CPU)
    ids, nats = part.ids.long(), []
    for begin in range(0, len(ids) - 1, cfg.seq_len):
        window = ids[begin : begin + cfg.seq_len + 1]
        log_p = F.log_softmax(net(window[None, :-1])[0], 1)
        nats += (-log_p.gather(1, window[1:, None])).flatten().tolist()
    assert len(nats) == len(ids) - 1
    found = evaluate(net, part, "val", cfg, CPU)["val/loss"]
    assert found == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_padding_does_not_change_the_loss():
    cfg = Config(**SMALL)
    net = build(cfg, "abcdefgh", CPU)
    tokens = torch.randint(8, (3, 12))
    short = tokens[:, :5], tokens[:, 1:6]
    padded = tokens[:, 1:].clone()
    padded[:, 5:] = IGNORED
    loss, n = loss_fn(net, (tokens[:, :11], padded), None, cfg)
    torch.testing.assert_close(loss, loss_fn(net, short, None, cfg)[0])
    assert n == 15


def test_learning_rate():
    cfg = Config(steps=1000, learning_rate=0.5)
    rates = [lr_at(step, cfg) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01) and rates[1000] == 0 and max(rates) <= 0.5
    assert rates[50] == pytest.approx(0.5) and rates[525] == pytest.approx(0.25)


def test_each_model_has_a_learning_rate_of_its_own():
    """The default number is filled in; config.json and the key contain it, and keys of runs that gave a
    number stay the same.
    """

    def key(*args: str) -> str:
        return run_key("charlm", charlm.KEY_VERSION, parse(Config, args), "0123456789abcdef")

    for model in MODELS:
        for unsaid in ([], ["--learning_rate=None"]):
            cfg = parse(Config, [f"--model={model}", *unsaid])
            assert cfg.learning_rate == charlm.LEARNING_RATES[model] == result_flags(cfg)["learning_rate"]
        assert parse(Config, [f"--model={model}", "--learning_rate=0.5"]).learning_rate == 0.5
    assert key() == key("--learning_rate=0.002") == "03d8b138873d"
    assert key("--model=tcn") == "09190e69e154"
    assert key("--model=lstm", "--learning_rate=0.002") == "daf13cb5ef4f"
    assert key("--model=lstm") == key("--model=lstm", "--learning_rate=0.008") == "70ccad3f7397"
    with pytest.raises(UserError, match=r"--learning_rate=0\.0: must be a number above 0"):
        parse(Config, ["--learning_rate=0"])


def test_a_run_tells_the_rate_that_it_had(learn, quiet):
    rows, folder = learn(model="lstm", steps=2, log_every=1)
    config = json.loads((folder / "config.json").read_text())
    assert config["flags"]["learning_rate"] == 0.008
    assert max(row.get("train/learning_rate", 0) for row in rows) == 0.008
    again = parse(Config, [f"--config={folder / 'config.json'}", "--model=transformer"])
    assert again.learning_rate == 0.008  # what a run had is given


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wanted", [50_000, 800_000])
def test_models_of_equal_size(model, wanted):
    cfg = Config(model=model, parameters=wanted)
    found = sum(p.numel() for p in build(cfg, "".join(map(chr, range(65))), CPU).parameters())
    assert found == pytest.approx(wanted, rel=0.07)
    width = width_for(cfg, 65)
    unit = 8 if model == "transformer" else 1
    with torch.device("meta"):
        near = [sum(p.numel() for p in net(cfg, 65, width + d).parameters()) for d in (-unit, unit)]
    assert all(abs(found - wanted) <= abs(n - wanted) for n in near)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_weight_has_one_optimizer(model, optimizer):
    net = build(Config(model=model, optimizer=optimizer, **SMALL), "abc", CPU)
    made = optimizers(net, Config(optimizer=optimizer, model=model, **SMALL))
    held = [id(p) for one in made for group in one.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    muon = [one for one in made if isinstance(one, torch.optim.Muon)]
    assert bool(muon) == (optimizer == "muon" and model != "tcn")  # a convolution's weights are no matrix
    outer = [id(net.embedding.weight), id(net.head.weight)]
    assert not {id(p) for one in muon for g in one.param_groups for p in g["params"]} & set(outer)


# ---- flags ---------------------------------------------------------------------------------------------

RESULT_FLAGS = RUN_RESULT_FLAGS | {
    "cut",
    "normalize",
    "min_count",
    "scripts",
    "lower",
    "model",
    "n_layers",
    "n_heads",
    "embed_dim",
    "hidden_dim",
    "kernel_size",
    "norm",
    "pos",
    "seq_len",
    "dropout",
    "optimizer",
    "weight_decay",
    "clip",
    "parameters",
}


def test_the_flags_that_make_the_key():
    assert flags_in_key(Config) == RESULT_FLAGS  # adding one changes what kept runs mean: do it on purpose


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--model=gru"], ["--model=gru", "lstm", "transformer"]),
        (["--n_heads=3"], ["--embed_dim=128", "multiple of 2 × 3"]),
        (["--parameters=10"], ["--parameters=10", "at least 1000"]),
        (["--model=tcn", "--n_layers=17"], ["--n_layers=17", "from 1 to 16"]),
        (["--samples=2", "--strategy=beam"], ["--samples=2", "always writes the same text"]),
        (["--kernel_size=1"], ["--kernel_size=1", "at least 2"]),
        (["--dropout=1"], ["--dropout=1", "below 1"]),
        (["--strategy=best"], ["--strategy=best", "greedy"]),
        (["--temperature=0"], ["--temperature=0", "greedy"]),
        (["--chars=-1"], ["--chars=-1", "at least 0"]),
        (["--task=generate"], ["--task=generate", "--checkpoint"]),
    ],
)
def test_refusals_name_the_flag(args, parts):
    with pytest.raises(UserError) as refusal:
        parse(Config, args)
    message = str(refusal.value)
    assert all(part in message for part in parts) and "\n" not in message


# ---- training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_training_learns_the_rhyme(learn, quiet, model):
    """A model that sees 24 characters can know nearly each next one; frequencies alone leave 2.8 nats."""
    sizes = {"hidden_dim": 48, "embed_dim": 32, "seq_len": 24, "batch_size": 8}
    rows, folder = learn(model=model, steps=150, eval_every=75, learning_rate=0.01, **sizes)
    assert rows[0]["val/loss"] > 3 and rows[-1]["test/loss"] < 0.9
    assert rows[-1]["test/bpc"] == pytest.approx(rows[-1]["test/loss"] / math.log(2))
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["family"], kept["headline"], kept["goal"]) == ("charlm", "val/bpc", "minimize")


def test_what_is_logged_stands_in_the_table(learn):
    rows, folder = learn(steps=2, sample_every=1, log_every=1, eval_every=2)
    logged = {key for row in rows for key in row} - {"step", "epoch", *COMMON}
    logged |= {p.parent.relative_to(folder / "media").as_posix() for p in folder.glob("media/*/*/*")}
    logged -= {*COMMON}
    assert {
        "sample/continuations",
        "sample/learned",
        "sample/copied",
        "sample/known_words",
        "test/bpc",
        "train/grad_norm",
    } <= logged
    section = (ROOT / "docs/METRICS.md").read_text().split("## charlm")[1]
    for key in logged:
        assert re.search(rf"(?m)^\| .*`{key}`.*$", section), f"docs/METRICS.md lacks {key}"


def test_what_it_learned_when_shows_two_strategies_epochs_and_blanks(learn, monkeypatch):
    monkeypatch.setattr(charlm, "SHOWN_CHARS", 30)
    written = {"greedy": "a  the\n", "temperature": " one\ntwo "}
    real = charlm.pages.continuations
    monkeypatch.setattr(
        charlm.pages,
        "continuations",
        lambda p, t, w, title: real(p, t, w | {k: [v] * 3 for k, v in written.items()}, title),
    )
    rows, folder = learn(steps=2, sample_every=1, log_every=1, eval_every=2, model="lstm")
    page = (folder / "media/sample/learned/00000002.html").read_text()
    model = build(Config(model="lstm", **SMALL), "".join(sorted(set(RHYME))), CPU)
    n = sum(p.numel() for p in model.parameters())
    assert f"lstm, {n:,} parameters, on rhyme" in page.split("</h1>")[0]
    for row in rows:
        shown = f"step {row['step']}, epoch {row['epoch']:.3g}"
        assert f"<td>{shown}</td><td>greedy</td>" in page
        each = (folder / f"media/sample/continuations/{row['step']:08d}.html").read_text()
        assert f"lstm, {shown}" in each.split("</h1>")[0]
    assert len(rows) == 3 and page.count("<td>temperature</td>") == 3
    assert page.count("<pre class=greedy>a␣␣the↵\n</pre>") == 9
    assert page.count("<pre class=temperature>␣one↵\ntwo␣</pre>") == 9


def test_a_page_of_continuations_can_be_read_back():
    prompts, truths = ['who <b>is</b> "it" &', "and\n"], ["me", " a  b"]
    written = {"greedy": ["the the", "<pre>"], "top_p": ["x\ny", ""]}
    page = charlm.pages.continuations(prompts, truths, written, "lstm, step 1")
    read = charlm.pages.read_continuations(page)
    assert read == (['who <b>is</b> "it" &', "and↵\n"], ["me", "␣a␣␣b"], written | {"top_p": ["x↵\ny", ""]})


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("one two", "one two"),
        (" one  two ", "␣one␣␣two␣"),
        ("one \n\n two\n", "one␣↵\n↵\n␣two↵\n"),
        ("   ", "␣␣␣"),
        ("", ""),
    ],
)
def test_blanks_that_nobody_would_see_are_marked(text, marked):
    assert charlm.pages.seen(text) == marked


def test_of_whole_songs_only_the_blanks_at_the_ends_of_lines_are_marked():
    assert charlm.pages.seen_by_lines("  one  two  \n\nthree\n   ") == "  one  two␣␣\n\nthree\n␣␣␣"


@pytest.mark.parametrize(
    ("repetition", "said"), [(0.5, ""), (0.977, "loops: 98 % of it recurs"), (1.0, "loops: 100 %")]
)
def test_a_text_that_loops_is_said_to(repetition, said):
    found = charlm.pages.loops({"repetition": repetition})
    assert found.startswith(said) and bool(found) == bool(said) == ("--no_repeat" in found)
    assert "--no_repeat" not in charlm.pages.loops({"repetition": repetition}, no_repeat=30)
    cell = charlm.pages.written_text("la la", {"repetition": repetition})
    assert cell.startswith("<pre>la la</pre>") and found in cell


def test_strategies_share_no_draws_while_training(rhyme, monkeypatch):
    """An untrained model draws at random: with shared draws top_p would write what temperature does."""
    taken = {}
    monkeypatch.setattr(
        charlm.pages, "continuations", lambda _p, _t, written, _title: taken.update(written) or ""
    )
    cfg = Config(dataset=str(rhyme), **SMALL)
    data = load_data(cfg)
    model = build(cfg, data.text.alphabet, CPU)
    metrics = charlm.samples(model, data, cfg, CPU, 0)
    for one, other in itertools.combinations(DRAWN, 2):
        assert all(agreement(a, b) < 0.5 for a, b in zip(taken[one], taken[other])), (one, other)
    # and those of temperature, whose figures are logged, are the ones that runs have always had
    val = data.parts["val"].ids
    at = torch.linspace(0, len(val) - 100, 3).long()[:, None]
    prompt = val[at + torch.arange(40)].long()
    how, rng = charlm.Decoding(strategy="temperature"), make_rng(cfg.seed, 0, "pictures")
    same = [text.decode(row, data.text.alphabet) for row in charlm.generate(model, prompt, 60, how, rng)]
    assert taken["temperature"] == same and metrics["sample/distinct_1"] > 0


def agreement(one: str, other: str) -> float:
    """Share of the positions at which two texts have the same character."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_rows_do_not_depend_on_samples(learn):
    flags = {"steps": 2, "log_every": 1, "eval_every": 2, "dropout": 0.2}
    often, _ = learn("often", **flags, sample_every=1)
    seldom, _ = learn("seldom", **flags, sample_every=1000)
    assert [{k: v for k, v in row.items() if "sample/" not in k} for row in often] == [
        {k: v for k, v in row.items() if "sample/" not in k} for row in seldom
    ]


@pytest.mark.parametrize("model", MODELS)
def test_interrupted_equals_straight(learn, quiet, model):
    flags = {"model": model, "steps": 8, "log_every": 1, "eval_every": 4, "save_every": 3, "dropout": 0.1}
    _, straight = learn("straight", **flags, cut="lines")
    with killed("log", 5):
        learn("run", **flags, cut="lines")
    _, folder = learn("run", **flags, cut="lines")
    assert results(folder) == results(straight)


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_diverges_says_so(learn, model):
    """Training also survives when samples are due and the weights are not finite."""
    flags = {"steps": 9, "log_every": 5, "eval_every": 9, "sample_every": 2, "optimizer": "adamw"}
    _, folder = learn(model=model, **flags, learning_rate=1e38)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged" and status["step"] <= 6


def test_weights_of_another_alphabet_are_refused(learn, quiet, rhyme, tmp_path):
    _, folder = learn(steps=1)
    shifted = tmp_path / "shifted.txt"
    shifted.write_text("".join(chr(ord(c) + 1) if c.isalpha() else c for c in rhyme.read_text()))
    flags = SMALL | {"out": str(tmp_path / "runs"), "data_dir": str(tmp_path), "wandb": "disabled"}
    with pytest.raises(UserError, match=r"--checkpoint=.*same characters"):
        charlm.train(Config(dataset=str(shifted), checkpoint=str(folder), steps=1, **flags))
    again, _ = learn("again", steps=1, checkpoint=str(folder))
    before = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert again[0]["val/bpc"] == before["val/bpc_best"]


def test_a_size_that_cannot_be_had_is_refused():
    with pytest.raises(UserError, match=r"--parameters=1000: .*the nearest is"):
        build(Config(model="lstm", parameters=1000), "abcdefgh", CPU)


# ---- tasks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(rhyme, tmp_path_factory):
    """A finished run of each model."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charlm, "samples", lambda *_: {})
        patch.setattr(charlm.pages, "learned", lambda *_: None)
        for model in MODELS:
            where = {"dataset": str(rhyme), "data_dir": str(place), "out": str(place), "name": model}
            flags = SMALL | where | {"model": model, "steps": 60, "learning_rate": 0.01, "wandb": "disabled"}
            charlm.train(Config(**flags))
    return place


def do(place: Path, model: str, task: str, **flags) -> tuple[Path, dict]:
    tasks.run(Config(task=task, checkpoint=str(place / model), wandb="disabled", **flags))
    kept = max((place / model).glob(f"{task}*/results.json"), key=lambda path: path.stat().st_mtime_ns)
    return kept.parent, json.loads(kept.read_text())


@pytest.mark.parametrize("model", MODELS)
def test_generate_writes_exactly_so_many_characters(trained, model, capsys):
    folder, numbers = do(trained, model, "generate", start="one t", chars=37, strategy="temperature")
    (made,) = numbers["texts"]
    assert made.startswith("one t") and len(made) == 5 + 37 and made in capsys.readouterr().out
    assert (folder / "texts.html").stat().st_size > 500
    again = tasks.LyricsGenerator("one t", 37, trained / model, strategy="temperature")
    assert again == made
    other = tasks.LyricsGenerator("one t", 37, str(trained / model), "temperature", seed=1)
    assert other != made and len(other) == len(made)


def test_generate_several_and_from_nothing(trained):
    _, numbers = do(trained, "lstm", "generate", chars=20, samples=3, strategy="temperature")
    assert len({*numbers["texts"]}) == 3 and {len(t) for t in numbers["texts"]} == {20}
    _, fewer = do(trained, "lstm", "generate", chars=20, samples=2, strategy="temperature")
    assert fewer["texts"] == numbers["texts"][:2]  # one more leaves the others as they are
    _, numbers = do(trained, "lstm", "generate", chars=0, start="ten")
    assert numbers["texts"] == ["ten"]


def test_draws_of_songs_have_streams_of_their_own():
    """The random streams that runs have had from the beginning stay the same."""
    assert make_rng(7, 3, "train").initial_seed() == 2549782288820600923
    assert make_rng(0, 0, "pictures").initial_seed() == 1381058055861593002
    of = [
        (),
        ("a", "b", 1),
        ("a", "b", 2),
        ("a", "c", 1),
        ("a/b", 1),
        ("a", "b/1"),
        ('a", "b', 1),
        ("", ""),
        ("",),
        (1,),
    ]
    of += [("1",), ("\udcff",)]  # a stray byte of the command line
    seeds = {make_rng(seed, 0, "pictures", of=one).initial_seed() for one in of for seed in (0, 1)}
    assert len(seeds) == 2 * len(of)


def test_texts_behind_other_starts_have_other_draws(trained):
    """A small model soon forgets its start: with equal draws it would then write the same text."""
    made = [
        tasks.LyricsGenerator(start, 300, trained / "lstm", "temperature") for start in ("one t", "si", "th")
    ]
    for one, other in itertools.combinations(made, 2):
        assert agreement(one[-290:], other[-290:]) < 0.5
    cfg = Config(task="generate", checkpoint=str(trained / "lstm"))
    _, model, alphabet, *_ = tasks.load_model(cfg, CPU)
    with torch.inference_mode():
        logits = [
            model.read(tasks.prompt_of(start, alphabet, CPU), model.start(1, CPU))[0]
            for start in ("one t", "si", "")
        ]
    assert all((a - b).abs().max() > 0.01 for a, b in itertools.combinations(logits, 2))  # the start is read


def test_a_text_that_loops_is_told_and_no_repeat_leads_out(trained, capsys):
    folder, numbers = do(trained, "lstm", "generate", chars=300, strategy="greedy")
    assert numbers["repetition"] > 0.5
    said = f"loops: {100 * numbers['repetition']:.0f} % of it recurs; --no_repeat=12 forbids that"
    assert said in " ".join(capsys.readouterr().err.split()) and said in (folder / "texts.html").read_text()
    folder, numbers = do(trained, "lstm", "generate", chars=300, strategy="greedy", no_repeat=12)
    assert numbers["repetition"] == 0 and "loops" not in (folder / "texts.html").read_text()
    assert "loops" not in capsys.readouterr().err


def test_what_the_strategy_does_not_look_at_is_refused(trained):
    with pytest.raises(
        UserError, match=r"^--top_k=3: must be left out with --strategy=greedy; it acts with top_k, c"
    ):
        do(trained, "lstm", "generate", strategy="greedy", top_k=3)
    with pytest.raises(UserError, match=r"^--beam_width=9: must be left out with --strategy=top_p"):
        tasks.LyricsGenerator("one", 3, trained / "lstm", beam_width=9)
    assert do(trained, "lstm", "generate", chars=3, strategy="temperature", temperature=1e-310)[1]["texts"]


def test_without_a_model_of_songs_there_is_one_line(trained):
    with pytest.raises(
        UserError, match=r"^LyricsGenerator: .* holds no finished run .* on a CSV of songs; make one"
    ):
        tasks.LyricsGenerator("one", 3, out=str(trained))  # three finished runs, of a plain text


def test_characters_the_model_never_saw_are_told_and_left_out(trained, capsys):
    _, numbers = do(trained, "tcn", "generate", start="Fish ☃!", chars=5)
    assert numbers["start"] == "ish " and len(numbers["texts"][0]) == 9
    err = " ".join(capsys.readouterr().err.split())
    assert "3 characters left out" in err and all(repr(c) in err for c in "F☃!")


def test_a_reader_that_has_seen_enough_ends_it_quietly(trained, monkeypatch, capfd):
    """As in `generate ... | head -c 20`: text is shown while it is written, and no traceback follows."""
    read, write = os.pipe()
    seen = []

    def head() -> None:
        while sum(map(len, seen)) < 20:
            seen.append(os.read(read, 20 - sum(map(len, seen))))
        os.close(read)

    flags = {"task": "generate", "checkpoint": trained / "lstm", "start": "one t", "chars": 100_000}
    args = [f"--{name}={value}" for name, value in (flags | {"wandb": "disabled", "device": "cpu"}).items()]
    monkeypatch.setattr(sys, "argv", ["charlm.py", *args])
    reader = threading.Thread(target=head)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        reader.start()
        with pytest.raises(SystemExit):
            main(Config, charlm.train, tasks="research.tasks.charlm")
        reader.join()
    assert len(text_seen := b"".join(seen).decode()) == 20 and text_seen.startswith("one t")
    assert "Traceback" not in capfd.readouterr().err


def test_generating_needs_no_data(trained, rhyme, tmp_path, capsys):
    moved = tmp_path / "elsewhere.txt"
    rhyme.rename(moved)
    try:
        _, numbers = do(trained, "transformer", "generate", chars=30)
        assert not {"copied", "known_words"} & numbers.keys() and "is not known" in capsys.readouterr().err
    finally:
        moved.rename(rhyme)


@pytest.mark.parametrize("model", MODELS)
def test_evaluate_scores_the_test_part_and_any_text(trained, model, tmp_path):
    folder, numbers = do(trained, model, "evaluate")
    last = json.loads((trained / model / "metrics.jsonl").read_text().splitlines()[-1])
    assert numbers["bpc"] == pytest.approx(last["test/bpc"], rel=1e-6)
    page = (folder / "lines.html").read_text()
    assert page.count('class="right"') > 20 and "class=given" in page
    (other := tmp_path / "other.txt").write_text("zebra QUIZ " + RHYME)
    _, own = do(trained, model, "evaluate", text=str(other))
    assert own["characters"] == len(text_known(other)) - 1
    with pytest.raises(Exception, match="--text=nowhere"):
        do(trained, model, "evaluate", text="nowhere")


def test_text_is_cut_and_cleaned_as_the_run_has_it(rhyme, tmp_path, quiet):
    """The test part saved to a file has the loss of the test part, by lines and in lower case too."""
    loud = tmp_path / "loud.txt"
    loud.write_text(rhyme.read_text().upper())
    flags = SMALL | {"out": str(tmp_path), "data_dir": str(tmp_path), "wandb": "disabled"}
    cfg = Config(dataset=str(loud), name="run", cut="lines", lower=True, steps=30, **flags)
    charlm.train(cfg)
    data = load_data(cfg).text
    (part := tmp_path / "part.txt").write_text(text.decode(data.test, data.alphabet).upper())
    _, own = do(tmp_path, "run", "evaluate")
    _, other = do(tmp_path, "run", "evaluate", text=str(part))
    assert other["characters"] == own["characters"] and other["bpc"] == pytest.approx(own["bpc"], rel=1e-6)
    _, numbers = do(tmp_path, "run", "generate", start="ONE", chars=3)
    assert numbers["start"] == "one"


def test_what_is_copied_is_told_of_another_text(trained, tmp_path):
    (other := tmp_path / "other.txt").write_text("zebras quiz; " * 200)
    _, numbers = do(trained, "lstm", "generate", chars=30, dataset=str(other))
    assert 0 <= numbers["copied"] < 30


def text_known(path: Path) -> str:
    return "".join(c for c in path.read_text(encoding="utf-8") if c in RHYME)


def test_another_text_than_the_one_learned_is_refused(trained, tmp_path):
    (other := tmp_path / "other.txt").write_text(60 * RHYME.upper())
    with pytest.raises(UserError, match="--text=FILE"):
        do(trained, "lstm", "evaluate", dataset=str(other))


def test_a_text_that_was_changed_since_is_told(trained, tmp_path, capsys):
    (other := tmp_path / "other.txt").write_text(59 * RHYME)
    _, numbers = do(trained, "lstm", "evaluate", dataset=str(other))
    assert "not the text of the training" in capsys.readouterr().err and numbers["trained_on_data_hash"]
    do(trained, "lstm", "evaluate")
    assert "not the text of the training" not in capsys.readouterr().err


def test_no_character_model(tmp_path):
    with pytest.raises(UserError, match="--checkpoint"):
        tasks.run(Config(task="generate", checkpoint=str(tmp_path / "nothing")))


def test_the_alphabet_is_in_the_checkpoint(trained, rhyme):
    cfg = Config(task="generate", checkpoint=str(trained / "lstm"))
    _, model, alphabet, *_ = tasks.load_model(cfg, CPU)
    same = load_data(dataclasses.replace(cfg, dataset=str(rhyme))).text.alphabet
    assert alphabet == "".join(sorted(set(RHYME))) == same
    assert text.decode(model.alphabet.new_tensor([0]), alphabet) == "\n"
