"""What W&B and logging cost a run that is online, with a server that answers slowly.

    python benchmarks/wandb_overhead.py --steps=1500 --delay_ms=200

It trains the default β-VAE twice, each time in a process of its own: with `--wandb=disabled`, and online with
the loopback server of the tests, which answers every request after `delay_ms`. As shares of the whole run it
prints the seconds that the training loop spends on logging (`time/logging_s`), and the CPU seconds of the
thread that talks to W&B (`time/wandb_s`), of making pictures (`time/media_s`, with or without W&B) and of
wandb-core. The time after the last step, for the rest of the upload, is given separately. Two runs on one
machine differ by noise, so look at the seconds.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import race
from research.common.commandline import main
from tests.wandb_server import Server


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time a run with W&B and without."""

    steps: int = 1500
    """training steps"""
    delay_ms: float = 200.0
    """how long the server waits before every answer"""
    threads: int = 1
    """CPU threads of torch"""


def train(flags: Flags, home: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run once in a process of its own; returns its seconds, its CPU seconds, and what it logged about
    itself.
    """
    command = [sys.executable, "research/bvae_faces.py", f"--steps={flags.steps}", f"--out={home}"]
    command += [f"--threads={flags.threads}", "--wandb=online" if env else "--wandb=disabled"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run(command, env=os.environ | env, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    (folder,) = home.glob("*/")
    timed = [json.loads(line) for line in (folder / "time.jsonl").read_text(encoding="utf-8").splitlines()]
    last_row = (folder / "metrics.jsonl").stat().st_mtime
    return timed[-1] | {
        "wall": wall,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "after_last_step": began + wall - last_row,
        "rows": len(timed),
    }


def run(flags: Flags) -> None:
    race.header(f"{flags.threads} threads")
    with tempfile.TemporaryDirectory() as tmp, Server() as server:
        server.delay_s = flags.delay_ms / 1000
        without = train(flags, Path(tmp, "without"), {})
        online = train(flags, Path(tmp, "online"), server.env(Path(tmp, "home")))
        (there,) = server.runs.values()
        requests, rows = sum(server.requests.values()), len(there.rows)
        assert there.state == "finished" and server.refused == [], server.refused
    logging, client, media = (online[f"time/{name}_s"] for name in ("logging", "wandb", "media"))
    core = online["cpu"] - without["cpu"] - client
    wall = online["wall"]
    per_cent = 100 / wall  # of the run, for each second
    print(
        f"run: {flags.steps} steps, {wall:.1f} s; {rows} rows, {requests} requests, "
        f"each answered after {flags.delay_ms:g} ms"
    )
    print(
        f"logging {logging:.2f} s + W&B's thread {client:.2f} s CPU = "
        f"{(logging + client) * per_cent:.2f} % of the run"
    )
    print(f"pictures {media:.2f} s CPU = {media * per_cent:.2f} %, with W&B or without")
    print(
        f"all other CPU that the run took more than without W&B (wandb-core, and noise): {core:.2f} s "
        f"= {core * per_cent:.2f} %"
    )
    print()
    lines = {
        "wall time, s": "wall",
        "per step, ms": "time/step_ms",
        "after the last row, s": "after_last_step",
    }
    table = [["", "online", "without W&B"]]
    table += [[name, f"{online[key]:.1f}", f"{without[key]:.1f}"] for name, key in lines.items()]
    race.table(table)


if __name__ == "__main__":
    main(Flags, run)
