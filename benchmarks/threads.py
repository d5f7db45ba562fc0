"""How long a training step takes with one thread and with several, by itself and beside other busy processes.

    python benchmarks/threads.py                        # every family, embedded data
    python benchmarks/threads.py --only=charlm_lstm --strangers=3 --seconds=10

For each family, number of threads and way of waiting, a real training process runs, with only one evaluation,
at its beginning. Beside it run 0, 1, 2 … strangers, each of which is a process that keeps one core busy. The
figure is milliseconds per step, measured for --seconds. OpenMP's threads wait for one another at the end of
every operation. By default they spin, so a thread that has lost its core delays all others. With
OMP_WAIT_POLICY=passive they sleep, which costs time when nobody disturbs them. "as chosen" is without
--threads: research/common/threads.py chooses, and the figure is measured after it has had time to do so.

Fair is the time of a step if the system gave all threads an equal share of the cores: with c cores, s
strangers and t threads, max(1, (s + t) / c) times the time that it takes by itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import race
from research.common.commandline import main
from research.common.flags import require
from research.common.folder import TIMES
from research.common.identity import ROOT

NEVER = 10**7
CHOOSING_S = 15
CASES = {  # a name: the script and its flags
    "charlm_lstm": ("charlm", "--model=lstm"),
    "charlm_tcn": ("charlm", "--model=tcn"),
    "charlm_transformer": ("charlm", "--model=transformer"),
    # nanoGPT's CPU setting
    "charlm_nanogpt": (
        "charlm",
        *["--n_layers=4", "--n_heads=4", "--embed_dim=128", "--seq_len=64", "--batch_size=12"],
    ),
    "vae_mnist_mlp": ("vae_mnist",),
    "vae_mnist_conv": ("vae_mnist", "--arch=conv"),
    "bvae_faces": ("bvae_faces",),
    "seq2seq_text": ("seq2seq_arith",),
    "seq2seq_images": ("seq2seq_arith", "--mode=image_to_text"),
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time training steps beside strangers."""

    only: str | None = None
    """some of the cases, separated by commas"""
    threads: int = os.cpu_count() or 1
    """how many threads several are"""
    strangers: int = 2
    """up to so many others keep a core busy"""
    seconds: float = 5.0
    """how long each figure is taken"""
    spins: str = ""
    """also with several threads that spin so many times before they sleep (GOMP_SPINCOUNT), by commas"""

    def __post_init__(self):
        known = self.only is None or set(self.only.split(",")) <= set(CASES)
        require(known, self, "only", f"some of {', '.join(CASES)}")
        require(self.threads >= 2, self, "threads", "at least 2")
        require(self.strangers >= 0, self, "strangers", "at least 0")
        require(self.seconds > 0, self, "seconds", "above 0")


def last_step(times: Path) -> int:
    """The step of the last whole row; -1 if there is none."""
    lines = times.read_text(encoding="utf-8").splitlines() if times.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def step_ms(times: Path, limit_s: float) -> float:
    """Milliseconds per step between the first and the last row that are written within `limit_s`."""
    end, rows = time.perf_counter() + limit_s, []
    while (now := time.perf_counter()) < end or (len(rows) < 2 and now < end + 3 * limit_s):
        step = last_step(times)
        if not rows or step > rows[-1][0]:
            rows.append((step, now))
        time.sleep(0.005)
    if len(rows) < 3:  # nobody knows when the first row was written
        return float("inf")
    return 1000 * (rows[-1][1] - rows[1][1]) / (rows[-1][0] - rows[1][0])


def measure(case: str, threads: int | None, waiting: dict[str, str], flags: Flags) -> list[float]:
    """Milliseconds per step beside 0, 1, 2 … strangers."""
    script, *its_flags = CASES[case]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | waiting
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, f"{ROOT}/research/{script}.py", *its_flags, f"--threads={threads}"]
        command += [f"--{name}={NEVER}" for name in ("steps", "eval_every", "sample_every", "save_every")]
        command += ["--log_every=2", "--wandb=disabled", f"--out={folder}", "--name=run"]
        with open(f"{folder}/log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        times, strangers, figures = Path(folder, "run", TIMES), [], []
        try:
            while last_step(times) < 10:
                if process.poll() is not None:
                    raise RuntimeError(Path(folder, "log").read_text(encoding="utf-8"))
                time.sleep(0.1)
            for n in range(flags.strangers + 1):
                if n:
                    strangers.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                    time.sleep(0.5 if threads else CHOOSING_S)
                figures.append(step_ms(times, flags.seconds))
        finally:
            for one in [process, *strangers]:
                one.kill()
                one.wait()
        return figures


def run(flags: Flags) -> None:
    race.header(f"ms a step beside 0 … {flags.strangers} strangers", f"several: {flags.threads} threads")
    settings = {"as chosen": (None, {}), "one": (1, {}), "several": (flags.threads, {})}
    settings["several, passive"] = flags.threads, {"OMP_WAIT_POLICY": "passive"}
    for spins in flags.spins.split(",") if flags.spins else ():
        settings[f"several, {spins} spins"] = flags.threads, {"GOMP_SPINCOUNT": spins}
    rows = [["case", "threads", *(f"{n} strangers" for n in range(flags.strangers + 1))]]
    for case in flags.only.split(",") if flags.only else CASES:
        for name, (threads, waiting) in settings.items():
            rows.append([case, name, *(f"{ms:.1f}" for ms in measure(case, threads, waiting, flags))])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    race.table(rows)


if __name__ == "__main__":
    main(Flags, run)
