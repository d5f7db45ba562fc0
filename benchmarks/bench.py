"""Each family's benchmark at its peer's own setting, one after the other, and one table of all figures.

    python benchmarks/bench.py --peers path/to/peers      # or: make bench PEERS=path/to/peers
    python benchmarks/bench.py --only=vae_mnist,charlm
    python benchmarks/bench.py --quick                    # does everything work? A few steps, nothing kept

Each benchmark is a process of its own; what it prints is shown. It writes its figures as JSON into
benchmarks/results/DEVICE/COMMIT/, and benchmarks/results/DEVICE/README.md becomes one table of all JSON files
of this device, the newest commit first. DEVICE is the processor with its best vector instructions, or the
GPU, with the number of cores.

--peers is a folder with others' code:

    pytorch-examples/   a checkout of github.com/pytorch/examples; vae/main.py is used
    Beta-VAE/           a checkout of github.com/1Konny/Beta-VAE; model.py
    nanoGPT/            a checkout of github.com/karpathy/nanoGPT; all of it but its history
    keras/              Keras as `pip install --target=path/to/peers/keras keras` puts it

A family whose peer is not there is timed alone, and the table says so. The other benchmarks contain their
peer: a plain loop around the same networks, a loop without a cache, runs one after the other. MNIST and
tinyshakespeare have to be in --data_dir (`python data/prepare.py mnist`, then `shakespeare`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import memory, race
from data import digits, text
from research.common import processor
from research.common.commandline import main
from research.common.flags import require
from research.common.identity import ROOT
from research.common.messages import UserError, console, counted

RESULTS = ROOT / "benchmarks" / "results"


class Peer(NamedTuple):
    """Others' code: its folder in --peers, a file that must be in it, and what it is."""

    folder: str
    file: str
    what: str


VAE_EXAMPLE = Peer("pytorch-examples/vae", "main.py", "a checkout of pytorch/examples")
BETA_VAE = Peer("Beta-VAE", "model.py", "a checkout of 1Konny/Beta-VAE")
NANOGPT = Peer("nanoGPT", "train.py", "a checkout of karpathy/nanoGPT")
KERAS = Peer("keras", "keras/__init__.py", "Keras, installed with --target")
PEERS = (VAE_EXAMPLE, BETA_VAE, NANOGPT, KERAS)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command: a benchmark with flags."""

    script: str
    flags: dict[str, Any]
    quick: dict[str, Any]  # flags of a smoke run, which win over `flags`
    peer: Peer | None = None
    data: Literal["mnist", "shakespeare"] | None = None  # the data set that must be in --data_dir
    embedded: str | None = None  # the data set that a smoke run without the peer reads instead of `data`
    on_gpu: bool = False  # it has --device


FEW = {"steps": 1, "blocks": 2}
JOBS = (
    Job(
        script="vae_mnist",
        flags={"threads": 1, "blocks": 9},
        quick={**FEW, "compiled": False},
        peer=VAE_EXAMPLE,
        data="mnist",
        embedded="digits",
    ),
    Job(
        script="vae_mnist",
        flags={"threads": 1, "race_steps": 900},
        quick={"race_steps": 2, "peer_epochs": 1},
        peer=VAE_EXAMPLE,
        data="mnist",
        embedded="digits",
    ),
    Job(
        script="bvae_faces",
        flags={"threads": 1, "blocks": 9},
        quick={**FEW, "batch_size": 4},
        peer=BETA_VAE,
        on_gpu=True,
    ),
    Job(script="gan_faces", flags={"threads": 1}, quick={**FEW, "batch_size": 2}, on_gpu=True),
    Job(
        script="charlm",
        flags={"race": True, "threads": 2},
        quick={"race_steps": 1, "peer_steps": 1},
        peer=NANOGPT,
        data="shakespeare",
        embedded="pydoc",
    ),
    Job(script="charlm", flags={"threads": 1}, quick={"chars": 2, "uncached_chars": 1, "rounds": 2}),
    Job(
        script="seq2seq_arith",
        flags={"threads": 1, "rounds": 16},
        quick={"steps": 1, "rounds": 2},
        peer=KERAS,
    ),
    Job(
        script="text_vae",
        flags={"threads": 1, "dataset": "shakespeare", "steps": 8, "blocks": 6},
        quick={**FEW, "batch_size": 4},
        data="shakespeare",
        embedded="verses",
        on_gpu=True,
    ),
    Job(script="trials", flags={}, quick={"trials": 2, "rounds": 1}),
    Job(script="sweep_time", flags={"family": "vae_mnist"}, quick={"runs": 2, "steps": 1, "rounds": 1}),
    Job(script="sweep_time", flags={"family": "bvae_faces"}, quick={"runs": 2, "steps": 1, "rounds": 1}),
    Job(script="memory", flags={}, quick={"only": "seq2seq_arith", "largest": 1, "steps": 1}),
)
NAMES = tuple(dict.fromkeys(job.script for job in JOBS))


class Goal(NamedTuple):
    """What a file of figures measures: the work and the peer in words, and the required ratio.

    A ratio of a unit in LESS_IS_BETTER, such as seconds, must be at most `asked`; a ratio of speeds must be
    at least `asked`.
    """

    work: str
    peer: str
    asked: float | None = None


LESS_IS_BETTER = ("s", "MiB")
VAE, KONNY, GPT, ADDITION = "PyTorch's VAE example", "1Konny/Beta-VAE", "nanoGPT", "Keras's addition example"
NO_CACHE, PLAIN, ONE_BY_ONE = "a loop without a cache", "a plain loop", "one run after the other"
SMALLEST = "itself with the smallest data"
GOALS = {  # by the name of the file, without .json
    "vae_mnist-race": Goal("the example's loss after 10 epochs", VAE, 0.2),
    "vae_mnist": Goal("training, 784-400-20, batch 128", VAE, 4),
    "bvae_faces": Goal("training, batch 64", KONNY, 2),
    "gan_faces": Goal("training, batch 16, 64 pixels", PLAIN),
    "charlm-race": Goal("nanoGPT's loss after 2,000 steps", GPT, 0.5),
    "charlm-4x128-batch-1": Goal("generation, 4 × 128, 1 text", NO_CACHE, 2.5),
    "charlm-4x128-batch-16-against-1": Goal("generation, 4 × 128, 16 texts", f"{NO_CACHE}, 1 text", 25),
    "charlm-4x128-batch-16": Goal("generation, 4 × 128, 16 texts", f"{NO_CACHE}, 16 texts"),
    "charlm-6x384-batch-1": Goal("generation, 6 × 384, 1 text", NO_CACHE, 25),
    "seq2seq_arith-batch-32": Goal("training, LSTM 128, batch 32", ADDITION, 3),
    "seq2seq_arith-batch-128": Goal("training, LSTM 128, batch 128", ADDITION, 1.5),
    "text_vae": Goal("training, batch 64", PLAIN),
    "trials-vae_mnist": Goal("one-step trials of vae_mnist", "–"),
    "sweep_time-vae_mnist": Goal("a sweep of vae_mnist", ONE_BY_ONE, 0.65),
    "sweep_time-bvae_faces": Goal("a sweep of bvae_faces", ONE_BY_ONE, 0.8),
    "memory-charlm": Goal("peak of charlm", SMALLEST, 1.1),
    "memory-text_vae": Goal("peak of text_vae", SMALLEST),
    "memory-vae_mnist": Goal("peak of vae_mnist", SMALLEST),
    "memory-bvae_faces": Goal("peak of bvae_faces", SMALLEST),
    "memory-gan_faces": Goal("peak of gan_faces", SMALLEST),
    "memory-seq2seq_arith": Goal("peak of seq2seq_arith", SMALLEST),
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Run each family's benchmark at its peer's own setting, and write one table."""

    peers: str | None = None
    """folder with pytorch-examples, Beta-VAE, nanoGPT and keras, or some of them"""
    data_dir: str = "data/store"
    """where MNIST/raw and tinyshakespeare lie"""
    only: str | None = None
    """some of the benchmarks, separated by commas"""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu; cuda: only the benchmarks that can use a GPU"""
    quick: bool = False
    """a few steps of each: the figures mean nothing and are only printed"""

    def __post_init__(self):
        known = self.only is None or set(self.only.split(",")) <= set(NAMES)
        require(known, self, "only", f"some of {', '.join(NAMES)}")
        can_run = [job.script for job in JOBS if self.device == "cpu" or job.on_gpu]
        require(bool(selected(self)), self, "device", f"cpu, but for {', '.join(can_run)}")
        if self.peers is None:
            return
        folders = ", ".join(peer.folder for peer in PEERS)
        at = {peer: Path(self.peers, peer.folder) for peer in PEERS}
        some = any(path.is_dir() for path in at.values())
        require(some, self, "peers", f"a folder in which at least one of these lies: {folders}")
        for peer, path in at.items():
            whole = not path.exists() or (path / peer.file).is_file()
            require(whole, self, "peers", f"a folder whose {peer.folder} is {peer.what}, with {peer.file}")


# ------------------------------------------------------------------------------------------------ running


def selected(flags: Flags) -> list[Job]:
    """The jobs that --only and --device select."""
    names = flags.only.split(",") if flags.only else NAMES
    return [job for job in JOBS if job.script in names and (flags.device == "cpu" or job.on_gpu)]


def peer_of(job: Job, flags: Flags) -> Path | None:
    """The place of the job's peer, if it is available."""
    if job.peer is None or flags.peers is None:
        return None
    path = Path(flags.peers, job.peer.folder)
    return path if path.is_dir() else None


def command(job: Job, flags: Flags, folder: Path) -> list[str]:
    """The words of the job's command, which writes its JSON into `folder`."""
    peer = peer_of(job, flags)
    given = job.flags | (job.quick if flags.quick else {})
    if reads_embedded(job, flags):
        given |= {"dataset": job.embedded}
    elif job.data:
        given |= {"data_dir": flags.data_dir}
    if flags.device != "cpu":
        given |= {"device": flags.device}
    if peer:
        given |= {"peer": peer}
    given |= {"json": folder}
    script = ROOT / "benchmarks" / f"{job.script}.py"
    return [sys.executable, str(script), *(f"--{name}={value}" for name, value in given.items())]


def reads_embedded(job: Job, flags: Flags) -> bool:
    return flags.quick and job.embedded is not None and peer_of(job, flags) is None


def check_data(flags: Flags) -> None:
    """Raises UserError, naming the command that helps, unless --data_dir has what the jobs read."""
    place = {"mnist": lambda folder: digits.place("mnist", folder), "shakespeare": text.place}
    for job in selected(flags):
        if job.data and not reads_embedded(job, flags) and place[job.data](Path(flags.data_dir)) is None:
            raise UserError(
                f"--data_dir={flags.data_dir}: {job.script} needs {job.data}, which is not there: "
                f"python data/prepare.py {job.data}"
            )


def slug(name: str, instructions: str, cores: int) -> str:
    """A device as the name of a folder: "AMD EPYC", "avx2", 2 → "amd-epyc-avx2-2-cores"."""
    plain = re.sub(r"\((R|TM)\)|\b(\d+-Core|Processor|CPU)\b|@.*", " ", name, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", f"{plain} {instructions}".lower())
    return "-".join([*words, str(cores), "core" if cores == 1 else "cores"])


def device_of(flags: Flags) -> str:
    """The name of the folder of this device's results."""
    if flags.device == "cuda":
        import torch

        require(torch.cuda.is_available(), flags, "device", "cpu, since torch finds no GPU")
    cores = os.cpu_count() or 1
    return (
        slug(race.gpu(), "", cores)
        if flags.device == "cuda"
        else slug(processor.cpu(), processor.instructions(), cores)
    )


# ------------------------------------------------------------------------------------------------ the table


NEEDED = {"benchmark", "variant", "unit", "peer", "figures", "ratios", "losses", "command"}
NEEDED |= {"cpu", "instructions", "gpu", "cores", "date", "commit", "committed"}


def read_records(folder: Path) -> list[dict[str, Any]]:
    """What `race.keep` wrote into the folders of a device. Raises UserError for what it did not write."""
    records = []
    for path in sorted(folder.glob("*/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            missing = NEEDED - record.keys()
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}: not figures of a benchmark ({error})") from None
        if missing:
            raise UserError(f"{path}: not figures of a benchmark, without {', '.join(sorted(missing))}")
        records.append(record | {"name": path.stem})
    return newest_first(records)


def newest_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorted by the time of the commit, clean before dirty; for the same commit, in the order of GOALS."""
    order = list(GOALS)

    def place(record: dict[str, Any]) -> tuple[float, str, int, str]:
        made = datetime.fromisoformat(record["committed"] or record["date"])
        name = record["name"]
        return -made.timestamp(), record["commit"], order.index(name) if name in order else len(order), name

    return sorted(records, key=place)


HEADING = ("work", "peer", "unit", "ours", "peer's", "ratio", "asked", "met", "commit", "date", "command")


def rows_of(record: dict[str, Any]) -> list[list[str]]:
    """The rows of one file of figures: one for each contender but the peer."""
    goal = GOALS.get(record["name"], Goal(record["variant"] or "–", record["peer"] or "–"))
    peer, unit = record["peer"], record["unit"]
    ours = [name for name in record["figures"] if name != peer]
    rows = []
    for name in ours:
        work = f"{record['benchmark']}: {goal.work}"
        if len(ours) > 1:
            work += f", {name.removeprefix('ours ')}"
        ratio = "–"
        if peer is None:
            theirs = "–" if goal.peer == "–" else "peer not at hand"
        else:
            theirs = figure(record, peer)
            ratio = spread(record["ratios"][name], len(record["figures"][name]))
        asked = "–"
        if goal.asked is not None and name != memory.TORCH:  # which is no run
            asked = f"{'≤' if unit in LESS_IS_BETTER else '≥'} {goal.asked:g}"
        measured_by = [short(record["commit"]), record["date"][:10], f"`{record['command']}`"]
        met = verdict(record, name, goal)
        rows.append([work, goal.peer, unit, figure(record, name), theirs, ratio, asked, met, *measured_by])
    return rows


def figure(record: dict[str, Any], name: str) -> str:
    """The median of a contender's figures, and the loss that it reached, in a race to one."""
    median = race.Spread.of(record["figures"][name]).median
    text = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
    return text + (f" ({record['losses'][name]:.4g} nats)" if record["losses"] else "")


def spread(ratio: dict[str, float], rounds: int) -> str:
    """The median of a ratio, with the smallest and the largest value if there are several."""
    text = f"{ratio['median']:.2f}"
    return text + (f" ({ratio['min']:.2f}–{ratio['max']:.2f})" if rounds > 1 else "")


def verdict(record: dict[str, Any], name: str, goal: Goal) -> str:
    """Whether the median ratio meets the goal; in a race, our loss must also be no worse than the peer's."""
    peer, losses = record["peer"], record["losses"]
    if goal.asked is None or peer is None or name == memory.TORCH:
        return "–"
    median = record["ratios"][name]["median"]
    met = median <= goal.asked if record["unit"] in LESS_IS_BETTER else median >= goal.asked
    if losses:
        met = met and losses[name] <= losses[peer]
    return "yes" if met else "no"


def short(commit: str) -> str:
    """The first seven digits of a commit, and whether it was dirty."""
    digits_of, dash, dirty = commit.partition("-")
    return digits_of[:7] + dash + dirty


def page(records: Sequence[dict[str, Any]]) -> str:
    """The README.md of a device, from all its files of figures, newest first."""
    newest = records[0]
    device = newest["gpu"] or f"{newest['cpu']} {newest['instructions']}".strip()
    lines = [
        f"# Speed on {device}, {counted(newest['cores'], 'core')}",
        "",
        "`make bench` wrote this from the JSON files beside it, which lie in a folder for each commit. See",
        "[docs/benchmarks.md](../../../docs/benchmarks.md). Each figure is a median over rounds. A ratio is",
        "ours divided by the peer's of the same round: the median, with the smallest and the largest. Fewer",
        "seconds and MiB are better; of anything per second or minute, more is. A race to a loss is met only",
        "if our loss is at most the peer's.",
        "",
        line(HEADING),
        line(["---"] * len(HEADING)),
    ]
    return "\n".join([*lines, *(line(row) for record in records for row in rows_of(record)), ""])


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# ------------------------------------------------------------------------------------------------ all of it


def run(flags: Flags) -> None:
    check_data(flags)
    device, jobs, failed = device_of(flags), selected(flags), []
    with tempfile.TemporaryDirectory() as scratch:
        of_device = Path(scratch if flags.quick else RESULTS, device)
        folder = of_device / short(race.state_of_code()[0])
        read_records(of_device)  # report a file that cannot be read now, not in half an hour
        for number, job in enumerate(jobs, 1):
            words = command(job, flags, folder)
            print(f"\n[{number}/{len(jobs)}] {job.script} {' '.join(words[2:-1])}", flush=True)
            ended = subprocess.run(words).returncode
            unknown = sorted({path.stem for path in folder.glob("*.json")} - GOALS.keys())
            if ended or unknown:
                why = f", whose figures have no row in GOALS: {', '.join(unknown)}" if unknown else ""
                failed.append(f"{job.script} ({number} of {len(jobs)}){why}")
            if records := read_records(of_device):
                text_of_page = page(records)
                (of_device / "README.md").write_text(text_of_page, encoding="utf-8")
        if flags.quick and records:
            print(f"\n{text_of_page}", flush=True)
    if failed:
        console.print(f"failed, so that the table lacks new figures of them: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main(Flags, run)
