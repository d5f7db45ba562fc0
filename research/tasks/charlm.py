"""What a trained character model writes, and how well it predicts: text and numbers from a checkpoint.

Run     python research/charlm.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
Tasks   generate   writes --samples texts of --chars characters after --start, by --strategy; a single text is
                   shown while it is written
        evaluate   bits per character of the test part or of --text; for held-out lines, which characters were
                   the model's most probable ones given the true ones before, and what it writes by itself
Flags   The model's flags and its alphabet come from the checkpoint. So do --dataset and --data_dir, unless
        they were given; a value equal to the flag's default counts as not given. --seed is the task's own.
Draws   Each text has its own random draws, which depend only on (seed, start, strategy, number): with more
        --samples, the first texts stay the same.
Python  from research.tasks.charlm import LyricsGenerator
        LyricsGenerator("I walk", 300)      # with the newest model of songs, or checkpoint="runs/<run>"
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data import DataError, text
from data.characters import Cleaning
from data.lyrics import ENDINGS
from data.terminal import readable
from data.text_files import read_chunks
from research import charlm as script
from research.common.checkpoints import load_weights
from research.common.folder import CONFIG, STATUS, read_json
from research.common.messages import UserError, console, escape
from research.common.randomness import make_rng
from research.common.start import pick_device
from research.common.task import Task, find_run, flags_of_run, start_task
from research.parts import charlm_pages as pages
from research.parts.charlm_sampling import Decoding, generate, refuse_unread, statistics, writer
from research.parts.text_flags import load_text

N_LINES, LINE_PROMPT = 12, 16  # held-out lines that are shown; characters of each that are given
LINE_LIMIT = 200  # characters of a line that are shown: some texts have a whole chapter in one line
ROOT = Path(__file__).resolve().parents[2]


def load_model(
    cfg: script.Config, device: torch.device
) -> tuple[script.Config, nn.Module, str, Path, dict[str, Any]]:
    """`cfg` with the flags of the run of --checkpoint; its model on `device`, its alphabet, the checkpoint's
    file and the run's config.json.
    """
    file, run_config = find_run(cfg, "charlm")
    cfg = flags_of_run(cfg, run_config, *(["precision"] if cfg.task == "evaluate" else []))
    alphabet = script.alphabet_of(cfg, file)
    model = load_weights(cfg, script.build(cfg, alphabet, device), file).eval()
    return cfg, model, alphabet, file, run_config


def known(given: str, cfg: script.Config, alphabet: str, what: str) -> str:
    """`given` after the run's --normalize and --lower, without the characters that the model has never seen.
    If there are any, a line says how many. what: the name of the text in this line.
    """
    given = Cleaning(cfg.normalize, cfg.lower).rewrite(readable(given))
    if strange := text.unknown(given, alphabet):
        shown = " ".join(map(repr, strange[:20])) + (" ..." if len(strange) > 20 else "")
        n = sum(c in strange for c in given)
        left_out = f"[yellow]{escape(what)}: {n:,} characters left out[/]"
        console.print(f"{left_out}, because the model has never seen {escape(shown)}")
    return "".join(c for c in given if c in alphabet)


def prompt_of(given: str, alphabet: str, device: torch.device) -> Tensor:
    """Tokens (1, P) that the model reads first; for an empty text, the end of a previous line or song."""
    begin = next((c for c in (text.SONG_END, "\n", " ") if c in alphabet), alphabet[0])
    return text.encode(given or begin, alphabet).long()[None].to(device)


def draws(cfg: script.Config, start: str, n: int) -> Sequence[torch.Generator]:
    """A generator for each of n texts after `start`; it depends only on (seed, start, strategy, number)."""
    return [make_rng(cfg.seed, 0, "pictures", of=(start, cfg.strategy, i)) for i in range(n)]


def newest_songs(out: str) -> Path:
    """The folder of the character model's run on a CSV of songs that finished last.

    It is looked for in the folder `out`, relative to the working directory, or else to the root of this
    repository, as a notebook needs it. Raises UserError if there is none.
    """
    place = Path(out) if Path(out).is_dir() else ROOT / out
    found = []
    for file in (*place.glob(f"*/{CONFIG}"), *place.glob(f"*/*/{CONFIG}")):  # runs, and runs of sweeps
        config, status = read_json(file) or {}, read_json(file.with_name(STATUS)) or {}
        songs = {*ENDINGS} & {*Path(str(config.get("flags", {}).get("dataset")).lower()).suffixes}
        finished = status.get("status") == "finished" and ".old-" not in file.parent.name
        if config.get("family") == "charlm" and songs and finished:
            found.append(file.parent)
    if not found:
        raise UserError(
            f"LyricsGenerator: {place} holds no finished run of research/charlm.py on a CSV of songs; make "
            "one with `python research/charlm.py --dataset=songs.csv --model=lstm`, or give checkpoint=FOLDER"
        )
    return max(found, key=lambda folder: (folder / STATUS).stat().st_mtime)


def LyricsGenerator(
    starting_string: str,
    char_count: int,
    checkpoint: str | Path | None = None,
    strategy: str = "top_p",
    seed: int = 0,
    **flags: Any,
) -> str:
    """`starting_string`, followed by exactly `char_count` characters that a trained model writes.

    checkpoint: the folder of the model's run; by default the newest run on a CSV of songs, whose name is
    printed. flags: other flags of research/charlm.py (temperature, no_repeat ...). Raises UserError for a
    wrong value.
    """
    if checkpoint is None:
        checkpoint = newest_songs(flags.get("out", script.Config.out))
        console.print(f"LyricsGenerator: the model of {escape(str(checkpoint))}")
    how = {"start": starting_string, "chars": char_count, "strategy": strategy, "seed": seed}
    cfg = script.Config(task="generate", checkpoint=str(checkpoint), **how, **flags)
    refuse_unread(cfg)
    device = pick_device(cfg.device)
    cfg, model, alphabet, *_ = load_model(cfg, device)
    given = known(starting_string, cfg, alphabet, "starting_string")
    prompt, pen = prompt_of(given, alphabet, device), writer(model, cfg.cut, alphabet)
    made = generate(pen, prompt, char_count, cfg, draws(cfg, given, 1))
    return starting_string + text.decode(made[0], alphabet)


# ------------------------------------------------------------------------------------------------ generate


def write(cfg: script.Config, model: nn.Module, alphabet: str, task: Task) -> dict[str, Any]:
    """Texts by --strategy, with figures of repetition and, if the training text can be read, of copying."""
    given = known(cfg.start, cfg, alphabet, "--start")
    prompt = prompt_of(given, alphabet, task.device).expand(cfg.samples, -1)

    def show(ids: Tensor) -> None:
        sys.stdout.write(text.decode(ids, alphabet))
        sys.stdout.flush()

    # a single text is shown while it is made, several of them at the end
    alone = cfg.samples == 1
    if alone:
        sys.stdout.write(given)
    pen = writer(model, cfg.cut, alphabet)
    made = generate(pen, prompt, cfg.chars, cfg, draws(cfg, given, cfg.samples), show if alone else None)
    texts = [given + text.decode(row, alphabet) for row in made]
    print("" if alone else "\n\n".join(f"--- {i}\n{t}" for i, t in enumerate(texts, 1)))

    try:
        splits = load_text(cfg)
        training = text.decode(splits.train[: script.COPY_LIMIT], splits.alphabet)
    except DataError as error:
        console.print(
            f"[yellow]it is not known what is copied from the training text[/]: {escape(str(error))}"
        )
        training = None
    figures = [statistics(t[len(given) :], training or "") for t in texts]
    if training is None:
        for row in figures:
            row.pop("copied")
            row.pop("known_words")

    rows = []
    for i, (t, f) in enumerate(zip(texts, figures, strict=True), 1):
        rows.append([str(i), pages.written_text(t, f, cfg.no_repeat), *(f"{v:.3g}" for v in f.values())])
        if said := pages.loops(f, cfg.no_repeat):
            console.print(f"[yellow]text {i}[/] {said}")
    title = f"{cfg.model}, {cfg.strategy}: {cfg.chars:,} characters after {given!r}"
    task.html("texts", pages.page(title, pages.table(rows, ["", "text", *figures[0]])))
    return {"start": given, "strategy": cfg.strategy, "texts": texts} | {
        key: sum(f[key] for f in figures) / len(figures) for key in figures[0]
    }


# ------------------------------------------------------------------------------------------------ evaluate


def held_out_part(cfg: script.Config, alphabet: str, trained_on: str | None) -> tuple[script.Part, str]:
    """The test part of --dataset, and what it is, in words. Raises UserError and DataError.

    trained_on: hash of the text of the training; if it is another text, a line warns.
    """
    splits = load_text(cfg)
    if splits.alphabet != alphabet:
        raise UserError(
            f"--dataset={cfg.dataset}: not the text that the model learned; with --text=FILE "
            "any text can be scored"
        )
    name = f"test part of {splits.name}"
    if splits.content_hash != trained_on:
        console.print(
            f"[yellow]{escape(name)}: not the text of the training[/], which may have contained this part"
        )
    return script.part_of(splits, "test", cfg), name


def part_of_file(cfg: script.Config, alphabet: str) -> tuple[script.Part, str]:
    """The characters of --text=FILE that the model knows; the file's name. Raises UserError and DataError."""
    what = f"--text={cfg.text}"
    try:
        given = "".join(read_chunks(Path(cfg.text), what, cfg.encoding))
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}") from None
    whole = known(given, cfg, alphabet, what)
    if len(whole) < 2:
        raise UserError(f"{what}: must have at least two characters that the model knows")
    ends = [len(whole)]
    if cfg.cut == "lines":
        lines = [line + "\n" for line in whole.split("\n") if line.strip()]
        whole, ends = "".join(lines), torch.tensor([len(line) for line in lines]).cumsum(0).tolist()
    part = script.rows_of(text.encode(whole, alphabet), torch.tensor([0, *ends]), cfg)
    return part, readable(Path(cfg.text).name)


def lines_to_show(cfg: script.Config, part: script.Part, alphabet: str) -> list[str]:
    """At most N_LINES lines, spread over the first million characters, that are longer than a prompt."""
    if cfg.pos == "learned" and cfg.seq_len <= LINE_PROMPT + 8:
        return []  # the table of positions has no room for more than a prompt
    lines = [line + "\n" for line in text.decode(part.ids[:1_000_000], alphabet).split("\n")[1:-1]]
    lines = [line[:LINE_LIMIT] for line in lines if len(line) > LINE_PROMPT + 8]
    return lines[:: max(1, len(lines) // N_LINES)][:N_LINES]


def score(
    cfg: script.Config, model: nn.Module, alphabet: str, task: Task, trained_on: str | None
) -> dict[str, Any]:
    """Bits per character of the test part, or of --text cut into the same windows; a page of held-out lines
    whose characters are marked as right or wrong.
    """
    if cfg.text is None:
        part, name = held_out_part(cfg, alphabet, trained_on)
    else:
        part, name = part_of_file(cfg, alphabet)
    scored = script.evaluate(model, part, "text", cfg, task.device)

    rows, right, pen = [], [], writer(model, cfg.cut, alphabet)
    for line in lines_to_show(cfg, part, alphabet):
        ids = text.encode(line, alphabet).long()[None].to(task.device)
        n = LINE_PROMPT
        with torch.no_grad():
            window = ids[:, : cfg.seq_len + 1] if cfg.pos == "learned" else ids
            best = model(window[:, :-1])[0, n - 1 :].argmax(1)
        rest = window[0, n:]
        free = generate(pen, ids[:, :n], len(rest), Decoding(strategy="greedy"), task.rng())[0]
        ok = (best == rest).tolist()
        right += ok
        rest = text.decode(rest, alphabet)
        rows.append((line[:n], rest, ok, text.decode(free, alphabet), rest))
    if rows:
        about = (
            f"Of each line the first {LINE_PROMPT} characters are given. Green: the model's most "
            "probable character is the true one."
        )
        task.html("lines", pages.correctness(rows, f"{cfg.model} on lines of the {name}", about))
    return {
        "text": name,
        "characters": int(part.lengths.sum()),
        "loss": scored["text/loss"],
        "bpc": scored["text/bpc"],
        "perplexity": math.exp(scored["text/loss"]),
        "lines_right": sum(right) / len(right) if right else None,
    }


# ------------------------------------------------------------------------------------------------ entry


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task with --checkpoint; returns the content of results.json. Raises UserError and DataError."""
    if cfg.task == "generate":
        refuse_unread(cfg)
    device = pick_device(cfg.device)
    encoding = cfg.encoding  # the one given here is that of --text; the run's is that of its --dataset
    cfg, model, alphabet, file, run_config = load_model(cfg, device)
    if cfg.text is not None:
        cfg = dataclasses.replace(cfg, encoding=encoding)
    task = start_task(cfg, file, run_config)
    trained_on = run_config.get("data_hash")
    results = {"model": cfg.model, "trained_on_data_hash": trained_on}
    if cfg.task == "generate":
        results |= write(cfg, model, alphabet, task)
    else:
        results |= score(cfg, model, alphabet, task, trained_on)
    task.numbers(results)
    task.finish()
    return results
