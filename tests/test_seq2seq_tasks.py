"""The tasks on a trained sequence model: their files and numbers, what they show, what is refused."""

import base64
import dataclasses
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, arithmetic
from research import seq2seq_arith as script
from research.common.messages import UserError
from research.parts import digit_classifier as judge
from research.parts import seq2seq_mistakes
from research.seq2seq_arith import Config, answers, build, drawers, load_data, reader_of
from research.tasks import seq2seq_arith as tasks
from tests.seq2seq import CPU, LEARN, ONE, SMALL, rows_of
from tests.seq2seq import no_charts as no_charts  # fixtures
from tests.seq2seq import quiet as quiet
from tests.seq2seq import short_lesson as short_lesson
from tests.task_folders import latest

pytestmark = pytest.mark.usefixtures("one_thread", "short_lesson")


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
    tasks.run(Config(**fixed | flags))
    folder = latest(place / run, task)
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
    folder, results = do(trained, run, "evaluate")
    last = {
        k.removeprefix("test/"): v for k, v in rows_of(trained / run)[-1].items() if k.startswith("test/")
    }
    assert {key: results[key] for key in last} == pytest.approx(last, rel=1e-6)
    n = {"text": 20, "plain": 60, "read": 20, "draw": 20}[run]
    own = {"task", "checkpoint", "seed", "files", "queries", "digits"}
    assert results["queries"] == n and set(results) == set(last) | own and results["files"] == []
    assert [p.name for p in folder.iterdir()] == ["results.json"]
    assert {p: p.read_bytes() for p in (trained / run).glob("*.json*")} == before


@pytest.mark.parametrize("run", RUNS)
def test_mistakes_tells_all_that_is_wrong(trained, run, request):
    if run != "plain":  # one with its charts is enough
        request.getfixturevalue("no_charts")
    folder, results = do(trained, run, "mistakes")
    files = {"mistakes.html", "kinds.png", "map.png"}
    files |= {"read": {"handwriting.png"}, "draw": {"drawn.png"}}.get(run, set())
    assert {path.name for path in folder.iterdir()} == files | {"results.json"} and set(
        results["files"]
    ) == files
    _, figures = do(trained, run, "evaluate")
    n, wrong = figures["queries"], results["wrong"]
    assert wrong == round((1 - figures["exact_match"]) * n) > 0
    assert {k: v for k, v in results.items() if k in figures and k not in ("task", "files")} == {
        k: v for k, v in figures.items() if k not in ("task", "files")
    }
    page = (folder / "mistakes.html").read_text()
    assert f"Test queries: {n - wrong} of {n} right (" in page
    counts = dict(re.findall(r"<h2>([a-z_ ]+): (\d+)</h2>", page))
    assert all(f'<p class="given">{counted}</p>' in page for counted in seq2seq_mistakes.KINDS.values())
    assert [*counts] == [kind.replace("_", " ") for kind in seq2seq_mistakes.KINDS]
    for kind, count in counts.items():
        assert int(count) == round(results[f"mistakes_{kind.replace(' ', '_')}"] * n)
    assert sum(map(int, counts.values())) == wrong
    cfg, net, data = loaded(trained, run)
    _, alphabet, test = data, data.splits.alphabet, data.splits.test
    ids, _ = answers(net, test, drawers(data, CPU)["test"], cfg, alphabet, reader_of(cfg, data), CPU)
    rows = re.findall(r"<td><pre>(.*?)</pre></td><td><pre>(.*?)</pre></td><td><pre>(.*?)</pre></td>", page)
    shown = {tuple(arithmetic.decode(x[i], alphabet) for x in (test.src, test.tgt, ids)) for i in range(n)}
    assert set(rows) <= shown and all(answer != model for _, answer, model in rows)
    assert len(rows) == sum(min(int(count), tasks.N_OF_A_KIND) for count in counts.values())


def tiles_on(page: str) -> dict[str, np.ndarray]:
    """Query → the picture in its row of a page of mistakes, grey (28, 28 T)."""
    rows = re.findall(r"<td><pre>(.*?)</pre></td>.*?base64,(.*?)\"", page)
    return {query: np.asarray(Image.open(BytesIO(base64.b64decode(png))))[..., 0] for query, png in rows}


@pytest.mark.parametrize("run", ["read", "draw"])
def test_wrong_answers_are_shown_with_what_was_read_or_drawn(trained, no_charts, monkeypatch, run):
    """On the page and in a picture there is exactly the handwriting of that query, or the drawing of that
    answer.
    """
    seen, real = {}, tasks.pictures.grid

    def grid(tiles, n_cols, labels, title):
        seen.update(tiles=tiles, labels=labels, title=title)
        return real(tiles, n_cols, labels, title=title)

    monkeypatch.setattr(tasks.pictures, "grid", grid)
    monkeypatch.setattr(script, "N_AT_ONCE", 7)  # of 20 queries: three calls
    folder, results = do(trained, run, "mistakes")
    cfg, net, data = loaded(trained, run)
    test, alphabet = data.splits.test, data.splits.alphabet
    glyph, rng, shown, said = drawers(data, CPU)["test"], script.make_rng(0, 0, "eval", CPU), {}, {}
    for src, tgt in zip(test.src.split(7), test.tgt.split(7)):
        batch = script.batch_of(src, tgt, glyph, rng, cfg, alphabet)
        made = net.answer(batch.src)
        ids = made if run == "read" else reader_of(cfg, data).read(made)
        forwards = arithmetic.reverse(ids, alphabet) if cfg.reverse else ids
        x = batch.src if run == "read" else torch.sigmoid(made)
        x = x if run == "read" else script.in_reverse(x, forwards, alphabet)
        for query, tile, answer in zip(src, x, forwards):
            query = arithmetic.decode(query, alphabet)
            shown[query] = np.concatenate([*tile.numpy()], 1)
            said[query] = arithmetic.decode(answer, alphabet)
    on_page = tiles_on((folder / "mistakes.html").read_text())
    assert results["wrong"] >= len(on_page) > 5
    for query, tile in on_page.items():
        assert np.abs(tile / 255 - shown[query]).max() < 0.003
    wide = 28 * (3 if run == "read" else 2)
    assert 5 <= len(seen["tiles"]) == len(seen["labels"]) and seen["tiles"].shape[1:] == (1, 28, wide)
    for tile, label in zip(seen["tiles"], seen["labels"]):
        kind, query, answer = re.fullmatch(r"([a-z ]+):  (\S+) = (.*), not \S+", label).groups()
        assert kind in seq2seq_mistakes.names() and answer == (said[query] or "?")
        np.testing.assert_allclose(tile[0].numpy(), shown[query])
    what = {"read": "Handwriting that was answered wrongly", "draw": "Wrong answers as they were drawn"}[run]
    assert seen["title"] == f"{what}, {data.name}"


def test_nothing_is_shown_where_nothing_is_wrong(trained, no_charts, monkeypatch):
    monkeypatch.setattr(script, "answers", lambda model, queries, *_: (queries.tgt.long(), 0.0))
    folder, results = do(trained, "read", "mistakes")
    assert results["wrong"] == 0 and "handwriting.png" not in results["files"]
    assert "20 of 20 right (100 %)" in (folder / "mistakes.html").read_text()


def test_examples_of_a_kind_are_limited(trained, no_charts, monkeypatch):
    monkeypatch.setattr(tasks, "N_OF_A_KIND", 1)
    folder, _ = do(trained, "plain", "mistakes")
    counts = [int(n) for n in re.findall(r"<h2>[a-z_ ]+: (\d+)</h2>", (folder / "mistakes.html").read_text())]
    assert max(counts) > 1 and (folder / "mistakes.html").read_text().count("<tr><td>") == sum(
        map(bool, counts)
    )


def test_ask_right_and_wrong(trained, capsys):
    """Two answers, by a model that reverses and has attention, are read forwards: one right, one wrong."""
    cfg, net, data = loaded(trained, "text", "last")
    alphabet = data.splits.alphabet
    every = [arithmetic.load("+", 1, 0.8).train, data.splits.val, data.splits.test]
    answers_of = {}
    for part in every:
        ids, _ = answers(net, part, None, cfg, alphabet, None, CPU)
        right = (ids == part.tgt).all(1)
        for row in range(len(part)):
            query, answer = (arithmetic.decode(x[row], alphabet) for x in (part.src, ids))
            answers_of[query] = answer, bool(right[row])
    right = [q for q, (answer, fine) in answers_of.items() if fine and len(answer) == 2]
    wrong = [q for q, (_, fine) in answers_of.items() if not fine]
    assert len(right) > 10 and wrong
    for query in (right[0], wrong[0]):
        folder, found = do(trained, "text", "ask", query=query, weights="last")
        truth = eval(query)
        assert found["query"] == query and found["truth"] == truth
        assert (found["answer"], found["right"]) == answers_of[query] and found["right"] == (
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
        assert ("right" in printed.splitlines()) == found["right"] == (f"wrong, it is {truth}" not in printed)


def test_ask_of_a_model_with_nothing_to_show(trained):
    _, results = do(trained, "plain", "ask", query="3*7")
    assert (
        (results["query"], results["truth"]) == ("3*7", 21)
        and results["files"] == []
        and len(results["probability"]) == 2
    )


def test_ask_writes_a_query_as_the_model_had_it(tmp_path, quiet):
    """It is written in columns if the model learned from columns; messages show it without the blanks."""
    flags = {"digits": 2, "columns": True, "dropout": 0.5, "steps": 1, "name": "run", "out": str(tmp_path)}
    script.train(Config(**SMALL | flags))
    cfg, shown = Config(**SMALL | flags), []
    with pytest.MonkeyPatch.context() as patch:
        real = script.batch_of
        patch.setattr(script, "batch_of", lambda src, *rest: shown.append(src) or real(src, *rest))
        _, results = do(tmp_path, "run", "ask", query="1+24")
    assert arithmetic.decode(shown[0][0], load_data(cfg).splits.alphabet) == " 1+24"
    assert (results["query"], results["truth"]) == ("1+24", 25)


def test_ask_shows_the_pictures_that_were_read(trained, no_charts, monkeypatch):
    shown = {}
    real = tasks.pictures.strip

    def strip(tiles, labels, title, **options):
        shown["tiles"], shown["labels"], shown["title"] = tiles, labels, title
        return real(tiles, labels, title, **options)

    monkeypatch.setattr(tasks.pictures, "strip", strip)
    _, results = do(trained, "read", "ask", query="3-7")
    assert results["truth"] == -4 and set(results["files"]) == {"query.png", "attention.png"}
    tiles = shown["tiles"]
    assert tiles.shape == (3, 1, 28, 28) and shown["labels"] == ["3", "-", "7"]
    data = load_data(Config(**SMALL | ONE | {"mode": "image_to_text", "ops": "-"}))
    own = {picture.numpy().tobytes() for picture in data.digits.test}
    assert {tiles[i, 0].mul(255).round().byte().numpy().tobytes() for i in (0, 2)} <= own  # never seen before
    assert shown["title"] == f"3-7 = {results['answer']}"
    assert do(trained, "read", "ask", query="3−7")[1]["query"] == "3-7"  # the minus sign U+2212
    do(trained, "read", "ask", query="3-7", seed=1)
    assert not torch.equal(shown["tiles"], tiles)  # --seed draws others


def test_ask_shows_the_pictures_that_were_drawn(trained, monkeypatch):
    shown = []

    def strip(*args, **_):
        shown.append(args)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(script.Reader, "read", lambda self, logits: torch.tensor([[1, 2]]))
    monkeypatch.setattr(tasks.pictures, "strip", strip)
    _, results = do(trained, "draw", "ask", query="9+8")
    ((tiles, labels, title),) = shown
    assert tiles.shape == (2, 1, 28, 28) and (labels, title) == (["2", "1"], "9+8 = 21")  # as one reads
    assert results["answer"] == "21" and results["right"] is False and results["truth"] == 17  # reversed
    assert results["files"] == ["answer.png"] and "probability" not in results
    _, net, data = loaded(trained, "draw")
    src = torch.tensor([arithmetic.encode("9+8", data.splits.alphabet)])
    torch.testing.assert_close(tiles[:, 0], torch.sigmoid(net.answer(src))[0].flip(0))
    monkeypatch.setattr(script.Reader, "read", lambda self, logits: torch.tensor([[2, 1]]))
    assert do(trained, "draw", "ask", query="9+3")[1]["right"] is True


@pytest.mark.parametrize(
    ("run", "query", "message"),
    [
        (
            "text",
            "1-1",
            r"--query='1-1' is not a query: it must be two numbers of at most 1 digit with one of \+ ",
        ),
        ("text", "11+1", r"--query='11\+1' is not a query"),
        ("text", "1−1", r"--query='1−1' is not a query: it must be two numbers of at most 1 digit"),
        ("text", "", r"--query='' is not a query"),
        ("read", "1+1", r"--query='1\+1' is not a query: .* with one of - between them, as in '9-1'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(trained, run, query, message):
    with pytest.raises(DataError, match=f"^{message}") as refusal:
        do(trained, run, "ask", query=query)
    assert "\n" not in str(refusal.value)


def test_the_flags_of_the_model_come_from_the_run(trained):
    """Whatever model the command line names: only the seed and the place are the task's own."""
    _, results = do(trained, "text", "evaluate")
    _, same = do(trained, "text", "evaluate", hidden_dim=7, ops="*", model="transformer", n_heads=1)
    assert same == results
    _, other = do(trained, "read", "evaluate", seed=5)
    # other pictures
    assert other["seed"] == 5 and other["loss"] != do(trained, "read", "evaluate")[1]["loss"]


# ---- other digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_digits(tmp_path_factory) -> Path:
    """A run that learned from queries of two digits, a hundred of them."""
    place = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "samples", lambda *_: {})
        patch.setattr(seq2seq_mistakes, "map_picture", lambda *_: np.zeros((8, 8, 3), np.uint8))
        script.train(Config(**SMALL | {"steps": 1, "ops": "+", "name": "two", "out": str(place)}))
    return place


def test_fewer_digits_are_those_of_the_test_part(two_digits, no_charts):
    """Queries from which the model has learned are never asked."""
    _, results = do(two_digits, "two", "evaluate", digits=1)
    test = arithmetic.load("+", 2, 0.5).test
    n = int((torch.maximum(test.a, test.b) < 10).sum())
    assert (results["queries"], results["digits"]) == (n, 1) and 20 < n < 80
    folder, results = do(two_digits, "two", "mistakes", digits=1)
    assert (
        results["queries"] == n
        and "1-digit +, asked of a 2-digit model" in (folder / "mistakes.html").read_text()
    )
    _, whole = do(two_digits, "two", "evaluate")
    assert (whole["queries"], whole["digits"]) == (len(test), 2)
    with pytest.raises(
        DataError, match=r"^--query='12\+3' is not a query: it must be two numbers of at most 1 digit"
    ):
        do(two_digits, "two", "ask", query="12+3", digits=1)


@pytest.mark.parametrize(
    "flags", [{}, {"columns": True, "bidirectional": True, "attention": True}, {"mode": "image_to_text"}]
)
def test_more_digits_are_read_by_an_lstm_and_none_of_them_was_learned_from(trained, flags):
    cfg = Config(**SMALL | ONE | {"data_dir": str(trained / "store"), "task": "train"} | flags)
    model = build(cfg, "0123456789+ ", CPU)
    asked, data = tasks.with_digits(cfg, 2, model)
    test = data.splits.test
    assert asked.digits == 2 and data.name.startswith("2-digit +, asked of a 1-digit model")
    assert torch.maximum(test.a, test.b).min() == 10 and test.src.shape[1] == 5
    few = arithmetic.Queries(*(getattr(test, f.name)[:9] for f in dataclasses.fields(test)))
    ids, loss = answers(model, few, drawers(data, CPU)["test"], asked, data.splits.alphabet, None, CPU)
    assert ids.shape == few.tgt.shape == (9, 3) and loss > 0


def test_more_digits_than_a_transformer_has_places_for_are_refused(trained):
    message = (
        r"^--digits=3: must be at most 1, the digits of this run: a transformer has learned no positions "
    )
    with pytest.raises(UserError, match=message):
        do(trained, "plain", "evaluate", digits=3)


def test_digits_of_which_no_query_is_there_are_refused(trained):
    cfg = Config(**SMALL | {"digits": 2, "ops": "*", "train_fraction": 0.999})
    with pytest.raises(DataError, match=r"^--digits=1: no such query is in the test part of this run$"):
        tasks.with_digits(cfg, 1, build(cfg, "0123456789* ", CPU))


def test_pictures_are_refused_by_a_model_of_text(trained):
    message = r"^--dataset=mnist: must be used with a run whose --mode has pictures;"
    with pytest.raises(UserError, match=message):
        do(trained, "text", "evaluate", dataset="mnist")


def test_checkpoints_that_do_not_fit_are_refused(trained, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for file in (trained / "plain/checkpoints").iterdir():
        (run / "checkpoints" / file.name).write_bytes(file.read_bytes())
    kept = json.loads((trained / "plain/config.json").read_text())
    for change, message in (
        ({"family": "charlm"}, "must be a run of seq2seq_arith; this one is of charlm"),
        ({"flags": kept["flags"] | {"hidden_dim": 14}}, "no weights of this model"),
        ({"flags": {}}, "must be of a run whose config.json lists its flags"),
    ):
        (run / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(UserError, match=f"^--checkpoint=.*{message}"):
            tasks.run(Config(task="evaluate", checkpoint=str(run), wandb="disabled", device="cpu"))
    assert not (run / "evaluate").exists()
