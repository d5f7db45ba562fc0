"""What a trained arithmetic model answers: to a query of yours, to the test part; and its mistakes.

Run     python research/seq2seq_arith.py --task=TASK --checkpoint=runs/<run>; files go to runs/<run>/TASK/
Tasks   ask        answers --query: how probable each character is, where the decoder looked (attention), and
                   pictures of the query or of the answer if the model's --mode has them
        evaluate   exact match and share of right characters on the test part; exact match also by operator,
                   length and carry
        mistakes   the same, with the kinds of mistakes, a map of them, and wrong answers of every kind;
                   if the model's --mode has pictures, also the handwriting that was misread or what was
                   drawn
Flags   The model's flags come from the checkpoint. So do --dataset and --data_dir, unless they were given; a
        value equal to the flag's default counts as not given. --seed is the task's own; it chooses the
        handwriting of pictures.
        --digits is the largest number of digits of an operand that is asked. If it is smaller than in
        training, those queries of the model's test part are asked whose operands are not longer. If it is
        larger, queries are asked that are longer than any in training: an LSTM can read them, but has never
        seen such ones.
"""

import base64
import dataclasses
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data import arithmetic
from data.arithmetic import Queries
from research import seq2seq_arith as script
from research.common.checkpoints import load_weights
from research.common.flags import GIVEN, require
from research.common.messages import console
from research.common.start import pick_device
from research.common.task import Task, find_run, flags_of_run, start_task
from research.draw import pages, pictures
from research.draw.charts import bars, heatmap
from research.parts import seq2seq_mistakes as mistakes

N_OF_A_KIND = 20  # wrong answers of each kind that are shown on the page
N_IN_PICTURE = 5  # wrong answers of each kind in the picture of what was read or drawn


# ------------------------------------------------------------------------------------------------ digits


def with_digits(cfg: script.Config, digits: int, model: torch.nn.Module) -> tuple[script.Config, script.Data]:
    """Data whose test part has queries that the model of `cfg` was not trained on, with operands of at most
    `digits` digits; and `cfg` with the number of digits with which they are written.

    For more digits than the model learned, its answer_width is changed. Raises UserError if the model cannot
    read such queries, DataError if there are none.
    """
    learned = cfg.digits
    if digits > learned:
        asked = dataclasses.replace(cfg, digits=digits)
        what = (
            f"at most {learned}, the digits of this run: a transformer has learned no positions beyond these"
        )
        require(cfg.model == "lstm", asked, "digits", what)
        model.answer_width = arithmetic.answer_width(cfg.ops, digits)
        cfg = asked
    data = script.load_data(cfg)
    test, splits = data.splits.test, data.splits
    longest = torch.maximum(test.a, test.b)
    if digits > learned:
        kept, name = longest >= 10**learned, f"{splits.name}, asked of a {learned}-digit model"
    elif digits < learned:
        kept, name = longest < 10**digits, f"{digits}-digit {cfg.ops}, asked of a {learned}-digit model"
    else:
        return cfg, data
    if not kept.any():
        raise arithmetic.DataError(f"--digits={digits}: no such query is in the test part of this run")
    test = Queries(*(getattr(test, field.name)[kept] for field in dataclasses.fields(Queries)))
    return cfg, dataclasses.replace(data, splits=dataclasses.replace(splits, name=name, test=test))


# ------------------------------------------------------------------------------------------------ evaluate


def all_answers(
    cfg: script.Config, model: torch.nn.Module, data: script.Data, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Answers to the test part, ids (N, A), and their figures, without `test/`."""
    test, alphabet, reader = data.splits.test, data.splits.alphabet, script.reader_of(cfg, data)
    glyph = script.drawers(data, device)["test"]
    with console.status(f"answering {len(test):,} queries of the test part"):
        ids, loss = script.answers(model, test, glyph, cfg, alphabet, reader, device)
    figures = {"loss": loss} | mistakes.figures(ids, test, alphabet, "test")
    figures |= mistakes.breakdown(ids, test, alphabet, "test")
    if reader is not None:
        figures["reader_accuracy"] = reader.accuracy
    figures = {name.removeprefix("test/"): value for name, value in figures.items()}
    return ids, {"queries": len(test)} | figures


def evaluate(
    cfg: script.Config, digits: int, model: torch.nn.Module, data: script.Data, task: Task
) -> dict[str, Any]:
    """The figures of the test part, as in `all_answers`."""
    return {"digits": digits} | all_answers(cfg, model, data, task.device)[1]


# ------------------------------------------------------------------------------------------------ mistakes


def inline(tile: Tensor) -> str:
    """A picture (1, H, W) in [0, 1] as an HTML tag that contains it, so that it needs no file."""
    (pixels,) = pictures.to_uint8(tile[None])
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">'


def show_mistakes(
    cfg: script.Config, digits: int, model: torch.nn.Module, data: script.Data, task: Task
) -> dict[str, Any]:
    """Kinds of mistakes: a page with examples of each, their frequencies as bars, and a map. If the model
    reads or draws pictures, the pictures are shown too.
    """
    test, alphabet = data.splits.test, data.splits.alphabet
    ids, figures = all_answers(cfg, model, data, task.device)
    kinds, right = mistakes.kinds_of(ids, test, alphabet), (ids == test.tgt).all(1)
    counts = torch.bincount(kinds[kinds >= 0], minlength=len(mistakes.KINDS)).tolist()
    title = f"Mistakes, {data.name}, {100 * cfg.train_fraction:g} % learned from"

    of_kind = [torch.where(kinds == kind)[0][:N_OF_A_KIND] for kind in range(len(mistakes.KINDS))]
    rows = torch.cat(of_kind).sort().values
    examples = dict(zip(rows.tolist(), mistakes.table(ids, test, alphabet, rows.tolist())))
    glyph = script.drawers(data, task.device)["test"]
    seen: dict[int, Tensor] = {}  # row → what was read or drawn
    if glyph is not None and len(rows):
        tiles = script.pictures_of(model, test, ids, rows, glyph, cfg, alphabet, task.device)
        seen = dict(zip(rows.tolist(), tiles))

    reads = cfg.mode == "image_to_text"
    head = [
        "query",
        "answer",
        "model",
        *(["as it was written" if reads else "as it was drawn"] if seen else []),
    ]
    body = f"<p>Test queries: {mistakes.score(right)}.</p>"
    for name, counted, count, some in zip(mistakes.names(), mistakes.KINDS.values(), counts, of_kind):
        body += f'<h2>{name}: {count:,}</h2><p class="given">{counted}</p>'
        cells = []
        for row in some.tolist():
            cells.append([pages.literal(examples[row][key]) for key in ("query", "answer", "model")])
            cells[-1] += [inline(seen[row])] if seen else []
        body += pages.table(cells, head) if cells else ""
    task.html("mistakes", pages.page(title, body))
    task.picture("kinds", bars(counts, mistakes.names(), title, "wrong answers"))
    found = mistakes.maps(right, test, digits)
    task.picture("map", mistakes.map_picture(found, digits, data.name))
    if seen:
        few = [row for some in of_kind for row in some[:N_IN_PICTURE].tolist()]
        labels = [f"{examples[row]['mistake']}:  {mistakes.told(examples[row])}" for row in few]
        what = "Handwriting that was answered wrongly" if reads else "Wrong answers as they were drawn"
        shown = torch.stack([seen[row] for row in few])
        name = "handwriting" if reads else "drawn"
        task.picture(name, pictures.grid(shown, 1, labels, title=f"{what}, {data.name}"))
    return {"digits": digits, "wrong": int((~right).sum())} | figures


# ------------------------------------------------------------------------------------------------ ask


@torch.no_grad()
def ask(
    cfg: script.Config, digits: int, model: torch.nn.Module, data: script.Data, task: Task
) -> dict[str, Any]:
    """Prints the answer to --query, with whether it is right; returns it with the probability of each of its
    characters. Raises DataError for a query that the model can't read.
    """
    alphabet, device = data.splits.alphabet, task.device
    try:
        a, op, b = arithmetic.parse(cfg.query, cfg.ops, digits)
    except arithmetic.DataError as error:
        raise arithmetic.DataError(f"--query={error}") from None
    code, query = arithmetic.OPERATORS.index(op), f"{a}{op}{b}"
    a, b, op_code = (torch.tensor([v]).numpy() for v in (a, b, code))
    truth = arithmetic.compute(a, b, op_code)
    src = torch.from_numpy(arithmetic.write_queries(a, b, op_code, cfg.digits, alphabet, cfg.columns))
    tgt = torch.from_numpy(arithmetic.write_answers(truth, cfg.ops, cfg.digits, alphabet))
    glyph, written = script.drawers(data, device)["test"], [alphabet[i] for i in src[0]]
    batch = script.batch_of(src.to(device), tgt.to(device), glyph, task.rng(device), cfg, alphabet)
    made = model.answer(batch.src)
    results: dict[str, Any] = {"query": query, "truth": int(truth[0])}
    if cfg.mode == "text_to_image":
        ids = script.reader_of(cfg, data).read(made)
    else:
        probability = model(batch.src, made[:, :-1]).softmax(2).gather(2, made[..., None])[0, :, 0]
        results["probability"] = probability.tolist()
        ids = made.cpu()
    forwards = arithmetic.reverse(ids, alphabet) if cfg.reverse else ids
    said = arithmetic.decode(forwards[0], alphabet)
    title = f"{query} = {said}"
    if cfg.mode == "text_to_image":
        drawn = torch.sigmoid(made).cpu()
        if cfg.reverse:
            drawn = script.in_reverse(drawn, ids, alphabet)
        labels = [alphabet[i] for i in forwards[0]]
        task.picture("answer", pictures.strip(drawn[0, :, None], labels, title, scale=3))
    if cfg.mode == "image_to_text":
        task.picture("query", pictures.strip(batch.src[0].cpu()[:, None], written, title, scale=3))
    if cfg.attention and cfg.mode != "text_to_image":
        memory = model.encode(batch.src)
        h, _ = model.decoder(model.inputs(memory, made[:, :-1]), memory.state)
        rows = [alphabet[i] if alphabet[i] != " " else "blank" for i in ids[0]]
        columns = [char.replace(" ", "␣") for char in written]
        looked = model.look(h, memory)[0].cpu()
        task.picture("attention", heatmap(looked, rows, columns, f"{title}: attention weights"))
    right = said == str(int(truth[0]))
    verdict = "[green]right[/]" if right else f"[red]wrong[/], it is {int(truth[0])}"
    print(title)
    console.print(verdict)
    return results | {"answer": said, "right": right}


# ------------------------------------------------------------------------------------------------ entry


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained run, ready to be asked: `all_answers(it.cfg, it.model, it.data, it.device)`."""

    cfg: script.Config  # the run's flags, with those that are the task's own
    digits: int  # largest number of digits of an operand that is asked
    model: torch.nn.Module
    data: script.Data
    device: torch.device
    file: Path
    run_config: dict[str, Any]


def opened(cfg: script.Config) -> Opened:
    """The run of --checkpoint with its model and data. Raises UserError and DataError."""
    device = pick_device(cfg.device)
    file, run_config = find_run(cfg, "seq2seq_arith")
    asked, default = cfg, script.Config
    cfg = flags_of_run(cfg, run_config, *(["digits"] if cfg.task == "ask" else ["digits", "precision"]))
    draws = cfg.mode != "text_to_text" or asked.dataset == default.dataset
    require(draws, asked, "dataset", "used with a run whose --mode has pictures; this one has text_to_text")
    given = "digits" in GIVEN or asked.digits != default.digits
    digits = asked.digits if given else cfg.digits
    alphabet = arithmetic.alphabet_of(cfg.ops)
    model = load_weights(cfg, script.build(cfg, alphabet, device), file).eval()
    cfg, data = with_digits(cfg, digits, model)
    return Opened(cfg, digits, model, data, device, file, run_config)


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task with --checkpoint; returns the content of results.json. Raises UserError and DataError."""
    it = opened(cfg)
    task = start_task(dataclasses.replace(it.cfg, digits=it.digits), it.file, it.run_config)
    do = {"ask": ask, "evaluate": evaluate, "mistakes": show_mistakes}[cfg.task]
    results = do(it.cfg, it.digits, it.model, it.data, task)
    task.numbers(results)
    task.finish()
    return results
