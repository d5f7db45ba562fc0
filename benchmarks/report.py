"""How long it takes to build a report of many runs, to open it, and to redraw it after a brush.

    python benchmarks/report.py                       # 500 runs × 2,000 rows × 20 pictures
    python benchmarks/report.py --runs=5000 --rows=200 --pictures=2

The runs are made up: three flags, five logged figures, pictures of 64 × 64 pixels. Building is what
`launch/report.py` does, including reading the folder. Opening goes from the address to the first drawing, in
a headless Chromium. A brush is timed from its change until its own chart is drawn, and until all other parts
have followed; both are medians of nine. Memory is that of the page's JavaScript.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image
from rich.progress import track

from research.common.commandline import main
from research.common.flags import require

BRUSH = """async low => {
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const start = performance.now();
  set({brush: {learning_rate: {low, high: 1}}});
  await frame();
  const first = performance.now() - start;
  do await frame(); while (waiting);  // what waits for the brush to rest, and then for a frame
  return [first, performance.now() - start];
}"""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time a report of many runs."""

    runs: int = 500
    """how many runs"""
    rows: int = 2000
    """logged rows of each"""
    pictures: int = 20
    """pictures of each"""

    def __post_init__(self):
        for name in ("runs", "rows"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.pictures >= 0, self, "pictures", "at least 0")


def make(folder: Path, flags: Flags) -> None:
    """Make run folders like those that the scripts write."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    yaml = "# Question  How large may a sweep be?\nprogram: research/bvae_faces.py\nmethod: random\n"
    yaml += "parameters:\n"
    yaml += "  learning_rate: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}\n"
    yaml += "  arch: {values: [conv, patch, mlp]}\n  seed: {values: [0, 1, 2]}\n"
    (folder / "sweep.yaml").write_text(yaml, encoding="utf-8")
    steps = np.linspace(0, 10 * flags.rows, flags.rows, dtype=int).tolist()
    for i in track(range(flags.runs), "making runs", transient=True):
        run = folder / f"{i:012x}"
        run.mkdir()
        own = {"learning_rate": float(10 ** rng.uniform(-4, -1)), "arch": ["conv", "patch", "mlp"][i % 3]}
        config = {"family": "bvae_faces", "key": run.name, "flags": own | {"seed": i % 3, "steps": steps[-1]}}
        config |= {
            "headline": "val/mse",
            "goal": "minimize",
            "result_flags": ["learning_rate", "arch", "seed"],
        }
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
        noise = rng.normal(0, 0.01, (flags.rows, 4))
        with open(run / "metrics.jsonl", "w", encoding="utf-8") as file:
            for k, step in enumerate(steps):
                base = own["learning_rate"] + 1 / (1 + k / 50)
                row = {"step": step, "epoch": step / 100, "train/loss": base + noise[k, 0]}
                row |= {
                    f"train/{name}": base + noise[k, j] for j, name in enumerate(("rec", "kl", "norm"), 1)
                }
                if k % 20 == 0:
                    row |= {"val/mse": base, "val/mse_best": base}
                file.write(json.dumps(row) + "\n")
        status = {"status": "finished", "step": steps[-1], "steps": steps[-1], "headline": base}
        (run / "status.json").write_text(json.dumps(status), encoding="utf-8")
        for k in range(flags.pictures):
            at = steps[k * flags.rows // max(1, flags.pictures)]
            path = run / "media" / "sample" / "reconstructions" / f"{at:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)


def looked_at(page: Path) -> dict[str, float]:
    """Open the page in a browser; returns seconds until it is drawn, milliseconds of a brush, and memory."""
    from tests.browser import Page, browser

    with browser() as found:
        tab = Page(found)
        start = time.perf_counter()
        shown = tab.open(page)
        opened = time.perf_counter() - start
        brushes = [shown.evaluate(BRUSH, 0.0002 * 2**k) for k in range(9)]
        memory = shown.evaluate("performance.memory ? performance.memory.usedJSHeapSize / 1e6 : 0")
        assert tab.complaints == [], tab.complaints
        tab.close()
    first, whole = map(statistics.median, zip(*brushes))
    return {"opened_s": opened, "brush_ms": first, "all_ms": whole, "memory_mb": memory}


def run(flags: Flags) -> None:
    from launch.results import html, read

    with tempfile.TemporaryDirectory() as place:
        folder, page = Path(place) / "many", Path(place) / "report.html"
        make(folder, flags)
        start, cpu = time.perf_counter(), time.process_time()
        html.write_report(read.read_sweep(folder), page)
        built, cpu = time.perf_counter() - start, time.process_time() - cpu
        beside = sum(path.stat().st_size for path in page.with_name("report_files").glob("*"))
        seen = looked_at(page)
        names = "runs, rows, pictures, built in s, CPU-s, file in MB, beside it in MB, opened in s, "
        names += "brush in ms, all in ms, memory in MB"
        print("| " + names.replace(", ", " | ") + " |")
        print("|" + "---:|" * 11)
        cells = [f"{flags.runs:,}", f"{flags.rows:,}", f"{flags.pictures}", f"{built:.1f}", f"{cpu:.1f}"]
        cells += [f"{page.stat().st_size / 1e6:.1f}", f"{beside / 1e6:.1f}", f"{seen['opened_s']:.1f}"]
        print(
            "| "
            + " | ".join(
                [*cells, f"{seen['brush_ms']:.0f}", f"{seen['all_ms']:.0f}", f"{seen['memory_mb']:.0f}"]
            )
            + " |"
        )


if __name__ == "__main__":
    main(Flags, run)
