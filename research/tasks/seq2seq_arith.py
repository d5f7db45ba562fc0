"""What a trained arithmetic model answers: a query of yours, all of the test part, its mistakes.

Run     python research/seq2seq_arith.py --task=TASK --checkpoint=runs/<run>; files go to runs/<run>/TASK/
Tasks   ask        --query: the answer, how sure each character is, where the decoder looked (attention), and
                   pictures of the query or of the answer where the model's --mode has them
        evaluate   exact match, characters right, by operator, length and carry, on the test part
        mistakes   the same, with the kinds of mistakes, a map of them, and wrong answers of every kind
Flags   The model's flags come from the checkpoint. So do --dataset and --data_dir, unless they were given; a
        value equal to the flag's default counts as not given. --seed is the task's own, and draws pictures.
"""

from typing import Any

import torch
from torch import Tensor

from data import arithmetic
from research import seq2seq_arith as script
from research.common.checkpoints import load_weights
from research.common.messages import console
from research.common.start import pick_device
from research.common.task import Task, find_run, flags_of_run, start_task
from research.draw import pages, pictures
from research.draw.charts import bars, heatmap
from research.parts import seq2seq_mistakes as mistakes

N_OF_A_KIND = 20  # wrong answers of each kind that are shown


def all_answers(
    cfg: script.Config, model: torch.nn.Module, data: script.Data, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Answers to the test part, ids (N, A), and their figures, without `test/`."""
    test, alphabet, reader = data.splits.test, data.splits.alphabet, script.reader_of(cfg, data)
    glyph = script.drawers(data, device)["test"]
    with console.status("answering the test part"):
        ids, loss = script.answers(model, test, glyph, cfg, alphabet, reader, device)
    figures = {"loss": loss} | mistakes.figures(ids, test, alphabet, "test")
    figures |= mistakes.breakdown(ids, test, alphabet, "test")
    if reader is not None:
        figures["reader_accuracy"] = reader.accuracy
    figures = {name.removeprefix("test/"): value for name, value in figures.items()}
    return ids, {"queries": len(test)} | figures


def evaluate(cfg: script.Config, model: torch.nn.Module, data: script.Data, task: Task) -> dict[str, Any]:
    """The figures of the test part."""
    return all_answers(cfg, model, data, task.device)[1]


def show_mistakes(
    cfg: script.Config, model: torch.nn.Module, data: script.Data, task: Task
) -> dict[str, Any]:
    """Kinds of mistakes with examples of each, as a page; how often each is, as bars; where they are."""
    test, alphabet = data.splits.test, data.splits.alphabet
    ids, figures = all_answers(cfg, model, data, task.device)
    kinds, right = mistakes.kinds_of(ids, test, alphabet), (ids == test.tgt).all(1)
    counts = torch.bincount(kinds[kinds >= 0], minlength=len(mistakes.KINDS)).tolist()
    names = [kind.replace("_", " ") for kind in mistakes.KINDS]
    body = f"<p>{int(right.sum()):,} of {len(test):,} test queries right ({right.double().mean():.3%}).</p>"
    for kind, name in enumerate(names):
        rows = torch.where(kinds == kind)[0].tolist()
        body += f"<h2>{name}: {len(rows):,}</h2>"
        if rows:
            examples = mistakes.table(ids, test, alphabet, rows[:N_OF_A_KIND])
            cells = [[pages.literal(row[key]) for key in ("query", "answer", "model")] for row in examples]
            body += pages.table(cells, ["query", "answer", "model"])
    title = f"Mistakes, {data.name}, {cfg.train_fraction:.0%} learned from"
    task.html("mistakes", pages.page(title, body))
    task.picture("kinds", bars(counts, names, title, "wrong answers"))
    shares = mistakes.maps(right, test, cfg.digits)
    task.picture("map", mistakes.map_picture(shares, cfg.digits, f"{right.double().mean():.2%} right"))
    return {"wrong": int((~right).sum())} | figures


@torch.no_grad()
def ask(cfg: script.Config, model: torch.nn.Module, data: script.Data, task: Task) -> dict[str, Any]:
    """The answer to --query, printed, with the probability of each of its characters."""
    alphabet, device = data.splits.alphabet, task.device
    try:
        a, op, b = arithmetic.parse(cfg.query, cfg.ops, cfg.digits)
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
        task.picture("attention", heatmap(looked, rows, columns, f"{title}: where it looks"))
    right = said == str(int(truth[0]))
    verdict = "[green]right[/]" if right else f"[red]wrong[/], it is {int(truth[0])}"
    print(title)
    console.print(verdict)
    return results | {"answer": said, "right": right}


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task on --checkpoint; returns what results.json says. Raises UserError and DataError."""
    device = pick_device(cfg.device)
    file, run_config = find_run(cfg, "seq2seq_arith")
    cfg = flags_of_run(cfg, run_config)
    data = script.load_data(cfg)
    model = load_weights(cfg, script.build(cfg, data.splits.alphabet, device), file).eval()
    task = start_task(cfg, file, run_config)
    do = {"ask": ask, "evaluate": evaluate, "mistakes": show_mistakes}[cfg.task]
    results = do(cfg, model, data, task)
    task.numbers(results)
    task.finish()
    return results
