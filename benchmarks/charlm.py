"""Characters per second that charlm generates; its training time and loss beside those of nanoGPT.

    python benchmarks/charlm.py --threads 1
    python benchmarks/charlm.py --race --peer path/to/nanoGPT --data_dir data/store --threads 2

Generation, in fp32, with untrained weights, which cost as much as trained ones: `generate`, which keeps what
it has read in a cache, is compared with a loop that reads the last full window again for each character and
draws from the last logits, as nanoGPT's does (the logits of the other positions are 1 % of its work). Both
begin after a full window, and the time to read it counts. Rounds of both alternate (benchmarks/race.py).
Their texts differ: with the cache each layer attends to a window, so a character depends on more text than
the loop has read. Several texts at a time are also compared with the loop that writes one after the other, as
nanoGPT's sample.py does.

With --race both train, one after the other, each in a process of its own with --threads threads. Our model
uses the default recipe for --race_steps; nanoGPT (--peer, a checkout of github.com/karpathy/nanoGPT) uses the
CPU setting of its README, from which the sizes of both are taken. Its loader reads our tinyshakespeare. Both
are scored with their last weights by charlm's `evaluate`, on the last 10 % of the text, in consecutive
windows, each character once. nanoGPT trains on the 90 % before that, our model on the same without its last
10,000 characters. Without --peer only our model is trained, on tinyshakespeare, or with --dataset=pydoc on
the text that comes along.

Only the seconds of the updates count, without reading the data, building the model and evaluating. nanoGPT
evaluates before its first update. It saves only when it evaluates, so it must evaluate after the last update,
too. It prints a line for each update: the time begins at the line after the first evaluation, and ends at the
line of the last update before the second evaluation.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import race
from data import text
from research import charlm
from research.common.commandline import main
from research.common.flags import require
from research.common.randomness import make_rng
from research.parts.charlm_sampling import Decoding, generate

CPU = torch.device("cpu")
VOCAB_SIZE = 65  # of tinyshakespeare
SIZES = (  # layers, width, heads, window, batch
    (4, 128, 4, 64, 1),  # nanoGPT's CPU setting
    (4, 128, 4, 64, 16),  # the same for 16 texts at a time
    (6, 384, 6, 256, 1),  # its GPU setting
)


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time generation with charlm, or race it against nanoGPT."""

    race: bool = False
    """train ours and nanoGPT, instead of timing generation"""
    peer: str | None = None
    """race: checkout of karpathy/nanoGPT"""
    dataset: Literal["shakespeare", "pydoc"] = "shakespeare"
    """race: what ours learns; pydoc, which needs no download, only without --peer"""
    data_dir: str = "data/store"
    """race: where tinyshakespeare lies"""
    threads: int = 1
    """CPU threads of torch"""
    race_steps: int = 500
    """race: training steps of ours"""
    peer_steps: int = 2000
    """race: training steps of nanoGPT; its README has 2000"""
    chars: int = 1000
    """characters that a round writes to each text with the cache"""
    uncached_chars: int = 100
    """the same without it"""
    rounds: int = 6
    """rounds of each, in turn; the first of each is not counted"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("threads", "race_steps", "peer_steps", "chars", "uncached_chars"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.rounds >= 2, self, "rounds", "at least 2, of which the first is not counted")
        require(self.race or self.peer is None, self, "peer", "used with --race")
        is_checkout = self.peer is None or Path(self.peer, "train.py").is_file()
        require(is_checkout, self, "peer", "a checkout of karpathy/nanoGPT")
        known = self.peer is None or self.dataset == "shakespeare"
        require(known, self, "dataset", "shakespeare with --peer")


# ------------------------------------------------------------------------------------------------ race


def config(flags: Flags) -> charlm.Config:
    """Our default recipe at the sizes of nanoGPT's CPU setting."""
    n_layers, width, n_heads, seq_len, _ = SIZES[0]
    return charlm.Config(
        dataset=flags.dataset,
        data_dir=flags.data_dir,
        steps=flags.race_steps,
        batch_size=12,
        n_layers=n_layers,
        n_heads=n_heads,
        embed_dim=width,
        seq_len=seq_len,
    )


def ours(flags: Flags) -> tuple[float, float]:
    """Seconds of training, and test loss in nats, of our model, by the loop of `charlm.train` without its
    log.
    """
    torch.set_num_threads(flags.threads)
    cfg = config(flags)
    data = charlm.load_data(cfg)
    model = charlm.build(cfg, data.text.alphabet, CPU)
    optimizer, part = charlm.optimizers(model, cfg), data.parts["train"]
    began = time.perf_counter()
    for step in range(cfg.steps):
        rng = make_rng(cfg.seed, step, "train")
        loss, _ = charlm.loss_fn(model, part.batch(cfg.batch_size, rng), rng if cfg.dropout else None, cfg)
        rate = charlm.lr_at(step, cfg)
        for one in optimizer:
            for group in one.param_groups:
                group["lr"] = rate * (10 if isinstance(one, torch.optim.Muon) else 1)
            one.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        for one in optimizer:
            one.step()
    took = time.perf_counter() - began
    return took, charlm.evaluate(model, data.parts["test"], "test", cfg, CPU)["test/loss"]


def peer(flags: Flags) -> tuple[float, float]:
    """The same for nanoGPT, in a copy of its checkout, since its prepare.py downloads the text if it is
    missing.
    """
    cfg = config(flags)
    data = charlm.load_data(cfg)
    with tempfile.TemporaryDirectory() as tmp:
        tree = Path(tmp, "nanoGPT")
        left_out = shutil.ignore_patterns(".git", "out*", "*.bin", "*.pkl")  # its output, which may be large
        shutil.copytree(flags.peer, tree, ignore=left_out)
        folder = tree / "data/shakespeare_char"
        shutil.copy(text.place(Path(flags.data_dir)), folder / "input.txt")
        prepare = [sys.executable, "data/shakespeare_char/prepare.py"]
        subprocess.run(prepare, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        theirs = np.fromfile(folder / "val.bin", np.uint16)
        assert np.array_equal(theirs, data.text.test), f"{len(theirs)} characters, not our test part"
        took = train_peer(flags, cfg, tree)
        model = peer_model(tree, flags.peer_steps)

    def logits(tokens: Tensor, _: None) -> Tensor:  # without targets it returns only the last position
        return model(tokens, tokens.contiguous())[0]

    return took, charlm.evaluate(logits, data.parts["test"], "test", cfg, CPU)["test/loss"]


def train_peer(flags: Flags, cfg: charlm.Config, tree: Path) -> float:
    """Run nanoGPT's train.py; returns the seconds of its updates, without its evaluations."""
    n = flags.peer_steps
    command = [sys.executable, "-u", "train.py", "config/train_shakespeare_char.py", "--device=cpu"]
    command += ["--compile=False", "--eval_iters=20", "--log_interval=1", f"--block_size={cfg.seq_len}"]
    command += [f"--batch_size={cfg.batch_size}", f"--n_layer={cfg.n_layers}", f"--n_head={cfg.n_heads}"]
    command += [f"--n_embd={cfg.embed_dim}", f"--max_iters={n}", f"--lr_decay_iters={n}", "--dropout=0.0"]
    # Unlike its README, it evaluates only before the first update and after the last one, and saves then
    command += [f"--eval_interval={n}", "--always_save_checkpoint=True", "--out_dir=out"]
    threads = {"OMP_NUM_THREADS": str(flags.threads), "MKL_NUM_THREADS": str(flags.threads)}
    env = os.environ | threads | {"PYTHONWARNINGS": "ignore"}
    at: dict[str, float] = {}  # when a line came, by what stands before its colon
    with subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            at[line.partition(":")[0]] = time.perf_counter()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return at[f"iter {n - 1}"] - at["step 0"]  # it counts from 0; the update after saving is left out


def peer_model(tree: Path, steps: int) -> nn.Module:
    """nanoGPT's own model with the weights that it has saved."""
    module = race.module_of(tree / "model.py")
    saved = torch.load(tree / "out/ckpt.pt", map_location=CPU, weights_only=True)
    assert saved["iter_num"] == steps, f"saved after {saved['iter_num']} updates, not {steps}"
    model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    return model.eval()


def train_both(flags: Flags) -> None:
    """Print seconds of training and test loss of our model and of nanoGPT."""
    cfg = config(flags)
    sizes = f"{cfg.n_layers} x {cfg.embed_dim}, window {cfg.seq_len}, batch {cfg.batch_size}"
    race.begin(flags.threads, sizes, "tinyshakespeare" if flags.dataset == "shakespeare" else flags.dataset)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        took, loss = pool.submit(ours, flags).result()
    how = f"{cfg.steps} steps, trained on all but the last 10 % and 10,000 characters"
    print(f"ours    {took:6.1f} s   test loss {loss:.4f} nats   ({how})", flush=True)
    figures, losses = {"ours": [took]}, {"ours": loss}
    if flags.peer:
        peer_took, peer_loss = peer(flags)
        how = f"{flags.peer_steps} steps, trained on the first 90 %"
        print(f"nanoGPT {peer_took:6.1f} s   test loss {peer_loss:.4f} nats   ({how})", end="; ")
        print(f"ours took {took / peer_took:.2f} of it")
        figures["nanoGPT"], losses["nanoGPT"] = [peer_took], peer_loss
    race.keep(flags, __file__, figures, "s", peer="nanoGPT", variant="race", losses=losses)


# ------------------------------------------------------------------------------------------------ generation


def cached(model: nn.Module, prompt: Tensor, n_chars: int, rng: torch.Generator) -> None:
    generate(model, prompt, n_chars, Decoding(strategy="temperature"), rng)


@torch.no_grad()
def uncached(model: nn.Module, prompt: Tensor, n_chars: int, rng: torch.Generator) -> None:
    window = prompt
    for _ in range(n_chars):
        p = torch.softmax(model(window)[:, -1], -1)
        window = torch.cat((window[:, 1:], torch.multinomial(p, 1, generator=rng)), 1)


def generation(flags: Flags) -> None:
    """Print characters per second, for all texts together, with the cache and without it."""
    race.begin(flags.threads, "fp32", "untrained weights")
    alphabet = "".join(map(chr, range(32, 32 + VOCAB_SIZE)))
    for n_layers, width, n_heads, seq_len, batch in SIZES:
        cfg = charlm.Config(n_layers=n_layers, embed_dim=width, n_heads=n_heads, seq_len=seq_len)
        model, rng = charlm.build(cfg, alphabet, CPU), make_rng(0, 0, "pictures")
        prompt = torch.randint(VOCAB_SIZE, (batch, seq_len), generator=rng)
        contenders = {}
        for write, n_chars in ((cached, flags.chars), (uncached, flags.uncached_chars)):
            work = partial(write, model, prompt, n_chars, rng)
            contenders[write.__name__] = race.speed_of(work, batch * n_chars)
        one_text = "uncached, 1 text"
        if batch > 1:
            work = partial(uncached, model, prompt[:1], flags.uncached_chars, rng)
            contenders[one_text] = race.speed_of(work, flags.uncached_chars)
        print(f"{n_layers} x {width}, {n_heads} heads, window {seq_len}, batch {batch}")
        figures = race.alternate(contenders, flags.rounds)
        race.report(figures, "characters/s", peer="uncached")
        for other, variant in (("uncached", f"batch-{batch}"), (one_text, f"batch-{batch}-against-1")):
            if other in figures:
                two = {name: figures[name] for name in ("cached", other)}
                variant = f"{n_layers}x{width}-{variant}"
                race.keep(flags, __file__, two, "characters/s", peer=other, variant=variant)


def run(flags: Flags) -> None:
    if flags.race:
        train_both(flags)
    else:
        generation(flags)


if __name__ == "__main__":
    main(Flags, run)
