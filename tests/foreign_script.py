"""A training script of somebody else, who knows nothing of this repository; run by tests/test_wandb_files.py.

    python foreign_script.py several LOG     four runs one after the other, one of them a resumed one
    python foreign_script.py killed LOG      a run that is still at work when it is killed

Every number that is logged is written to LOG too, one line each: {"run": id, "step": step, "row": row}.
"""

import json
import math
import sys
import time

import numpy as np
import wandb
from PIL import Image

NASTY = "<script>document.title='owned'</script>"


def tell(run, step, row):
    numbers = {k: v if math.isfinite(v) else None for k, v in row.items() if isinstance(v, (int, float))}
    with open(sys.argv[2], "a", encoding="utf-8") as log:
        log.write(json.dumps({"run": run.id, "step": step, "row": numbers}) + "\n")


def grey(level, size=8):
    return np.full((size, size, 3), level, np.uint8)


def first():
    """Logs steps of its own with a gap, values that are not finite, and every kind of media."""
    config = {"lr": 0.1, "model": {"depth": 2, "widths": [1, 2], "opt": {"name": "adam"}}, "text": NASTY}
    config |= {"seed": 0, "out_dir": "/scratch/one", "inf": math.inf}
    run = wandb.init(
        project="theirs",
        id="aaa",
        name=f"first {NASTY}",
        group="pairs",
        tags=["big", "old"],
        notes=NASTY,
        config=config,
    )
    run.config.update({"lr": 0.2}, allow_val_change=True)
    run.define_metric("val/acc", summary="max")
    Image.new("RGB", (8, 8)).save(
        "film.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), (9, 9, 9))]
    )
    for step in (0, 1, 2, 50, 51):
        row = {
            "train/loss": 1 / (step + 1),
            "val/acc": step / 100,
            "step": 1000 + step,
            "seen": step % 2 == 0,
        }
        if step == 2:
            row |= {"train/loss": math.nan, "worst": -math.inf, "best": math.inf}
        tell(run, step, row)
        media = {"nested": {"a": step, "deep": {"b": 2.5 * step}}, "words": f"line {step} {NASTY}"}
        if step in (0, 51):
            import plotly.graph_objects as go

            media["picture"] = wandb.Image(grey(step), caption=NASTY)
            media["grid/pictures"] = [wandb.Image(grey(10 * i + step)) for i in range(3)]
            media["panel"] = {"inner": wandb.Image(grey(99, 4))}
            media["page"] = wandb.Html(f"<h1>page {step}</h1>{NASTY}")
            media["table"] = wandb.Table(columns=["a", NASTY], data=[[1, NASTY], [math.nan, "y"]])
            media["plot"] = go.Figure(go.Scatter(x=[1, 2], y=[3, step]))
            media["film"] = wandb.Video("film.gif", format="gif")
            media["spread"] = wandb.Histogram([1, 2, 3])
        run.log(row | media, step=step)
    print("the end of aaa")
    run.summary["figure_of_merit"] = 3.5
    run.finish()


def second(start):
    """Starts one id twice; W&B counts the steps. The second start fails."""
    config = {"lr": 0.01, "model": {"depth": 3}, "seed": 0, "out_dir": "/scratch/two"}
    run = wandb.init(project="theirs", id="bbb", resume="allow", config=config)
    for i in range(3):
        row = {"train/loss": 10.0 * start + i, "val/acc": 0.5 + i / 10}
        tell(run, 3 * start + i, row)
        run.log(row)
    print("progress  10%\rprogress 100%\n\x1b[31mOut of memory\x1b[0m")
    run.finish(exit_code=start)


def swept():
    """A run of a W&B sweep, which logs nothing but a summary."""
    run = wandb.init(
        project="theirs",
        settings=wandb.Settings(run_id="ccc", sweep_id="swp"),
        config={"lr": 0.3, "width": 8},
    )
    run.summary["val/acc"] = 0.25
    run.finish()


def killed():
    """Logs until it is killed."""
    run = wandb.init(project="theirs", id="ddd", config={"lr": 0.4})
    for step in range(1_000_000):
        row = {"train/loss": 1 / (step + 1), "val/acc": step / 1e6}
        tell(run, step, row)
        run.log(row)
        time.sleep(0.0005 if step < 500 else 0.5)


if __name__ == "__main__" and sys.argv[1] == "several":
    first()
    second(0)
    time.sleep(1.1)  # the folder's name holds the second
    second(1)
    swept()
elif __name__ == "__main__":
    killed()
