"""What a trained character model writes and knows: text and numbers from a checkpoint.

Run     python research/charlm.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
Tasks   generate   --chars characters behind --start, by --strategy; --samples texts, of which one alone is
                   shown while it is made
        evaluate   bits per character of the test part or of --text; for held-out lines which characters the
                   model held for the most probable, given the true ones before, and what it writes itself
Flags   The model's flags and its alphabet come from the checkpoint. So do --dataset and --data_dir, unless
        they were given; a value equal to the flag's default counts as not given. --seed is the task's own.
Python  from research.tasks.charlm import generate_lyrics
        generate_lyrics("To be", 200, checkpoint="runs/<run>")
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data import DataError, text
from data.characters import Cleaning, read_chunks
from data.terminal import readable
from research import charlm as script
from research.common.checkpoints import load_file, load_weights
from research.common.messages import UserError, console, escape
from research.common.randomness import make_rng
from research.common.start import pick_device
from research.common.task import Task, find_run, flags_of_run, start_task
from research.parts import charlm_pages as pages
from research.parts.charlm_sampling import Decoding, generate, statistics, writer
from research.parts.text_flags import load_text

N_LINES, LINE_PROMPT = 12, 16  # held-out lines that are shown, and their characters that are given
LINE_LIMIT = 200  # characters of a line that are shown: some texts have a chapter in one


def load_model(cfg: script.Config, device: torch.device) -> tuple[nn.Module, str, Path, dict[str, Any]]:
    """The model of --checkpoint on `device`, its alphabet, its file and its run's config.json."""
    file, run_config = find_run(cfg, "charlm")
    cfg = flags_of_run(cfg, run_config)
    try:
        alphabet = "".join(map(chr, load_file(file)["states"][0]["alphabet"].tolist()))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"--checkpoint={cfg.checkpoint}: no character model") from None
    return load_weights(cfg, script.build(cfg, alphabet, device), file).eval(), alphabet, file, run_config


def known(given: str, cfg: script.Config, alphabet: str, what: str) -> str:
    """`given` as the run's --normalize and --lower have it, without the characters that the model has never
    seen; how many those are is printed.
    """
    given = Cleaning(cfg.normalize, cfg.lower).rewrite(readable(given))
    if strange := text.unknown(given, alphabet):
        shown = " ".join(map(repr, strange[:20])) + (" ..." if len(strange) > 20 else "")
        n = sum(c in strange for c in given)
        left_out = f"[yellow]{escape(what)}: {n:,} characters left out[/]"
        console.print(f"{left_out}, the model has never seen {escape(shown)}")
    return "".join(c for c in given if c in alphabet)


def prompt_of(given: str, alphabet: str, device: torch.device) -> Tensor:
    """Tokens (1, P) that the model reads first: of an empty text the end of the line, or song, before it."""
    begin = next((c for c in (text.SONG_END, "\n", " ") if c in alphabet), alphabet[0])
    return text.encode(given or begin, alphabet).long()[None].to(device)


def generate_lyrics(
    starting_string: str,
    char_count: int,
    checkpoint: str,
    strategy: str = "top_p",
    seed: int = 0,
    **flags: Any,
) -> str:
    """`starting_string` and exactly `char_count` characters behind it, by the model of `checkpoint`.

    flags: others of research/charlm.py (temperature, top_k, device ...). Raises UserError for a wrong value.
    """
    cfg = script.Config(
        task="generate",
        checkpoint=checkpoint,
        start=starting_string,
        chars=char_count,
        strategy=strategy,
        seed=seed,
        **flags,
    )
    device = pick_device(cfg.device)
    model, alphabet, _, run_config = load_model(cfg, device)
    cfg = flags_of_run(cfg, run_config)
    prompt = prompt_of(known(starting_string, cfg, alphabet, "starting_string"), alphabet, device)
    pen = writer(model, cfg.cut, alphabet)
    made = generate(pen, prompt, char_count, cfg, make_rng(seed, 0, "pictures"))
    return starting_string + text.decode(made[0], alphabet)


# ------------------------------------------------------------------------------------------------ generate


def write(cfg: script.Config, model: nn.Module, alphabet: str, task: Task) -> dict[str, Any]:
    """Texts by --strategy; with figures of what they repeat and, where the data is there, what they copy."""
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
    made = generate(pen, prompt, cfg.chars, cfg, task.rng(), show if alone else None)
    texts = [given + text.decode(row, alphabet) for row in made]
    print("" if alone else "\n\n".join(f"--- {i}\n{t}" for i, t in enumerate(texts, 1)))

    try:
        splits = load_text(cfg)
        training = text.decode(splits.train[: script.COPY_LIMIT], splits.alphabet)
    except DataError as error:
        console.print(f"[yellow]what is copied from the training text is not known[/]: {escape(str(error))}")
        training = None
    figures = [statistics(t[len(given) :], training or "") for t in texts]
    if training is None:
        for row in figures:
            row.pop("copied")
            row.pop("known_words")

    rows = [
        [str(i), pages.literal(t), *(f"{v:.3g}" for v in f.values())]
        for i, (t, f) in enumerate(zip(texts, figures, strict=True), 1)
    ]
    title = f"{cfg.model}, {cfg.strategy}: {cfg.chars:,} characters behind {given!r}"
    task.html("texts", pages.page(title, pages.table(rows, ["", "text", *figures[0]])))
    return {"start": given, "strategy": cfg.strategy, "texts": texts} | {
        key: sum(f[key] for f in figures) / len(figures) for key in figures[0]
    }


# ------------------------------------------------------------------------------------------------ evaluate


def held_out_part(cfg: script.Config, alphabet: str, trained_on: str | None) -> tuple[script.Part, str]:
    """The test part of the text, and what it is."""
    splits = load_text(cfg)
    if splits.alphabet != alphabet:
        raise UserError(
            f"--dataset={cfg.dataset}: not the text that the model learned; with --text=FILE "
            "any text can be scored"
        )
    name = f"test part of {splits.name}"
    if splits.content_hash != trained_on:
        console.print(
            f"[yellow]{escape(name)}: not the text of the training[/], which may have had this part"
        )
    return script.part_of(splits, "test", cfg), name


def part_of_file(cfg: script.Config, alphabet: str) -> tuple[script.Part, str]:
    """The text in --text=FILE as the model can read it, and the file's name."""
    what = f"--text={cfg.text}"
    try:
        given = "".join(read_chunks(Path(cfg.text), what))
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
    """At most N_LINES lines, spread over the first million characters, that are longer than their prompt."""
    if cfg.pos == "learned" and cfg.seq_len <= LINE_PROMPT + 8:
        return []  # the table of positions has no room for a prompt and more
    lines = [line + "\n" for line in text.decode(part.ids[:1_000_000], alphabet).split("\n")[1:-1]]
    lines = [line[:LINE_LIMIT] for line in lines if len(line) > LINE_PROMPT + 8]
    return lines[:: max(1, len(lines) // N_LINES)][:N_LINES]


def score(
    cfg: script.Config, model: nn.Module, alphabet: str, task: Task, trained_on: str | None
) -> dict[str, Any]:
    """Bits per character of the test part, or of --text by the same windows; held-out lines, marked."""
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
    """Do --task on --checkpoint; returns what results.json says. Raises UserError and DataError."""
    device = pick_device(cfg.device)
    model, alphabet, file, run_config = load_model(cfg, device)
    cfg = flags_of_run(cfg, run_config)
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
