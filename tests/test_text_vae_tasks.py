"""What --task does with a text VAE: sentences, ways between them, figures, and the twist of any text."""

import dataclasses
import io
import json
import math

import pytest

from data import DataError
from data.old_lines import LINES
from research import text_vae as script
from research.common.commandline import parse
from research.common.messages import UserError
from research.parts.modern_english import archaic_forms, modernise
from research.tasks import text_vae as tasks
from tests.task_folders import latest

SMALL = {
    "latent_dim": 4,
    "embed_dim": 8,
    "encoder_dim": 12,
    "hidden_dim": 12,
    "batch_size": 8,
    "steps": 4,
    "eval_every": 4,
}
SMALL |= {"sample_every": 1000, "wandb": "disabled", "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a play and tiny finished runs on it: by characters, by words, and a language model."""
    place = tmp_path_factory.mktemp("text_vae")
    lines = [line for i, old in enumerate(LINES) for line in (old, f"You are friend number {i} here.")]
    (place / "play.txt").write_text("\n".join(lines) + "\n")
    common = {
        "dataset": str(place / "play.txt"),
        "data_dir": str(place / "store"),
        "out": str(place / "runs"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "N_CODES", 2)
        patch.setattr(script, "N_WEIGHTED", 20)
        patch.setattr(script, "samples", lambda *args: {})
        for name, flags in (
            ("vae", {}),
            ("words", {"level": "word"}),
            ("lm", {"latent_dim": 0, "free_bits": 0.0}),
        ):
            script.train(script.Config(**SMALL | common | flags, name=name))
        yield place


def config(place, task, run="vae", **flags) -> script.Config:
    common = {"checkpoint": str(place / "runs" / run), "wandb": "disabled", "device": "cpu"}
    return script.Config(**{"task": task} | common | flags)


def do(place, task, run="vae", **flags):
    tasks.run(config(place, task, run, **flags))
    folder = latest(place / "runs" / run, task)
    return folder, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("run", ["vae", "words", "lm"])
@pytest.mark.parametrize("strategy", ["temperature", "beam"])
def test_sentences_begin_as_asked(place, capsys, run, strategy):
    start = "What"
    n = 1 if (run, strategy) == ("lm", "beam") else 3  # a language model's most probable sentence is one
    folder, results = do(place, "generate", run, start=start, samples=n, length=12, strategy=strategy)
    assert len(results["sentences"]) == n and all(s.startswith(start) for s in results["sentences"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == results["twisted"] == results["sentences"]
    assert (folder / "sentences.html").read_text("utf-8").count("<pre>") == n


def test_more_samples_leave_the_first_as_they_are(place):
    _, few = do(place, "generate", samples=2)
    _, many = do(place, "generate", samples=5)
    assert many["sentences"][:2] == few["sentences"]
    _, other = do(place, "generate", samples=2, seed=1)
    assert other["sentences"] != few["sentences"]


def test_what_is_written_is_twisted(place, monkeypatch):
    monkeypatch.setattr(tasks, "write_sentences", lambda *args: __import__("torch").zeros(2, 3, dtype=int))
    monkeypatch.setattr(tasks.Vocabulary, "write", lambda self, ids: "What sayest thou?")
    _, results = do(place, "generate", samples=2, twist="modern")
    assert results["twisted"] == [modernise("What sayest thou?")] * 2
    assert (results["archaic_before"], results["archaic_after"]) == (1, 0)


def test_the_way_between_two_sentences(place, capsys):
    given = {"sentence": LINES[0], "sentence2": LINES[1]}
    folder, results = do(place, "interpolate", **given)
    assert (results["from"], results["to"]) == (LINES[0], LINES[1])
    assert len(results["linear"]) == len(results["spherical"]) == 9
    assert (results["linear"][0], results["linear"][-1]) == (
        results["spherical"][0],
        results["spherical"][-1],
    )
    assert {p.name for p in folder.iterdir()} == {"linear.html", "spherical.html", "results.json"}
    _, results = do(place, "interpolate", "words")
    assert results["from"] != results["to"], "two test lines"


def test_a_language_model_has_no_way(place):
    with pytest.raises(UserError, match=r"--checkpoint=.*a run with codes; this is a language model"):
        tasks.run(config(place, "interpolate", "lm"))


@pytest.mark.parametrize("run", ["vae", "words", "lm"])
def test_figures_of_the_test_part(place, run):
    folder, results = do(place, "evaluate", run)
    row = json.loads((place / "runs" / run / "metrics.jsonl").read_text().splitlines()[-1])
    for key, value in row.items():
        if key.startswith("test/"):
            assert results[key.removeprefix("test/")] == pytest.approx(value), key
    assert 0 <= results["known_words"] <= 1 and 0 <= results["text_known_words"] <= 1
    assert ("n_archaic" in results) == (run != "lm")
    if run == "lm":
        return
    moved = results["modern_after_move"]
    assert list(moved) == ["0", "0.5", "1", "1.5", "2"] and all(0 <= v <= 1 for v in moved.values())
    assert results["n_archaic"] >= 2 and (folder / "direction.html").exists()


def test_the_direction_is_that_of_the_means(place, monkeypatch):
    """A model whose code says whether a line is archaic, and which writes a modern line if
    the code says so.
    """
    import torch

    def code(model, lines, vocabulary, device):
        return torch.tensor([[0.0 if archaic_forms(line) else 1.0] for line in lines])

    def write(writer, how, rng, longest):
        written = ["You say." if z > 0.75 else "Thou sayest." for z in writer.z[:, 0].tolist()]
        return torch.tensor([[1 if w == "You say." else 0] for w in written])

    monkeypatch.setattr(tasks, "codes", code)
    monkeypatch.setattr(tasks, "Writer", lambda model, z, n=1: type("Pen", (), {"z": z})())
    monkeypatch.setattr(tasks, "write_sentences", write)
    cfg = config(place, "evaluate")
    device = torch.device("cpu")
    cfg, model, *_ = tasks.load_model(cfg, device)
    data = script.load_data(cfg)
    texts = [data.vocabulary.write(data.test.ids(s)) for s in range(len(data.test))]
    monkeypatch.setattr(tasks.Vocabulary, "write", lambda self, ids: next_text(ids, texts))

    def next_text(ids, texts):
        ids = [int(i) for i in ids]
        return {(0,): "Thou sayest.", (1,): "You say."}.get(tuple(ids)) or join(ids)

    def join(ids):
        return "".join(data.vocabulary.tokens[i] for i in ids)

    pages_made = []
    task = type("T", (), {"html": lambda self, name, page: pages_made.append(name)})()
    found = tasks.direction(model, data, cfg, device, task)
    assert found["modern_after_move"] == {"0": 0, "0.5": 0, "1": 1, "1.5": 1, "2": 1}
    assert pages_made == ["direction"]


# ---- twist ---------------------------------------------------------------------------------------------


def test_any_text_is_twisted(tmp_path, capsys, monkeypatch):
    (tmp_path / "old.txt").write_text("What sayest thou?\n\nThou art a friend.\n")
    results = tasks.run(script.Config(task="twist", twist="modern", text=str(tmp_path / "old.txt")))
    out = capsys.readouterr()
    assert out.out == modernise("What sayest thou?\n\nThou art a friend.\n")
    assert results["changes"] >= 3 and "changes by" in out.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Thou art here."), "utf-8"))
    tasks.run(script.Config(task="twist", twist="slang"))
    assert capsys.readouterr().out == modernise("Thou art here.", "slang")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Thou \xff art here."), "utf-8"))
    with pytest.raises(UserError, match=r"standard input is not text \(.*0xff.*--encoding"):
        tasks.run(script.Config(task="twist", twist="slang"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"task": "twist"}, "--twist=none: must be modern or slang with --task=twist"),
        (
            {"task": "twist", "twist": "modern", "text": "no/such"},
            "--text=no/such: must be an existing text file",
        ),
        (
            {"task": "twist", "twist": "slang", "checkpoint": "runs/x"},
            "--checkpoint=runs/x: must be left out",
        ),
    ],
)
def test_a_twist_that_is_none_is_refused(flags, said):
    with pytest.raises(UserError, match=said):
        tasks.run(script.Config(**flags))


# ---- faults --------------------------------------------------------------------------------------------


def test_checkpoints_that_are_not_ours_are_refused(place, tmp_path):
    for flags, said in (
        ({"checkpoint": "no/such"}, r"--checkpoint=no/such: no such run"),
        (
            {"checkpoint": str(place / "runs/lm"), "strategy": "greedy"},
            r"--samples=10: must be 1 with --strategy=greedy",
        ),
        ({"length": 2, "start": "What"}, r"--length=2: must be above the 4 tokens of --start"),
    ):
        with pytest.raises(UserError, match=said):
            tasks.run(config(place, "generate", **flags))
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Quite another line, number {i}!\n" for i in range(90)))
    with pytest.raises(DataError, match=r"--dataset=.*other.txt: must have the tokens that the model"):
        tasks.run(config(place, "evaluate", dataset=str(other)))


def test_every_task_of_the_script_is_there():
    assert {"train", *tasks.RUNS} == set(script.TASKS)
    cfg = parse(script.Config, ["--task=twist", "--twist=modern"])
    assert cfg.checkpoint is None and math.isfinite(cfg.beta) and dataclasses.is_dataclass(cfg)
