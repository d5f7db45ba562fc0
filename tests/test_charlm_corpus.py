"""The corpus study of the character models: what it counts, shows and writes; songs by every strategy."""

import csv
import json
import random
import re
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data.characters import words_of
from research import charlm, charlm_corpus
from research.common.commandline import main, parse
from research.common.messages import UserError
from research.parts.charlm_sampling import EXPLAINED, STRATEGIES, statistics
from research.tasks import charlm_corpus as compare

SMALL = {"n_layers": 1, "n_heads": 2, "embed_dim": 8, "seq_len": 16, "steps": 3, "batch_size": 4}
SMALL |= {"eval_every": 3, "sample_every": 1000, "device": "cpu", "threads": 1, "wandb": "disabled"}
WORDS = ["heart", "love", "o'er", "moon", "the", "and", "it's", "don’t", "Love", "naïve", "x2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with songs.csv, 200 artists of whom the first has three songs, many.txt and a tiny run."""
    place, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    with open(place / "songs.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["artist", "song", "lyrics", "year"])
        for i in range(202):
            lines = [" ".join(rng.choices(WORDS, k=4)) for _ in range(3)]
            artist = f"An artist [b] of quite a long name, the number {max(i, 2)} of all"
            table.writerow([artist, f"Song number {i}", ",\n".join([*lines, f"only{i}"]), 2000])
    (place / "many.txt").write_text("It's the moon.\n\n  \nthe moon and THE moon\n" * 100)
    flags = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs")}
    charlm.train(charlm.Config(**flags, dataset=str(place / "songs.csv"), name="tiny"))
    sys.modules["research.common.commandline"].AT_CRASH.clear()
    return place


def config(place, **flags):
    fixed = {"dataset": str(place / "songs.csv"), "data_dir": str(place / "store"), "wandb": "disabled"}
    return charlm_corpus.Config(**fixed | {"out": str(place / "runs"), "threads": 1, "device": "cpu"} | flags)


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def explored(place, capsys, **flags):
    """Explore; the folder, what results.json says, and what was printed."""
    cfg = config(place, task="explore", **flags)
    charlm_corpus.explore(cfg)
    folder = place / "runs" / (cfg.name or f"corpus_{cfg.dataset.split('/')[-1].split('.')[0]}") / "explore"
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    return folder, results, capsys.readouterr()


def test_songs_are_counted_as_by_hand_and_every_artist_is_shown(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(charlm_corpus, "N_ARTISTS", 20)  # of a picture; the table has all
    folder, results, printed = explored(place, capsys, top=4)
    songs = rows_of(place / "songs.csv")
    words = Counter(w.replace("’", "'").lower().strip(",") for s in songs for w in s["lyrics"].split())
    characters = Counter("".join(s["lyrics"] for s in songs))
    assert results["songs"] == results["table_rows"] == 202 and results["table_columns"] == 3
    assert results["mean_characters_per_song"] == pytest.approx(np.mean([len(s["lyrics"]) for s in songs]))
    assert results["mean_words_per_song"] == pytest.approx(13) and results["median_words_per_song"] == 13
    assert (results["words"], results["different_words"]) == (words.total(), len(words))
    assert (results["characters"], results["different_characters"]) == (characters.total(), len(characters))
    assert results["file_bytes"] == (place / "songs.csv").stat().st_size
    texts = sum(sys.getsizeof(s[k]) for s in songs for k in ("artist", "song", "lyrics"))
    assert texts / 2 < results["table_bytes_in_memory"] < 3 * texts
    ranked = dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))
    assert results["top_words"]["with stop words"] == dict(list(ranked.items())[:4])
    content = [w for w in ranked if w not in ("the", "and", "it's", "don't")]
    assert list(results["top_words"]["without stop words"].items()) == [(w, words[w]) for w in content[:4]]
    artists = Counter(s["artist"] for s in songs)
    assert results["artists"] == artists and results["n_artists"] == len(artists) == 200
    lines = printed.out.splitlines()
    for artist, n in artists.items():
        assert any(artist in line and re.search(rf"\b{n}\b", line.split("of all")[1]) for line in lines), (
            artist
        )
    assert "lower case" in printed.out and "ENGLISH_STOP_WORDS" in printed.out
    assert {r["artist"]: int(r["songs"]) for r in rows_of(folder / "artists.csv")} == artists
    assert {r["word"]: int(r["count"]) for r in rows_of(folder / "words.csv")} == words
    counted = {r["character"]: int(r["count"]) for r in rows_of(folder / "characters.csv")}
    assert (counted["space"], counted["newline"], counted["e"]) == tuple(characters[c] for c in " \ne")
    pictures = {"words_with_stop_words", "words_without_stop_words", "word_cloud", "characters", "lengths"}
    assert {path.stem for path in folder.glob("*.png")} == pictures | {"artists"}
    assert set(results["files"]) == {path.name for path in folder.iterdir()} - {"results.json"}
    for path in folder.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5, path


def test_a_plain_text_is_counted_by_lines_and_offline_w_and_b_gets_it(place, capsys):
    flags = {"dataset": str(place / "many.txt"), "name": "mine", "stop_words": False, "top": 2}
    folder, results, printed = explored(place, capsys, **flags, wandb="offline")
    assert (results["lines"], results["words"], results["different_words"]) == (200, 800, 4)
    assert results["top_words"] == {"without stop words": {"moon": 300}} and results["artists"] == {}
    assert results["mean_words_per_line"] == 4 and results["mean_characters_per_line"] == (14 + 21) / 2
    assert results["characters"] == results["file_bytes"] == 41 * 100
    assert not (folder / "artists.png").exists() and not (folder / "words_with_stop_words.png").exists()
    (segment,) = (folder / "wandb").glob("offline-run-*")
    assert "did not take" not in printed.err and str(segment) in printed.err
    assert any((segment / "files").rglob("word_cloud*.png")) and (segment / "files/words.csv").exists()


def test_the_embedded_text_works_and_w_and_b_may_fail(place, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("service died\nlong trace")

    monkeypatch.setattr(charlm_corpus, "connect", broken)
    monkeypatch.setattr(charlm_corpus, "draw", lambda *_: {"dot": np.zeros((8, 8, 3), np.uint8)})
    folder, results, printed = explored(place, capsys, dataset="pydoc", stop_words=True)
    assert results["lines"] > 5000 and "the" in results["top_words"]["with stop words"]
    assert "file_bytes" not in results and (folder / "words.csv").exists()
    assert "W&B did not take this task (service died)" in printed.err


def test_a_text_that_has_no_words_or_that_the_font_lacks_can_be_explored(place, capsys):
    for name, content in (("no_words", "-!? \n" * 300), ("strange", "\U00012000\U00012001 \n" * 300)):
        (place / f"{name}.txt").write_text(content)
        folder, results, printed = explored(place, capsys, dataset=str(place / f"{name}.txt"))
        assert not (folder / "word_cloud.png").exists() and (folder / "characters.png").exists()
        assert results["words"] == (0 if name == "no_words" else 300) and "Glyph" not in printed.err


@pytest.mark.parametrize(
    ("word", "stops"),
    [
        ("it's", True),
        ("can't", True),
        ("don't", True),
        ("i'm", True),
        ("the", True),
        ("o'er", False),
        ("heart's", False),
        ("moon", False),
    ],
)
def test_contractions_of_stop_words_are_stop_words(word, stops):
    assert charlm_corpus.is_stop_word(word) == stops


def test_words_keep_their_apostrophes_and_marks():
    found = words_of("Rock 'n' roll, o'er-night goin' nai\u0308ve हिन्दी snake_case")
    assert found == ["rock", "n", "roll", "o'er", "night", "goin", "nai\u0308ve", "हिन्दी", "snake", "case"]


def test_compare_writes_three_songs_by_every_strategy(place, capsys):
    run = place / "runs/tiny"
    compare.run(config(place, task="compare", checkpoint=str(run), chars=30, song=" song NUMBER 7", top_k=3))
    results = json.loads((run / "compare/results.json").read_text(), parse_constant=pytest.fail)
    songs = rows_of(place / "songs.csv")
    line = songs[7]["lyrics"].split("\n")[0]
    known = "".join(c for c in compare.OPENING if c in "".join(s["lyrics"] for s in songs))
    assert results["starts"] == [known, line, ""] and results["song"].startswith(
        "'Song number 7' by An artist"
    )
    assert [(s["start"], s["strategy"]) for s in results["songs"]] == [
        (start, strategy) for start in results["starts"] for strategy in STRATEGIES
    ]
    assert all(len(song["text"]) == 30 for song in results["songs"])
    assert results["songs"][0].keys() == {"start", "strategy", "text", *statistics("", "")}
    greedy = [song["distinct_1"] for song in results["songs"] if song["strategy"] == "greedy"]
    assert results["greedy/distinct_1"] == pytest.approx(sum(greedy) / 3)
    page, printed = (run / "compare/songs.html").read_text(), capsys.readouterr().out
    for strategy in STRATEGIES:
        assert f"<td>{strategy}</td>" in page and strategy in printed
        first = EXPLAINED[strategy].split(".")[0]
        assert first in page.replace("&#x27;", "'") and first in " ".join(printed.split())
    assert "top_k = 3" in page and page.count("<tr>") == 1 + 3 * len(STRATEGIES)


def test_compare_takes_the_mean_length_and_a_song_of_the_test_part(place, monkeypatch):
    monkeypatch.setattr(compare, "STRATEGIES", ("greedy",))
    run = place / "runs/tiny"
    results = compare.run(config(place, task="compare", checkpoint=str(run)))
    mean = round(np.mean([len(song["lyrics"]) for song in rows_of(place / "songs.csv")]))
    assert results["chars"] == mean and {len(song["text"]) for song in results["songs"]} == {mean}
    assert results["song"].endswith("of the test part")
    other = {"dataset": str(place / "many.txt"), "chars": 5, "checkpoint": str(run)}
    results = compare.run(config(place, task="compare", **other))
    assert results["song"] == "the test part of many" and len(results["songs"][0]["text"]) == 5
    with pytest.raises(UserError, match=r"^--song=a: must be None: many has no songs$"):
        compare.run(config(place, task="compare", song="a", **other))


def test_a_run_s_config_tells_how_its_text_is_read(tmp_path):
    flags = charlm.Config(dataset="shakespeare", cut="lines", lower=True, n_layers=7, top_k=3).__dict__
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    cfg = parse(charlm_corpus.Config, [f"--config={tmp_path}/config.json", "--top_k=4"])
    assert (cfg.task, cfg.dataset, cfg.cut, cfg.lower, cfg.top_k) == (
        "explore",
        "shakespeare",
        "lines",
        True,
        4,
    )


def test_what_is_not_there_is_refused_in_one_line(place, tmp_path, monkeypatch, capsys):
    for song, message in (
        ("Sng number 3", r"^--song=Sng number 3: no song of songs; near are .*Song number 3"),
        ("NUMBER 11", r"no song of songs; near are .*Song number 11"),
        ("qqqqqqqqq", r"no song of songs$"),
    ):
        with pytest.raises(UserError, match=message):
            compare.run(config(place, task="compare", checkpoint=str(place / "runs/tiny"), song=song))
    for flags, message in (
        (["--task=compare"], r"--task=compare: must be used with --checkpoint=RUN"),
        (["--top=0"], r"--top=0: must be at least 1"),
        (["--stop_words=maybe"], r"--stop_words=maybe: must be True or False or one of both"),
        (["--stopwords=True"], r"unknown flag --stopwords; did you mean --stop_words\?"),
        (["--min_count=0"], r"--min_count=0: must be at least 1"),
        (["--top_p=0"], r"--top_p=0.0: must be above 0, at most 1"),
        (["--threads=0"], r"--threads=0: must be at least 1"),
        (["--seed=-1"], r"--seed=-1: must be from 0 to"),
        (["--device=gpu"], r"--device=gpu: must be auto, cpu, cuda"),
        (["--name=a/b"], r"--name=a/b: must be a plain folder name"),
        (["--task=exlore"], r"--task=exlore: must be one of explore, compare; did you mean explore\?"),
    ):
        with pytest.raises(UserError, match=message):
            parse(charlm_corpus.Config, flags)
    assert parse(charlm_corpus.Config, ["--stop_words"]).stop_words is True
    assert parse(charlm_corpus.Config, ["--stop_words=false"]).stop_words is False
    monkeypatch.setattr(
        sys, "argv", ["charlm_corpus.py", f"--dataset={tmp_path}/no.csv", f"--out={tmp_path}"]
    )
    with pytest.raises(SystemExit, match="2"):
        main(charlm_corpus.Config, charlm_corpus.explore)
    assert "error: --dataset=" in capsys.readouterr().err and not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
