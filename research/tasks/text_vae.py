"""What a trained text VAE writes and knows: sentences, interpolations and numbers, from a checkpoint.

Run     python research/text_vae.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
        python research/text_vae.py --task=twist --text=path/to/any.txt     # needs no model
Tasks   generate     --samples sentences from random codes by --strategy, each beginning with --start
        interpolate  sentences from codes between those of --sentence and --sentence2, on the line and along
                     the great arc
        evaluate     the figures of the test part; how often an archaic line becomes modern when its code is
                     moved in the direction from archaic to modern lines; how plausible samples are
        twist        rewrites any text in today's English (--twist=modern) or in slang, by rules; it writes
                     to standard output
Flags   The model's flags come from the checkpoint's run. So do --dataset and --data_dir, unless they were
        given; a value equal to the flag's default counts as not given. --seed is the task's own.
Shapes  N sentences, D latents; codes (N, D).
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from data import DataError
from data.sentences import MAX_LENGTH, SentenceSplits, Vocabulary
from data.terminal import readable
from data.text_files import read_whole
from research import text_vae as script
from research.common.checkpoints import load_weights
from research.common.flags import require
from research.common.messages import UserError, console, escape
from research.common.randomness import make_rng
from research.common.start import pick_device
from research.common.task import Task, find_run, flags_of_run, start_task
from research.measure import latents
from research.parts import text_vae_pages as pages
from research.parts.charlm_sampling import DRAWN, Decoding, refuse_unread
from research.parts.modern_english import RULES, applied, archaic_forms, modernise
from research.parts.text_vae_writing import Writer, write_sentences

N_TRAIN_LINES, N_LINES = 5000, 400  # archaic lines, at most: to find the direction, and to be moved
STEPS = (0.0, 0.5, 1.0, 1.5, 2.0)  # lengths of the move, in units of the difference of the means


def load_model(
    cfg: script.Config, device: torch.device
) -> tuple[script.Config, script.TextVAE, Vocabulary, Path, dict[str, Any]]:
    """`cfg` with the flags of the run of --checkpoint; its model on `device`, its vocabulary, the
    checkpoint's file and the run's config.json. Raises UserError, which names --checkpoint.
    """
    file, run_config = find_run(cfg, "text_vae")
    cfg = flags_of_run(cfg, run_config)
    vocabulary = script.vocabulary_of(cfg, file)
    model = load_weights(cfg, script.build(cfg, vocabulary, device), file).eval()
    return cfg, model, vocabulary, file, run_config


def data_of(cfg: script.Config, vocabulary: Vocabulary) -> SentenceSplits:
    """The sentences of --dataset. Raises DataError if their tokens are not those that the model knows."""
    data = script.load_data(cfg)
    if data.vocabulary != vocabulary:
        raise DataError(f"--dataset={cfg.dataset}: must have the tokens that the model of --checkpoint knows")
    return data


def twisted(text: str, twist: str) -> str:
    """The text rewritten as --twist says."""
    return text if twist == "none" else modernise(text, twist)


def ids_of(sentence: str, vocabulary: Vocabulary, cfg: script.Config, flag: str) -> list[int]:
    """Ids of a sentence given by a flag; may be empty. Tokens that the model has never seen are printed."""
    sentence = readable(sentence.lower() if cfg.lower else sentence)
    ids = vocabulary.read(sentence).tolist()
    parts = sentence if vocabulary.level == "bpe" else vocabulary.split(sentence)
    strange = [part for part in parts if script.UNK in vocabulary.read(part)]
    if strange:
        shown = " ".join(map(repr, strange[:20]))
        console.print(f"[yellow]--{flag}: the model has never seen[/] {escape(shown)}")
    return ids


# ------------------------------------------------------------------------------------------------ generate


def generate(cfg: script.Config) -> dict[str, Any]:
    """--samples sentences from random codes, and the same sentences rewritten by --twist."""
    refuse_unread(cfg)
    device = pick_device(cfg.device)
    cfg, model, vocabulary, file, run_config = load_model(cfg, device)
    varies = cfg.latent_dim > 0 or cfg.samples == 1 or cfg.strategy in DRAWN
    only = f"1 with --strategy={cfg.strategy} of a language model, which always writes the same text"
    require(varies, cfg, "samples", only)
    task = start_task(cfg, file, run_config)
    start = ids_of(cfg.start, vocabulary, cfg, "start")
    longest = cfg.length or cfg.max_length or MAX_LENGTH[cfg.level]
    if longest <= len(start):
        raise UserError(f"--length={longest}: must be above the {len(start)} tokens of --start")
    own = [make_rng(cfg.seed, 0, "pictures", of=("code", i)) for i in range(cfg.samples)]
    z = torch.stack([torch.randn(cfg.latent_dim, generator=rng) for rng in own]).to(device)
    draws = [make_rng(cfg.seed, 0, "pictures", of=(cfg.start, cfg.strategy, i)) for i in range(cfg.samples)]
    ids = write_sentences(writer_of(model, z, cfg), cfg, draws, longest - len(start), start)
    written = [vocabulary.write(row) for row in ids.tolist()]
    after = [twisted(text, cfg.twist) for text in written]
    for text in after:
        print(text)
    title = f"Sentences of random codes, {cfg.strategy}"
    if cfg.twist == "none":
        task.html("sentences", pages.random_page({cfg.strategy: written}, title))
    else:
        task.html("sentences", pages.twisted_page(written, after, f"{title}; twist: {cfg.twist}"))
    results = {"strategy": cfg.strategy, "twist": cfg.twist, "sentences": written, "twisted": after}
    results["archaic_before"], results["archaic_after"] = (share_archaic(some) for some in (written, after))
    task.numbers(results)
    task.finish()
    return results


def writer_of(model: script.TextVAE, z: Tensor, cfg: script.Config) -> Writer:
    """A writer of sentences from the codes z (N, D); for a language model, with D = 0, of N sentences."""
    return Writer(model, z if cfg.latent_dim else None, len(z))


def share_archaic(lines: list[str]) -> float:
    """Share of lines in which the rules find an archaic form; 0 if there are no lines."""
    return sum(bool(archaic_forms(line)) for line in lines) / max(1, len(lines))


# ------------------------------------------------------------------------------------------------ interpolate


def interpolate(cfg: script.Config) -> dict[str, Any]:
    """Sentences from codes between those of two sentences; without --sentence, of random test sentences."""
    device = pick_device(cfg.device)
    cfg, model, vocabulary, file, run_config = load_model(cfg, device)
    require(cfg.latent_dim > 0, cfg, "checkpoint", "a run with codes; this is a language model")
    task = start_task(cfg, file, run_config)
    asked = {flag: getattr(cfg, flag) for flag in ("sentence", "sentence2")}
    others = iter(())
    if not all(asked.values()):
        data = data_of(cfg, vocabulary)
        two = torch.randperm(len(data.test), generator=task.rng())[:2].tolist()
        others = iter([data.test.ids(i).tolist() for i in two])
    given = []
    for flag, own in asked.items():
        ids = ids_of(own, vocabulary, cfg, flag) if own else next(others)
        require(len(ids) > 0, cfg, flag, "a sentence of at least one token")
        given.append(torch.tensor([ids], device=device))
    ends = [model.encode(x, torch.tensor([x.shape[1]], device=device))[0][0] for x in given]
    truth = [vocabulary.write(x[0].tolist()) for x in given]
    longest, t = 2 * max(x.shape[1] for x in given) + 10, torch.linspace(0, 1, 9)
    results: dict[str, Any] = {"from": truth[0], "to": truth[1], "twist": cfg.twist}
    for name, way in (("linear", latents.lerp), ("spherical", latents.slerp)):
        codes = way(ends[0].cpu(), ends[1].cpu(), t).to(device)
        ids = write_sentences(Writer(model, codes), Decoding(strategy="greedy"), torch.Generator(), longest)
        results[name] = [twisted(vocabulary.write(row), cfg.twist) for row in ids.tolist()]
        task.html(name, pages.way_page(truth, results[name], f"Between the codes of two sentences, {name}"))
    for text in results["linear"]:
        print(text)
    task.numbers(results)
    task.finish()
    return results


# ------------------------------------------------------------------------------------------------ evaluate


def evaluate(cfg: script.Config) -> dict[str, Any]:
    """The figures of the test part, the plausibility of samples, and the direction from archaic to modern
    lines.
    """
    device = pick_device(cfg.device)
    cfg, model, vocabulary, file, run_config = load_model(cfg, device)
    data = data_of(cfg, vocabulary)
    task = start_task(cfg, file, run_config)
    test = script.Sentences(data.test, device)
    results: dict[str, Any] = {"data": data.name, "data_hash": data.content_hash, "about": data.report}
    results |= {k.removeprefix("test/"): v for k, v in script.final(model, test, data, cfg).items()}
    training = [vocabulary.write(data.train.ids(s)) for s in range(len(data.train))]
    held_out = [vocabulary.write(data.test.ids(s)) for s in range(min(script.N_WRITTEN, len(data.test)))]
    results |= {f"text_{k}": v for k, v in pages.plausibility(held_out, training).items()}
    if cfg.latent_dim:
        results |= direction(model, data, cfg, device, task)
    task.numbers(results)
    task.finish()
    return results


def direction(
    model: script.TextVAE, data: SentenceSplits, cfg: script.Config, device: torch.device, task: Task
) -> dict[str, Any]:
    """Move the codes of archaic test lines in a direction from archaic to modern ones, and report how often
    the rules find no archaic form in the resulting sentences.

    The direction is the mean code of modernised training lines minus that of the same lines as they are.
    """
    vocabulary = data.vocabulary
    pairs = {}
    for name in ("train", "test"):
        part = getattr(data, name)
        lines = [vocabulary.write(part.ids(s)) for s in range(len(part))]
        pairs[name] = [line for line in lines if archaic_forms(line)]
    train, test = pairs["train"][:N_TRAIN_LINES], pairs["test"][:N_LINES]
    found: dict[str, Any] = {"n_archaic_train": len(train), "n_archaic": len(test)}
    if min(len(train), len(test)) < 2:
        console.print("[yellow]too few archaic lines[/] for a direction from archaic to modern ones")
        return found
    step = (
        codes(model, [modernise(x) for x in train], vocabulary, device)
        - codes(model, train, vocabulary, device)
    ).mean(0)
    mu, longest = codes(model, test, vocabulary, device), int(data.train.lengths.max())
    found["modern_after_move"] = {}
    shown = {}
    for size in STEPS:
        ids = write_sentences(
            Writer(model, mu + size * step), Decoding(strategy="greedy"), torch.Generator(), longest
        )
        written = [vocabulary.write(row) for row in ids.tolist()]
        found["modern_after_move"][f"{size:g}"] = 1 - share_archaic(written)
        shown[f"moved by {size:g}"] = written[:12]
    columns = {"line": test[:12], "by the rules": [modernise(x) for x in test[:12]]} | shown
    task.html(
        "direction", pages.random_page(columns, "Archaic lines, and their codes moved towards modern ones")
    )
    return found


def codes(model: script.TextVAE, lines: list[str], vocabulary: Vocabulary, device: torch.device) -> Tensor:
    """The codes (N, D) of N lines: the means of q(z|x)."""
    found = []
    for i in range(0, len(lines), 500):
        rows = [torch.from_numpy(vocabulary.read(line)).long() for line in lines[i : i + 500]]
        lengths = torch.tensor([max(1, len(row)) for row in rows], device=device)
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=script.PAD).to(device)
        with torch.no_grad():
            found.append(model.encode(tokens, lengths)[0])
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ twist


def twist(cfg: script.Config) -> dict[str, Any]:
    """Rewrite a text by rules, to standard output; standard error says how much was changed."""
    require(cfg.twist != "none", cfg, "twist", "modern or slang with --task=twist")
    require(cfg.checkpoint is None, cfg, "checkpoint", "left out with --task=twist, which reads no model")
    if cfg.text is not None:
        path = Path(cfg.text).expanduser()
        require(path.is_file(), cfg, "text", "an existing text file")
        whole, _ = read_whole(path, f"--text={cfg.text}", cfg.encoding)
    else:
        try:
            whole = sys.stdin.buffer.read().decode(cfg.encoding or "utf-8")
        except (UnicodeDecodeError, LookupError) as error:
            raise UserError(
                f"standard input is not text ({error}); --encoding says which encoding it has"
            ) from None
    pieces = re.split(r"(\n[ \t]*\n)", whole)  # paragraphs, and the blank lines between them
    counts: Counter[str] = Counter()
    hidden = not console.is_terminal
    for piece in track(pieces, "rewriting", console=console, transient=True, disable=hidden):
        sys.stdout.write(modernise(piece, cfg.twist))
        counts += applied(piece, cfg.twist)
    n, of = sum(counts.values()), len(counts)
    console.print(f"{n:,} changes by {of} of {len(RULES)} rules")
    return {"changes": n, "rules": dict(counts)}


RUNS = {"generate": generate, "interpolate": interpolate, "evaluate": evaluate, "twist": twist}


@torch.no_grad()
def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task; returns the content of results.json. Raises UserError and DataError."""
    return RUNS[cfg.task](cfg)
