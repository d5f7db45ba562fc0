"""Image files as people have them: found in folders, hashed by content, decoded to one shape.

Nothing here stops at a bad file: it is handed back with the reason. Nothing is written beside the files.
"""

import functools
import hashlib
import json
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from data.files import reason as reason_of_any
from data.files import write_whole

# Left out of all that Pillow opens: vector formats (EPS would run Ghostscript on a user's file) and stubs
NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BIG = 16e6  # pixels; larger ones are decoded one at a time: eight scans of 100 megapixels would take 5 GB
_one_big = threading.Lock()


@functools.cache
def formats() -> tuple[list[str], set[str]]:
    """Pillow's names of the formats that are read, and their file endings ('.png')."""
    Image.init()
    names = sorted(set(Image.OPEN) - NOT_READ)
    return names, {ending for ending, name in Image.registered_extensions().items() if name in names}


# ---- finding and hashing -------------------------------------------------------------------------------


def find(folder: Path, memory_dir: Path) -> tuple[dict[str, str], list[tuple[str, str]], int]:
    """Look for images in a folder and below, by their ending; hidden files and folders are passed over.

    Returns relative path -> sha256 of the bytes; (path, reason) of what cannot be read; how many other files.
    Hashes are remembered in memory_dir by path, size and modification time: a second look only lists files.
    """
    found, broken, others = _walk(folder)
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    memory, known = memory_dir / f"files_{place}.json", {}
    with suppress(OSError, ValueError, TypeError):  # missing or damaged: hash again
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    new = [file for file, stamp in found.items() if stamp not in known]

    def sha256(file: str) -> tuple[str, str]:
        try:
            with open(folder / file, "rb") as f:
                return hashlib.file_digest(f, "sha256").hexdigest(), ""
        except OSError as e:
            return "", reason(e)

    with closing(in_order(sha256, new, "reading")) as results:
        for file, (digest, error) in zip(new, results):
            if error:
                broken.append((file, error))
            else:
                known[found[file]] = digest
    hashes = {file: known[stamp] for file, stamp in found.items() if stamp in known}
    if new and hashes:
        current = {found[file]: digest for file, digest in hashes.items()}
        with suppress(OSError):  # a read-only place costs only the time to hash again
            write_whole(memory, lambda f: f.write(json.dumps(current).encode()))
    return hashes, broken, others


def _walk(folder: Path) -> tuple[dict[str, str], list[tuple[str, str]], int]:
    """Relative path -> 'path|size|mtime' of image files; (path, reason) of unreadable ones; other files."""
    found, broken, others, seen = {}, [], 0, set()

    def unreadable(e: OSError) -> None:
        broken.append((os.path.relpath(e.filename, folder), reason(e)))

    for where, subfolders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here = os.stat(where)
        if (here.st_dev, here.st_ino) in seen:  # a second link to one folder, or a loop
            subfolders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in formats()[1]:
                others += 1
                continue
            file = os.path.relpath(os.path.join(where, name), folder)
            try:
                info = os.stat(os.path.join(where, name))
            except OSError as e:
                unreadable(e)
                continue
            if stat.S_ISREG(info.st_mode):
                found[file] = f"{file}|{info.st_size}|{info.st_mtime_ns}"
            else:
                broken.append((file, "not a regular file"))  # opening a pipe would wait for ever
    return found, broken, others


# ---- decoding ------------------------------------------------------------------------------------------


def decode(file: str | Path, image_size: int) -> np.ndarray:
    """Read an image of any size, mode and format as uint8 (S, S, 3): upright, on white, the centre square.

    Of an animation the first frame. 16-bit and float images are scaled to 8 bits, not clipped. Antialiased.
    """
    with Image.open(file, formats=formats()[0]) as image:  # refuses what unpacks to over 179 megapixels
        # JPEG: decode at 1/2, 1/4, 1/8 where that is enough
        image.draft(None, (3 * image_size, 3 * image_size))
        with _one_big if image.width * image.height > BIG else nullcontext():
            image.load()
            orientation = None
            with suppress(Exception):  # whatever a damaged EXIF block raises, the pixels are fine
                orientation = image.getexif().get(EXIF_ORIENTATION)
            rgb = _rgb(image)
            if orientation in UPRIGHT:
                rgb = rgb.transpose(UPRIGHT[orientation])
            side = min(rgb.size)
            left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
            rgb = rgb.crop((left, top, left + side, top + side))
            return np.asarray(rgb.resize((image_size,) * 2, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.nan_to_num(np.asarray(image).astype(np.float32))
        low, high = float(grey.min()), float(grey.max())
        # Integers span 16 bits, floats [0, 1], 8 or 16 bits; what fits none is stretched from its own range.
        spans = (1, 255, 65535) if image.mode == "F" else (65535,)
        span = next((span for span in spans if low >= 0 and high <= span), None)
        low, span = (0.0, span) if span else (low, max(high - low, 1e-12))
        return Image.fromarray(((grey - low) * (255 / span) + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def decode_all(folder: Path, files: list[str], image_size: int) -> Iterator[np.ndarray | str]:
    """Yield each file's image (S, S, 3) in order or, where it cannot be read, the reason."""

    def one(file: str) -> np.ndarray | str:
        try:
            return decode(folder / file, image_size)
        except Exception as e:  # Pillow's readers raise nearly any type on damaged bytes
            return reason(e)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, large sizes; what cannot be read is reported instead
        yield from in_order(one, files, "decoding")


# ---- helpers -------------------------------------------------------------------------------------------


def in_order(work: Callable, items: list, label: str, batch: int = 256) -> Iterator:
    """Yield work(item) for all items in their order, from threads; at most `batch` results wait in memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    with progress, ThreadPoolExecutor(min(8, cores)) as pool:
        task = progress.add_task(label, total=len(items))
        for start in range(0, len(items), batch):
            for result in pool.map(work, items[start : start + batch]):
                yield result
                progress.advance(task)


def reason(error: BaseException) -> str:
    """As in `files`, also for what Pillow raises."""
    if isinstance(error, UnidentifiedImageError):
        return "empty, or not an image that Pillow knows"
    return reason_of_any(error)
