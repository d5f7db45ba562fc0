"""Flags of texts in the commands that take them: from a run to its tasks, and which flag a refusal names."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from data import DataError
from research import charlm, charlm_corpus
from research.common.flags import result_flags
from research.common.messages import UserError
from research.common.task import flags_of_run
from research.tasks import charlm as tasks
from research.tasks import charlm_corpus as compare

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"model": "lstm", "n_layers": 1, "embed_dim": 8, "hidden_dim": 8, "seq_len": 16, "batch_size": 4}
RUN = SMALL | {"steps": 1, "device": "cpu", "threads": 1, "wandb": "disabled"}
READ = {"encoding": "cp1251", "columns": "artist=Группа,song=Название,lyrics=Слова"}
VERSES = [f"Я помню чудное мгновенье, {word}\nПередо мной явилась ты" for word in ["раз", "два", "три"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """songs.tsv in cp1251, with columns of its own names, and a run on it."""
    place = tmp_path_factory.mktemp("russian")
    with open(place / "songs.tsv", "w", encoding="cp1251", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["Группа", "Название", "Слова"])
        table.writerows(("Кино", f"Песня {i}", f"{VERSES[i % 3]}\nещё {i}") for i in range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charlm, "samples", lambda *_: {})
        patch.setattr(charlm.pages, "learned", lambda *_: None)
        charlm.train(config(place, name="run", **READ))
    return place


def config(place: Path, **flags) -> charlm.Config:
    where = {"dataset": str(place / "songs.tsv"), "data_dir": str(place / "store"), "out": str(place)}
    return charlm.Config(**where | RUN | flags)


def do(place: Path, task: str, **flags) -> dict:
    flags = {"device": "cpu", "threads": 1, "wandb": "disabled"} | flags
    tasks.run(charlm.Config(task=task, checkpoint=str(place / "run"), **flags))
    kept = (place / "run").glob(f"{task}*/results.json")  # the name of a task's folder tells its flags
    return json.loads(max(kept, key=lambda path: path.stat().st_mtime_ns).read_text())


# ---- from a run to its tasks -----------------------------------------------------------------------------


def test_the_tasks_of_a_run_read_its_data_as_it_did(place, capsys):
    assert do(place, "evaluate")["text"] == "test part of songs"
    made = do(place, "generate", start="Я помню", chars=5)
    assert "copied" in made  # the training text is there
    command = charlm_corpus.Config(
        task="compare",
        checkpoint=str(place / "run"),
        song="Песня 3",
        chars=3,
        device="cpu",
        threads=1,
        wandb="disabled",
    )
    assert "'Песня 3' by Кино" in compare.run(command)["song"]
    printed = capsys.readouterr().err
    assert "not the text of the training" not in printed and "older than" not in printed


def test_how_a_file_is_read_goes_with_that_file(place):
    run_config = json.loads((place / "run" / "config.json").read_text())
    cfg = charlm.Config(task="evaluate", checkpoint=str(place / "run"))
    own = flags_of_run(cfg, run_config)
    assert {name: getattr(own, name) for name in READ} == READ
    other = flags_of_run(dataclasses.replace(cfg, dataset="mine.csv"), run_config)
    assert (other.encoding, other.columns) == (None, None)
    given = flags_of_run(dataclasses.replace(cfg, encoding="koi8-r"), run_config)
    assert (given.encoding, given.columns) == ("koi8-r", READ["columns"])
    for name in READ:
        del run_config["flags"][name]
    assert flags_of_run(cfg, run_config).encoding is None


def test_a_run_is_of_what_was_read(place, tmp_path):
    """Its key has the hash of the text, so the flags that made a file readable are not in it."""
    content = (place / "songs.tsv").read_text("cp1251")
    (tmp_path / "songs.csv").write_text(content, "utf-8")
    same = config(place, dataset=str(tmp_path / "songs.csv"), columns=READ["columns"])
    cfg = config(place, **READ)
    assert charlm.load_data(same).content_hash == charlm.load_data(cfg).content_hash
    assert result_flags(same) == result_flags(cfg)


def test_a_study_of_a_text_reads_it_so_too(place, capsys):
    where = {"dataset": str(place / "songs.tsv"), "out": str(place), "wandb": "disabled"}
    with pytest.raises(DataError, match=r"--encoding=cp1251 that line reads “Группа\\tНазвание\\tСлова”"):
        charlm_corpus.explore(charlm_corpus.Config(**where))
    results = charlm_corpus.explore(charlm_corpus.Config(**where, **READ))
    assert results["artists"] == {"Кино": 40}
    printed = capsys.readouterr().err
    assert "values are separated by tabs" in printed
    assert "columns: artist is 'Группа', song is 'Название', lyrics is 'Слова'" in printed


# ---- which flag a refusal names --------------------------------------------------------------------------


def test_a_text_to_score_has_its_own_encoding(place, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\n".join(VERSES).encode("koi8-r"))
    with pytest.raises(DataError) as e:
        do(place, "evaluate", text=str(file))
    message = str(e.value)
    assert message.startswith(
        f"--text={file} is not UTF-8 (byte 0xf1 at offset 0, in line 1) and may be koi8-r"
    )
    assert "\n" not in message and "--dataset" not in message
    scored = do(place, "evaluate", text=str(file), encoding="koi8-r")
    file.write_text("\n".join(VERSES), "utf-8")
    assert do(place, "evaluate", text=str(file)) == scored  # the run's encoding is that of its own file


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seq_len": 5000}, "--seq_len=5000: must be at most {n}, the length of the training part"),
        (
            {"seq_len": 1000},
            "--batch_size=4: must be at most 3, the sequences of --seq_len=1000 characters in the training "
            "part",
        ),
        (
            {"cut": "lines", "batch_size": 500},
            "--batch_size=500: must be at most {lines}, the sequences of --seq_len=16 characters in the "
            "training part",
        ),
    ],
)
def test_a_text_that_is_too_short(place, flags, message):
    cfg = config(place, **READ, **flags)
    part = charlm.load_data(cfg).parts["train"]
    numbers = {"n": f"{int(part.lengths.max()):,}", "lines": f"{len(part.pieces()[0]):,}"}
    with pytest.raises(UserError) as e:
        charlm.train(cfg)
    assert str(e.value) == message.format(**numbers)


def test_a_short_text_may_have_one_window(place):
    """If a batch can be filled, a longer --seq_len is still allowed."""
    cfg = config(place, **READ, seq_len=5000)
    charlm.check_batch(dataclasses.replace(cfg, batch_size=1), charlm.load_data(cfg))


def test_weights_of_another_alphabet_name_what_differs(place, tmp_path):
    (tmp_path / "latin.txt").write_text("We are but warriors for the working-day.\n" * 60)
    cfg = config(place, dataset=str(tmp_path / "latin.txt"), checkpoint=str(place / "run"))
    with pytest.raises(UserError) as e:
        charlm.train(cfg)
    start = (
        f"--checkpoint={place / 'run'}: must be of a model that knows the same characters as --dataset; only"
    )
    assert str(e.value).startswith(f"{start} one of the two has '-' U+002D, '.' U+002E, 'W' U+0057, ")
    assert str(e.value).endswith(" and others") and "\n" not in str(e.value)
    with pytest.raises(
        UserError, match=rf"^--dataset={tmp_path}/latin\.txt: not the text that the model learned"
    ):
        do(place, "evaluate", dataset=str(tmp_path / "latin.txt"))
