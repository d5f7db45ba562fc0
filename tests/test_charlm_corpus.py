"""The corpus study of the character models: what it counts, shows and writes; songs by every strategy."""

import csv
import itertools
import json
import os
import random
import re
import shutil
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.characters import words_of
from research import charlm, charlm_corpus
from research.common import flags as flags_module
from research.common.commandline import main, parse
from research.common.flags import refuse_idle
from research.common.identity import ROOT
from research.common.messages import UserError, news
from research.parts.charlm_sampling import DRAWN, EXPLAINED, STRATEGIES, statistics
from research.tasks import charlm_corpus as compare
from research.tasks.charlm import LyricsGenerator

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


def compared(place, **flags):
    """Compare with the tiny run; its folder, whose name tells the flags, and what results.json says."""
    run = place / "runs/tiny"
    compare.run(config(place, task="compare", checkpoint=str(run), **flags))
    kept = max(run.glob("compare*/results.json"), key=lambda path: path.stat().st_mtime_ns)
    return kept.parent, json.loads(kept.read_text(), parse_constant=pytest.fail)


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
    folder, results = compared(place, chars=30, song=" song NUMBER 7", top_k=3)
    assert all(word in folder.name for word in ("song=", "chars=30", "top_k=3"))
    songs = rows_of(place / "songs.csv")
    line = songs[7]["lyrics"].split("\n")[0]
    known = "".join(c for c in compare.OPENING if c in "".join(s["lyrics"] for s in songs))
    assert results["starts"] == [known, line, ""] and results["song"].startswith(
        "the first line of 'Song number 7' by An artist"
    )
    assert [(s["start"], s["strategy"]) for s in results["songs"]] == [
        (start, strategy) for start in results["starts"] for strategy in STRATEGIES
    ]
    assert all(len(song["text"]) == 30 for song in results["songs"])
    assert results["songs"][0].keys() == {"start", "strategy", "sample", "text", *statistics("", "")}
    greedy = [song["distinct_1"] for song in results["songs"] if song["strategy"] == "greedy"]
    assert results["greedy/distinct_1"] == pytest.approx(sum(greedy) / 3)
    page, printed = (folder / "songs.html").read_text(), capsys.readouterr().out
    for strategy in STRATEGIES:
        assert f"<td>{strategy}</td>" in page and strategy in printed
        first = EXPLAINED[strategy].split(".")[0]
        assert first in page.replace("&#x27;", "'") and first in " ".join(printed.split())
    assert "top_k = 3" in page and page.count("<tr>") == 1 + 3 * len(STRATEGIES)
    kept = rows_of(folder / "songs.csv")
    assert [(row["start"], row["strategy"]) for row in kept] == [
        (song["start"], song["strategy"]) for song in results["songs"]
    ]
    for row, song in zip(kept, results["songs"]):
        assert (row["sample"], row["no_repeat"]) == ("1", "0") and "text" not in row
        assert all(float(row[k]) == pytest.approx(song[k], abs=1e-6) for k in statistics("", ""))


def test_songs_with_other_starts_are_other_songs(place, monkeypatch):
    """With one stream of draws they would be one text: a small model soon forgets how it began."""
    monkeypatch.setattr(compare, "STRATEGIES", (*DRAWN, "greedy"))
    run = place / "runs/tiny"
    songs = compare.run(config(place, task="compare", checkpoint=str(run), chars=300, samples=2))["songs"]
    texts = {(s["start"], s["strategy"], s["sample"]): s["text"] for s in songs}
    assert len(texts) == len(songs) == 3 * (2 * len(DRAWN) + 1)
    drawn = {key: text for key, text in texts.items() if key[1] in DRAWN}
    for (one, a), (other, b) in itertools.combinations(drawn.items(), 2):
        same = sum(x == y for x, y in zip(a, b)) / 300
        assert same < 0.5, f"{one} and {other}: {same:.2f} of the positions are equal"


def test_a_song_more_leaves_the_others_as_they_are(place, monkeypatch):
    def songs(**flags):
        results = compare.run(
            config(place, task="compare", checkpoint=str(place / "runs/tiny"), chars=40, **flags)
        )
        return {(s["start"], s["strategy"], s["sample"]): s["text"] for s in results["songs"]}

    every = songs(samples=2, song="the moon", start="love and")
    monkeypatch.setattr(compare, "STRATEGIES", ("min_p", "temperature"))
    some = songs(song="Song number 3", start="love and")
    assert {strategy for _, strategy, _ in some} == {"min_p", "temperature"}
    assert {sample for _, _, sample in every} == {1, 2} and {sample for _, _, sample in some} == {1}
    both = every.keys() & some.keys()
    assert {start for start, *_ in both} == {"love and", ""} and len(both) == 4
    assert all(every[key] == some[key] for key in both)
    other = songs(seed=1, start="love and")
    assert all(other[key] != some[key] for key in both)


@pytest.mark.parametrize(
    ("flags", "second", "about"),
    [
        ({"song": "the moon o'er the heart"}, "the moon o'er the heart", "the line of --song"),
        ({"song": "NUMBER 11"}, " 11", "the line of --song"),
        ({"song": "a", "dataset": "many.txt"}, "a", "the line of --song"),
    ],
)
def test_song_takes_a_line_of_one_s_own(place, monkeypatch, capsys, flags, second, about):
    monkeypatch.setattr(compare, "STRATEGIES", ("temperature",))
    if "dataset" in flags:
        flags = flags | {"dataset": str(place / flags["dataset"])}
    cfg = config(place, task="compare", checkpoint=str(place / "runs/tiny"), chars=5, **flags)
    results = compare.run(cfg)
    assert results["starts"][1] == second and results["song"] == about
    err = " ".join(capsys.readouterr().err.split())
    assert ("no song of songs, so it is read as a line of your own" in err) == ("dataset" not in flags)


def test_start_begins_the_first_song(place, monkeypatch):
    monkeypatch.setattr(compare, "STRATEGIES", ("temperature",))
    asked = {"task": "compare", "checkpoint": str(place / "runs/tiny"), "chars": 5}
    results = compare.run(config(place, **asked, start="o'er the moon"))
    assert (
        results["starts"][0] == results["songs"][0]["start"] == "o'er the moon" and len(results["songs"]) == 3
    )
    assert len(compare.run(config(place, **asked, start=""))["songs"]) == 2  # nothing is a start already
    with pytest.raises(UserError, match=r"^--start=QQQ: must be made of characters that the model has seen$"):
        compare.run(config(place, **asked, start="QQQ"))
    with pytest.raises(UserError, match=r"^--song= : must be the name of a song, or a line$"):
        compare.run(config(place, **asked, song=" "))


@pytest.mark.parametrize(
    ("lyrics", "line"),
    [
        ("Should auld acquaintance\nbe forgot", "Should auld acquaintance"),
        ("[Verse 1]\n  Should auld", "Should auld"),
        ("\n[To Mrs. Stewart\nof Stair, by hand.]\n\n[Chorus:]\nShould auld", "Should auld"),
        ("(March, 1789).\nShould auld", "Should auld"),
        ("{tune: old}\nShould auld", "Should auld"),
        ("(Should auld) acquaintance\nbe", "(Should auld) acquaintance"),
        ("[O] Should auld", "[O] Should auld"),
        ("[nothing but a note]", "[nothing but a note]"),
        ("[never closed\nShould auld", "[never closed"),
    ],
)
def test_an_editor_s_note_is_no_first_line(lyrics, line):
    assert compare.first_line(lyrics) == line


def test_songs_that_loop_are_said_to_and_no_repeat_leads_out(place, monkeypatch, capsys):
    monkeypatch.setattr(compare, "STRATEGIES", ("greedy", "temperature", "beam"))
    folder, results = compared(place, chars=200)
    looping = [song for song in results["songs"] if song["repetition"] > 0.5]
    assert {"greedy", "beam"} <= {song["strategy"] for song in looping}
    page, printed = (folder / "songs.html").read_text(), " ".join(capsys.readouterr().out.split())
    assert page.count("of it recurs; --no_repeat=12") == len(looping) and "of it recurs" in printed
    other, results = compared(place, chars=200, no_repeat=12, samples=2)
    page = (other / "songs.html").read_text()
    assert other != folder and "<td>temperature 2</td>" in page
    assert all(song["repetition"] == 0 for song in results["songs"])
    assert "of it recurs" not in page
    assert {row["no_repeat"] for row in rows_of(other / "songs.csv")} == {"12"}


def test_lyrics_generator_finds_the_newest_model_of_songs(place, tmp_path, monkeypatch, capsys):
    """As in a notebook, whose working directory is not the root of the repository."""
    made = LyricsGenerator("the moon", 30, out=str(place / "runs"), seed=3)
    assert made.startswith("the moon") and len(made) == 8 + 30
    assert f"the model of {place}/runs/tiny" in "".join(capsys.readouterr().err.split("\n"))
    assert made == LyricsGenerator("the moon", 30, place / "runs/tiny", seed=3)
    assert made != LyricsGenerator("the moon", 30, place / "runs/tiny", seed=4)
    for name, status in (("stopped", "stopped"), ("tiny.old-1", "finished"), ("sweep/later", "finished")):
        shutil.copytree(place / "runs/tiny", tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "status.json").write_text(json.dumps({"status": status}))
    shutil.copytree(place / "runs/tiny", tmp_path / "runs/earlier")
    os.utime(tmp_path / "runs/earlier/status.json", (1, 1))
    monkeypatch.setattr(sys.modules["research.tasks.charlm"], "ROOT", tmp_path)
    monkeypatch.chdir(place)
    shutil.move(place / "runs", place / "hidden")  # there is no runs/ here
    try:
        assert LyricsGenerator("the moon", 30, seed=3) == made
    finally:
        shutil.move(place / "hidden", place / "runs")
    assert "runs/sweep/later" in "".join(capsys.readouterr().err.split("\n"))


def test_compare_takes_the_mean_length_and_a_song_of_the_test_part(place, monkeypatch):
    monkeypatch.setattr(compare, "STRATEGIES", ("greedy",))
    run = place / "runs/tiny"
    results = compare.run(config(place, task="compare", checkpoint=str(run)))
    mean = round(np.mean([len(song["lyrics"]) for song in rows_of(place / "songs.csv")]))
    assert results["chars"] == mean and {len(song["text"]) for song in results["songs"]} == {mean}
    assert results["song"].endswith("of the test part")
    other = {"dataset": str(place / "many.txt"), "chars": 5, "checkpoint": str(run)}
    results = compare.run(config(place, task="compare", **other))
    assert results["song"] == "the first line of the test part of many"
    assert len(results["songs"][0]["text"]) == 5


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
    message = (
        r"^--song=Sng number 3: no song of songs; similar titles .*Song number 3.*; for a line .* --start$"
    )
    with pytest.raises(UserError, match=message):
        compare.run(config(place, task="compare", checkpoint=str(place / "runs/tiny"), song="Sng number 3"))
    for flags, message in (
        (["--task=compare"], r"--task=compare: must be used with --checkpoint=RUN"),
        (["--top=0"], r"--top=0: must be at least 1"),
        (["--samples=0"], r"--samples=0: must be at least 1"),
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


READ = {  # flags that only some tasks of these commands read, at another value than their default
    charlm: {
        "train": {"sample_every": 7, "save_every": 7, "log_every": 7},
        "evaluate": {"text": "some.txt"},
        "generate": {"start": "a", "chars": 7, "samples": 2, "strategy": "top_k", "no_repeat": 9, "top_k": 7}
        | {"temperature": 0.5, "top_p": 0.5, "min_p": 0.5, "beam_width": 2, "alpha": 0.5},
    },
    charlm_corpus: {
        "explore": {"rows": 2, "top": 2, "stop_words": True},
        "compare": {
            "checkpoint": "runs/x",
            "weights": "last",
            "start": "a",
            "song": "a",
            "chars": 7,
            "samples": 2,
        }
        | {"device": "cpu", "threads": 1, "no_repeat": 9, "temperature": 0.5, "top_k": 7, "top_p": 0.5}
        | {"min_p": 0.5, "beam_width": 2, "alpha": 0.5},
        "": {"strategy": "top_k"},  # compare takes every one
    },
}


@pytest.mark.parametrize(
    ("script", "task"), [(script, task) for script, tasks in READ.items() for task in tasks if task]
)
def test_a_flag_that_the_task_does_not_read_is_refused(script, task, monkeypatch):
    """The other flags are accepted."""
    for reader, flags in READ[script].items():
        for name, value in flags.items():
            given = {"task": task, name: value} | (
                {} if task in ("train", "explore") else {"checkpoint": "runs/x"}
            )
            cfg = parse(script.Config, [f"--{k}={v}" for k, v in given.items()])
            monkeypatch.setattr(flags_module, "GIVEN", set(given))
            if reader == task:
                refuse_idle(cfg)
                continue
            with pytest.raises(UserError, match=rf"^--{name}={value}: --task={task} does not read it, only "):
                refuse_idle(cfg)


def test_compare_takes_no_flag_of_the_text_from_the_command_line(place, monkeypatch, capsys):
    """Its model has learned the text as its own run read it."""
    args = ["--task=compare", f"--checkpoint={place}/runs/tiny", "--lower=True", "--wandb=disabled"]
    monkeypatch.setattr(sys, "argv", ["charlm_corpus.py", *args])
    with pytest.raises(SystemExit, match="2"):
        main(charlm_corpus.Config, charlm_corpus.explore, tasks="research.tasks.charlm_corpus")
    said = " ".join(capsys.readouterr().err.split())
    assert "--lower=True: must be False, as in the run of --checkpoint" in said


def test_quiet_says_only_what_was_asked_for(place, capsys):
    compared(place, chars=5, quiet=True)
    printed = capsys.readouterr()
    news.quiet = False
    assert printed.err == "" and "greedy" in printed.out


def test_the_page_tells_what_the_songs_figures_prove():
    """Each row of the table is the mean over a strategy's songs; so are the figures in the text beside it."""
    songs = pd.read_csv(ROOT / "sweeps/results/charlm_songs.csv", keep_default_na=False)
    words = (ROOT / "docs/charlm.md").read_text().split("## A hundred epochs of songs")[1]
    for strategy in STRATEGIES:
        cells = []
        for n in (0, 12):
            mine = songs[(songs["strategy"] == strategy) & (songs["no_repeat"] == n)]
            assert len(mine) == (9 if strategy in DRAWN else 3) and mine["start"].nunique() == 3
            figures = {"known_words": 3, "repetition": 3, "distinct_1": 2}
            cells += [f"{mine[k].mean():.{digits}f}" for k, digits in figures.items()]
        row = rf"(?m)^\| {strategy}[ \d.]* \| {re.escape(' | '.join(cells))} \|$"
        assert re.search(row, words), (strategy, cells)
    loops = songs[(songs["repetition"] > 0.5)]
    assert {*loops["strategy"]} == {"greedy", "beam"} and {*loops["no_repeat"]} == {0}
    assert len(loops) == 6  # all of both
