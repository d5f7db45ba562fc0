"""Download or convert a data set once, check it, and report the result. Needs no GPU: a login node will do.

    python data/prepare.py synthetic
    python data/prepare.py celeba
    python data/prepare.py mnist
    python data/prepare.py path/to/gzip/emnist-letters --transpose
    python data/prepare.py path/to/my/photos --image_size=128 --contact_sheet=sheet.png
    python data/prepare.py shakespeare
    python data/prepare.py path/to/lyrics.csv --encoding=cp1251
    python data/prepare.py onehot path/to/lines.txt --onehot_dir=arrays

Exit code 0: the set is ready; 1: it could not be downloaded; 2: the request or the user's data is wrong.
"""

import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Annotated
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a script: imports start at the repository, from any working directory
    sys.path[0] = str(ROOT)

import numpy as np
import tyro
from rich.console import Console

from data import DataError, digits, images, text
from data.files import reason
from data.images import load_arrays
from data.lyrics import ENDINGS
from data.names import closest
from data.terminal import replace_unwritable
from data.text_files import read_whole, unpacked_name

# scikit-learn's copy of the archive that torchvision expects; the university's own server no longer exists
LFW_URL = "https://ndownloader.figshare.com/files/5976015"
LFW_MD5 = "1b42dfed7d15c9b2dd63d5e5840c86ad"
LFW_IMAGES = 13_233
CELEBA_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (files on Google Drive)"
CELEBA_IMAGES = 202_599
MIRRORS = {  # those of torchvision, tried in this order
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    "fashion": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}
ARCHIVES = {  # archives that may be placed by hand instead of the unpacked images
    "celeba": "celeba/img_align_celeba.zip",
    "lfw": f"lfw-py/lfw-funneled.tgz, md5 {LFW_MD5}",
}
LAYOUTS = images.LAYOUTS | digits.LAYOUTS | text.LAYOUTS
TIMEOUT = 60  # seconds without a byte; without a limit, a firewall that drops packets would hang the download


@dataclass
class Config:
    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET|FOLDER|FILE")]
    """synthetic, celeba, lfw or a folder of your own images; digits, mnist, fashion, IDX files or a .csv of
    pixels; pydoc, shakespeare, a text file or a .csv of lyrics; or onehot, to write the lines of FILE as
    arrays"""
    file: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """after onehot: a text file; each line that is not blank becomes one array"""
    data_dir: Path = ROOT / "data" / "store"
    """folder of the data sets and their cache"""
    image_size: int | None = None
    """edge of the cached square images in pixels; default: 64; digits, mnist and fashion always have 28"""
    transpose: bool = False
    """for sets with 28×28 pixels: exchange rows and columns, as EMNIST's files need it"""
    contact_sheet: Path | None = None
    """also draw 100 of the training images, as a model will see them, into this PNG file"""
    onehot_dir: Path | None = None
    """for onehot: the folder to write, new or empty; default: <FILE without its ending>_onehot"""
    encoding: str | None = None
    """encoding of a text file, such as cp1251; default: UTF-8, or what its byte order mark says"""
    columns: str | None = None
    """columns of a CSV of lyrics: artist=Band,song=Titel,lyrics=Text; default: the usual names"""


def _say(line: str) -> None:
    Console(markup=False, highlight=False, soft_wrap=True).print(line)


class FetchError(Exception):
    """A set could not be fetched; the message says what, from where, and how to place it by hand."""


# ---- fetching: a function for each set that must be downloaded -------------------------------------------


def fetch_celeba(data_dir: Path) -> None:
    """Download celeba/ into torchvision's layout; files that are already there and right are kept."""
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
            shutil.rmtree(images, ignore_errors=True)  # a half-unpacked folder would look like a whole one
            os.replace(staging / "img_align_celeba", images)


def fetch_lfw(data_dir: Path) -> None:
    """Unpack lfw-py/lfw_funneled/ into torchvision's layout, from the archive there or from the network."""
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


def fetch_idx(name: str, data_dir: Path) -> None:
    """Download the four files of `mnist` or `fashion` into torchvision's layout; those that are right are
    kept.
    """
    sums, raw = digits.CHECKSUMS[name], data_dir / digits.FOLDERS[name]
    place = digits.place(name, data_dir)
    if place and all(_intact(place, file, sums[file]) for file in digits.FILES):
        _say(f"{name}: all files are there, in {place}")
        return
    for file in digits.FILES:
        if _intact(raw, file, sums[file]):
            _say(f"{name}: {file} is there")
            continue
        with _staging(name, data_dir, " or ".join(MIRRORS[name])) as staging:
            archive = _download(MIRRORS[name], staging, file, sums[file])
            raw.mkdir(parents=True, exist_ok=True)
            os.replace(archive, raw / archive.name)
        _say(f"{name}: {archive.name} fetched, {(raw / archive.name).stat().st_size / 1e6:.2f} MB")


def fetch_shakespeare(data_dir: Path) -> None:
    """Download shakespeare/input.txt, unless it is there and right."""
    with suppress(DataError, OSError):
        if (place := text.place(data_dir)) is not None:
            text.check_shakespeare(place)
            _say(f"shakespeare: the file is there, {place}")
            return
    with _staging("shakespeare", data_dir, text.SHAKESPEARE_URL) as staging:
        with urlopen(text.SHAKESPEARE_URL, timeout=TIMEOUT) as reply, open(staging / "input.txt", "wb") as f:
            shutil.copyfileobj(reply, f)
            f.flush()
            os.fsync(f.fileno())
        text.check_shakespeare(staging / "input.txt")
        final = data_dir / text.PLACES[0]
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / "input.txt", final)
    _say(f"shakespeare: {final} fetched, {final.stat().st_size / 1e6:.2f} MB")


def _intact(folder: Path, file: str, sums: tuple[str, str | None]) -> bool:
    try:
        return digits.read_file(folder, file, sums) is not None
    except DataError:
        return False


def _download(mirrors: tuple[str, ...], staging: Path, file: str, sums: tuple[str, str | None]) -> Path:
    """Fetch a .gz from the first mirror that has the official one. Raises OSError with all reasons."""
    archive, reasons = staging / f"{file}.gz", []
    for mirror in mirrors:
        try:
            with urlopen(mirror + archive.name, timeout=TIMEOUT) as reply, open(archive, "wb") as f:
                shutil.copyfileobj(reply, f)
                f.flush()
                os.fsync(f.fileno())
            digits.read_file(staging, file, sums)
            return archive
        except (OSError, HTTPException, DataError) as e:
            reasons.append(str(e).removeprefix(f"{archive}: "))
    raise OSError(f"{archive.name}: {'; '.join(reasons)}")


FETCH: dict[str, Callable[[Path], None]] = {
    "celeba": fetch_celeba,
    "lfw": fetch_lfw,
    "mnist": partial(fetch_idx, "mnist"),
    "fashion": partial(fetch_idx, "fashion"),
    "shakespeare": fetch_shakespeare,
}


@contextmanager
def _staging(name: str, data_dir: Path, url: str):
    """A `with` block with a temporary folder, from which only whole, checked files are moved to their place.

    Raises FetchError if anything in the block fails.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"--data_dir={data_dir} cannot be made: {e.strerror}") from None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}_", dir=data_dir) as staging:
            yield Path(staging)
    except Exception as e:  # the exceptions of gdown, zipfile, tarfile and urllib have no common base class
        why = " ".join(str(e).split()).rstrip(".")[:600] or type(e).__name__
        by_hand = f"place in {data_dir} {LAYOUTS[name]}"
        if name in ARCHIVES:
            by_hand += (
                f"; or, in place of the images, {ARCHIVES[name]}, and run this command again to unpack it"
            )
        raise FetchError(f"{name} could not be fetched from {url}: {why}. By hand, {by_hand}") from None


# ---- the command -----------------------------------------------------------------------------------------


def contact_sheet(images: np.ndarray, file: Path) -> None:
    """Write a PNG with 10×10 images, evenly chosen from images (N, S, S, 3) or (N, S, S)."""
    from PIL import Image

    n, size, _, *channels = images.shape
    sheet = np.full((100, size, size, *channels), 255, np.uint8)
    chosen = np.unique(np.linspace(0, n - 1, 100).astype(int))  # below 100 images, some places stay white
    sheet[: len(chosen)] = images[chosen]
    rows = sheet.reshape(10, 10, size, size, *channels).swapaxes(1, 2)
    sheet = rows.reshape(10 * size, 10 * size, *channels)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(file, format="PNG")
    except OSError as e:
        raise DataError(f"--contact_sheet={file}: {e.strerror or e}") from None


def prepare(cfg: Config) -> None:
    """Fetch a set if necessary, fill its cache if it has one, and print counts, size and hash."""
    if cfg.dataset == "onehot":
        write_one_hot(cfg)
        return
    for flag, value in (("FILE", cfg.file), ("--onehot_dir", cfg.onehot_dir)):
        if value is not None:
            raise DataError(f"{flag}={value}: only onehot takes it, as in `onehot FILE`")
    source, size = _source(cfg.dataset), 64 if cfg.image_size is None else cfg.image_size
    if source is digits and cfg.image_size not in (None, digits.SIZE):
        raise DataError(f"--image_size={size}: {cfg.dataset} is kept at 28×28 pixels")
    if source is not digits and cfg.transpose:
        raise DataError(f"--transpose: {cfg.dataset} is not a set of 28×28 pixels in classes")
    if source is text:
        for flag, value in (("--image_size", cfg.image_size), ("--contact_sheet", cfg.contact_sheet)):
            if value is not None:
                raise DataError(f"{flag}={value}: {cfg.dataset} is text, not images")
    else:
        for flag, value in (("--encoding", cfg.encoding), ("--columns", cfg.columns)):
            if value is not None:
                raise DataError(f"{flag}={value}: {cfg.dataset} is images, not text")
    if cfg.dataset in FETCH:
        FETCH[cfg.dataset](cfg.data_dir)
    if source is text:
        _prepare_text(cfg)
        return
    if source is digits:
        name, content_hash, pairs, class_names = digits.load_arrays(cfg.dataset, cfg.data_dir, cfg.transpose)
        parts = {part: pictures for part, (pictures, _) in pairs.items()}
        shape, cache = f"28×28 in {len(class_names)} classes", "no cache is needed"
        flag = " --transpose" if cfg.transpose else ""
    else:
        name, content_hash, parts, path = load_arrays(cfg.dataset, str(cfg.data_dir), size)
        shape, flag = f"{size}×{size}×3", f" --image_size={size}"
        cache = f"cache {path} ({path.stat().st_size / 1e6:,.1f} MB)"
    counts = ", ".join(f"{len(rows):,} {part}" for part, rows in parts.items())
    _say(f"{name}: {sum(map(len, parts.values())):,} images of {shape} ({counts})")
    _say(f"content hash {content_hash}; {cache}")
    if cfg.contact_sheet is not None:
        contact_sheet(parts["train"], cfg.contact_sheet)
        _say(f"contact sheet {cfg.contact_sheet}")
    _say(f"train with --dataset={cfg.dataset} --data_dir={cfg.data_dir}{flag}")


def _prepare_text(cfg: Config) -> None:
    name, content_hash, alphabet, parts, songs, report = text.load_arrays(
        cfg.dataset, cfg.data_dir, encoding=cfg.encoding, columns=cfg.columns
    )
    counts = ", ".join(f"{len(ids):,} {part}" for part, (ids, _) in parts.items())
    _say(f"{name}: {sum(len(ids) for ids, _ in parts.values()):,} characters ({counts})")
    if songs is not None:
        counts = ", ".join(f"{len(starts) - 1:,} {part}" for part, (_, starts) in parts.items())
        _say(f"{len(songs):,} songs of {songs['artist'].nunique():,} artists ({counts})")
    more = "…" if len(alphabet) > 200 else ""
    _say(f"alphabet of {len(alphabet):,}: {alphabet[:200]!r}{more}")
    for line in report:
        _say(f"  {line}")
    cache = getattr(parts["train"][0], "filename", None)  # only a memory map has one
    _say(f"content hash {content_hash}; {f'ids mapped from {cache}' if cache else 'no cache is needed'}")
    flags = {
        "dataset": cfg.dataset,
        "data_dir": cfg.data_dir,
        "encoding": cfg.encoding,
        "columns": cfg.columns,
    }
    given = [shlex.quote(f"--{flag}={value}") for flag, value in flags.items() if value is not None]
    _say(f"train with {' '.join(given)}")


def write_one_hot(cfg: Config) -> None:
    """Write alphabet.npy, V single characters, and for each line a sample_NNNN.npy, one-hot, uint8 (T, V)."""
    if cfg.file is None:
        raise DataError("onehot needs the FILE whose lines are to be written: `onehot FILE`")
    if cfg.columns is not None:
        raise DataError(f"--columns={cfg.columns}: onehot writes the lines of a text, not of a CSV")
    folder = cfg.onehot_dir or Path(f"{unpacked_name(cfg.file).stem}_onehot")
    what = f"FILE={cfg.file}"
    try:
        whole, report = read_whole(cfg.file.expanduser(), what, cfg.encoding)
    except OSError as e:
        raise DataError(f"{what} cannot be read: {reason(e)}") from None
    lines = [line.removesuffix("\r") for line in whole.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{what} has only blank lines")
    alphabet = "".join(sorted(set().union(*lines)))
    digits_of_number = max(4, len(str(len(lines) - 1)))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"--onehot_dir={folder} is not empty: name a new folder, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "alphabet.npy", np.array(list(alphabet)))
        for i, line in enumerate(lines):
            np.save(folder / f"sample_{i:0{digits_of_number}d}.npy", text.one_hot(line, alphabet))
    except OSError as e:
        raise DataError(f"--onehot_dir={folder} cannot be written: {reason(e)}") from None
    for line in report:
        _say(f"  {line}")
    lengths = sorted(map(len, lines))
    _say(f"{folder}: alphabet.npy, {len(alphabet):,} characters: {alphabet!r}")
    _say(
        f"{folder}: {len(lines):,} samples, uint8 (T, {len(alphabet)}), T from {lengths[0]} to {lengths[-1]}"
    )


def _source(dataset: str) -> ModuleType:
    """The module that loads this set; for a mistyped name, the one that has a similar name."""
    if digits.holds(dataset):
        return digits
    if text.holds(dataset) or dataset.lower().removesuffix(".gz").endswith((".txt", *ENDINGS)):
        return text
    if not os.path.exists(os.path.expanduser(dataset)):
        names = {name: source for source in (images, digits, text) for name in source.NAMED_SETS}
        if (meant := closest(names, dataset.lower())) is not None:
            return names[meant]
    return images


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    replace_unwritable()
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
