"""A training script for tests of sweeps: no torch, a known loss. Copied to research/ of a project.

It keeps a run folder as research/common/run.py does: lease, status, rows, checkpoints, the `stop` file,
SIGTERM. Its headline, val/loss, at `step` is (x - 0.37)² + 0.1 for kind b + (0.2 + x) / (1 + step), least at
x = 0.37; above x = 0.97 it is not finite from step 8 on, and with --fail_below it crashes for smaller x.
Where the environment names a file as STAND_IN_ARGV, each start adds its arguments to it, a line of JSON.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).resolve().parents[1])

from research.common import lease as leases
from research.common.commandline import EXIT_PREEMPTED, main
from research.common.flags import RunFlags, aside
from research.common.folder import append_row, read_json, read_rows, write_bytes, write_json
from research.common.identity import run_key
from research.common.messages import UserError

KEY_VERSION = 1
DATA_FLAGS = ("dataset", "data_dir")


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    x: float = 0.5
    kind: Literal["a", "b"] = "a"
    n: int = 1
    fail_below: float = aside(-1.0)
    pace: float = aside(0.0)

    def __post_init__(self):
        super().__post_init__()
        if self.kind == "b" and self.n > 2:
            raise UserError(f"--n={self.n}: must be at most 2 with --kind=b")


class Data:
    content_hash = "none"


def load_data(cfg: Config) -> Data:
    return Data()


def headline(cfg: Config) -> tuple[str, str]:
    return "val/loss", "minimize"


def loss(cfg: Config, step: int) -> float:
    value = (cfg.x - 0.37) ** 2 + 0.1 * (cfg.kind == "b") + (0.2 + cfg.x) / (1 + step) + 0.001 * cfg.seed
    return float("nan") if cfg.x > 0.97 and step >= 8 else value


def train(cfg: Config) -> None:
    key = run_key("stand_in", KEY_VERSION, cfg, Data.content_hash)
    folder, asked = Path(cfg.out) / (cfg.name or key), []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: asked.append("SIGTERM"))
    lease = leases.adopt(folder) or leases.acquire(folder, leases.Watch())
    if lease is None:
        sys.exit(EXIT_PREEMPTED)
    (folder / "stop").unlink(missing_ok=True)
    kept = read_json(folder / "status.json") or {"segments": []}
    name, goal = headline(cfg)
    config = {"family": "stand_in", "key": key, "flags": asdict(cfg), "wandb_id": key}
    write_json(folder / "config.json", config | {"headline": name, "goal": goal})
    state = read_json(folder / "checkpoint.json") or {"step": 0, "best": None, "worst": None}
    step, best, worst = state["step"], state["best"], state["worst"]
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] < step]
    write_bytes(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def tell(status: str, reason: str | None = None) -> None:
        value = worst if status == "diverged" else best
        segments = [*kept["segments"], {"from_step": state["step"]}]
        write_json(
            folder / "status.json",
            {
                "status": status,
                "reason": reason,
                "step": step,
                "steps": cfg.steps,
                "headline": value,
                "segments": segments,
            },
        )

    def end(status: str, reason: str | None = None) -> None:
        tell(status, reason)
        lease.release(status)
        sys.exit({"preempted": EXIT_PREEMPTED, "failed": 1}.get(status, 0))

    tell("running")
    lease.update(start_step=step)
    lease.start_beating()
    while True:
        row, value = {"step": step, "train/loss": 1.0}, loss(cfg, step)
        finite = value == value
        if finite and (step % cfg.eval_every == 0 or step == cfg.steps):
            best = value if best is None else min(best, value)
            worst = value if worst is None else max(worst, value)
            row |= {"val/loss": value, "val/loss_best": best}
        if not lease.check():
            sys.exit(EXIT_PREEMPTED)
        append_row(folder / "metrics.jsonl", row)
        if step == cfg.steps:
            end("finished")
        step += 1
        if not finite:
            end("diverged", f"loss is not finite at step {step - 1}")
        if cfg.x < cfg.fail_below:
            end("failed", "it had to be")
        if (folder / "stop").exists() or asked:
            write_json(folder / "checkpoint.json", {"step": step, "best": best, "worst": worst})
            end(
                "preempted" if asked else "stopped",
                asked[0] if asked else (folder / "stop").read_text().strip(),
            )
        if step % cfg.save_every == 0:
            write_json(folder / "checkpoint.json", {"step": step, "best": best, "worst": worst})
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / f"step_{step:08d}_00000000.pt").touch()  # for the count of deaths
        time.sleep(cfg.pace)


if __name__ == "__main__":
    if noted := os.environ.get("STAND_IN_ARGV"):
        with open(noted, "a", encoding="utf-8") as arguments:
            arguments.write(json.dumps(sys.argv[1:]) + "\n")
    main(Config, train)
