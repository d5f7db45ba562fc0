"""Fetch or convert an image set once, check it, and say what came out. Needs no GPU: a login node will do.

    python data/prepare.py synthetic
    python data/prepare.py celeba
    python data/prepare.py path/to/my/photos --image_size=128 --contact_sheet=sheet.png

Exit code 0: the set is ready; 1: it could not be fetched; 2: the request or the user's data is at fault.
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a script: imports start at the repository, from any working directory
    sys.path[0] = str(ROOT)

import numpy as np
import tyro
from rich.console import Console

from data import DataError
from data.images import LAYOUTS, load_arrays

# scikit-learn's copy of the archive that torchvision expects; the university's own server is gone
LFW_URL = "https://ndownloader.figshare.com/files/5976015"
LFW_MD5 = "1b42dfed7d15c9b2dd63d5e5840c86ad"
LFW_IMAGES = 13_233
CELEBA_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (files on Google Drive)"
CELEBA_IMAGES = 202_599
ARCHIVES = {  # what may be placed by hand instead of the unpacked images
    "celeba": "celeba/img_align_celeba.zip",
    "lfw": f"lfw-py/lfw-funneled.tgz, md5 {LFW_MD5}",
}
TIMEOUT = 60  # seconds without a byte; without it a firewall that drops packets would hang the download


@dataclass
class Config:
    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET|FOLDER")]
    """synthetic, celeba, lfw, or a folder of your own images"""
    data_dir: Path = ROOT / "data" / "store"
    """where sets and their cache lie"""
    image_size: int = 64
    """pixels a side of the cached square images"""
    contact_sheet: Path | None = None
    """also draw 100 of the training images, as a model will see them, into this PNG file"""


class FetchError(Exception):
    """A set could not be fetched; the message says what, from where, and how to place it by hand."""


# ---- fetching: one function per set that is not made here ------------------------------------------------


def fetch_celeba(data_dir: Path) -> None:
    """Bring celeba/ into torchvision's layout; what already lies there and is right is kept."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import check_integrity, download_file_from_google_drive, extract_archive

    base = data_dir / "celeba"
    images = base / "img_align_celeba"
    have_images = images.is_dir() and len(os.listdir(images)) >= CELEBA_IMAGES
    with _staging("celeba", data_dir, CELEBA_URL) as staging:
        for file_id, md5, name in CelebA.file_list:
            if check_integrity(base / name, md5) or (have_images and name.endswith(".zip")):
                continue
            download_file_from_google_drive(file_id, staging, name, md5)
            base.mkdir(exist_ok=True)
            os.replace(staging / name, base / name)
        if not have_images:
            extract_archive(base / "img_align_celeba.zip", staging)
            shutil.rmtree(images, ignore_errors=True)  # a half-unpacked folder would pass for a whole one
            os.replace(staging / "img_align_celeba", images)


def fetch_lfw(data_dir: Path) -> None:
    """Bring lfw-py/lfw_funneled/ into torchvision's layout, from the archive there or from the network."""
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    base = data_dir / "lfw-py"
    if sum(1 for _ in base.glob("lfw_funneled/*/*.jpg")) >= LFW_IMAGES:
        return
    with _staging("lfw", data_dir, LFW_URL) as staging:
        archive = base / "lfw-funneled.tgz"
        if not check_integrity(archive, LFW_MD5):
            download_url(LFW_URL, staging, archive.name, LFW_MD5)
            base.mkdir(exist_ok=True)
            os.replace(staging / archive.name, archive)
        extract_archive(archive, staging)
        shutil.rmtree(base / "lfw_funneled", ignore_errors=True)
        os.replace(staging / "lfw_funneled", base / "lfw_funneled")


FETCH: dict[str, Callable[[Path], None]] = {"celeba": fetch_celeba, "lfw": fetch_lfw}


@contextmanager
def _staging(name: str, data_dir: Path, url: str):
    """A folder beside the final place from which only whole, checked files are moved; gone at the end."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"--data_dir={data_dir} cannot be made: {e.strerror}") from None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}_", dir=data_dir) as staging:
            yield Path(staging)
    except Exception as e:  # gdown, zipfile, tarfile and urllib share no base class
        why = " ".join(str(e).split()).rstrip(".")[:300] or type(e).__name__
        raise FetchError(
            f"{name} could not be fetched from {url}: {why}. By hand, place in {data_dir} {LAYOUTS[name]}; "
            f"or, in place of the images, {ARCHIVES[name]}, and run this command again to unpack it"
        ) from None


# ---- the command -----------------------------------------------------------------------------------------


def contact_sheet(images: np.ndarray, file: Path) -> None:
    """Write 10×10 images, evenly taken from (N, S, S, 3), as a PNG."""
    from PIL import Image

    n, size = len(images), images.shape[1]
    sheet = np.full((100, size, size, 3), 255, np.uint8)
    chosen = np.unique(np.linspace(0, n - 1, 100).astype(int))  # fewer than 100 images leave white places
    sheet[: len(chosen)] = images[chosen]
    sheet = sheet.reshape(10, 10, size, size, 3).swapaxes(1, 2).reshape(10 * size, 10 * size, 3)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(file, format="PNG")
    except OSError as e:
        raise DataError(f"--contact_sheet={file}: {e.strerror or e}") from None


def prepare(cfg: Config) -> None:
    """Fetch what is to be fetched, fill the cache, and print counts, size, hash and place."""
    if cfg.dataset in FETCH:
        FETCH[cfg.dataset](cfg.data_dir)
    name, content_hash, parts, path = load_arrays(cfg.dataset, str(cfg.data_dir), cfg.image_size)
    counts = ", ".join(f"{len(rows):,} {part}" for part, rows in parts.items())
    size = cfg.image_size
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{name}: {sum(map(len, parts.values())):,} images of {size}×{size}×3 ({counts})")
    console.print(f"content hash {content_hash}; cache {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    if cfg.contact_sheet is not None:
        contact_sheet(parts["train"], cfg.contact_sheet)
        console.print(f"contact sheet {cfg.contact_sheet}")
    console.print(f"train with --dataset={cfg.dataset} --data_dir={cfg.data_dir} --image_size={size}")


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    cfg = tyro.cli(Config, description=__doc__, args=args, use_underscores=True)
    socket.setdefaulttimeout(TIMEOUT)
    try:
        prepare(cfg)
    except (DataError, FetchError) as e:
        Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(str(e))
        return 1 if isinstance(e, FetchError) else 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
