"""Finds people's image files in folders, hashes their content, and decodes them to one shape.

A bad file stops nothing: it is returned with the reason. Nothing is written beside the files.

Most pictures have 8 bits per channel. In *deep* ones, with 16 or 32 bits or floats, the file does not say
which value is white: pictures of cameras with 12 bits and arrays of 0 to 255 are stored with 16 bits, too. So
white is inferred from the largest value in the whole folder, and a darker picture stays darker than the
others.
"""

import functools
import hashlib
import json
import os
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from data.files import reason as reason_of_any
from data.files import write_whole

# Formats that Pillow opens and we don't: vector formats (EPS would run Ghostscript on a file) and stubs
NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # orientation -> the operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BIG = 16e6  # pixels; larger pictures are decoded one at a time: eight of 100 megapixels would take 5 GB
_one_big = threading.Lock()
WHITES = {  # the values that are usually white in deep pictures: integers of 1, 8, 10, 12, 14 and 16 bits
    "integer": (1, 255, 1023, 4095, 16383, 65535),
    "float": (1, 255, 65535),
}
FULL = (0.0, 65535.0)  # black and white of integers that use all 16 bits

Depth = tuple[str, float, float]  # of a deep picture: 'integer' or 'float', its least and its largest value
Spans = Mapping[str, tuple[float, float]]  # kind -> the values that become black and white


@functools.cache
def formats() -> tuple[list[str], set[str]]:
    """Pillow's names of the formats that we read, and their file endings ('.png')."""
    Image.init()
    names = sorted(set(Image.OPEN) - NOT_READ)
    return names, {ending for ending, name in Image.registered_extensions().items() if name in names}


# ---- finding and hashing -------------------------------------------------------------------------------


def find(
    folder: Path, memory_dir: Path
) -> tuple[dict[str, str], dict[str, Depth], list[tuple[str, str]], int]:
    """Find images in a folder and below, by their ending; hidden files and folders are skipped.

    Returns relative path -> sha256 of the bytes; relative path -> depth, only for deep pictures; (path,
    reason) of each file that cannot be read; and the number of other files. Hashes and depths are remembered
    in memory_dir by path, size and modification time, so a second look only lists files.
    """
    found, broken, others = _walk(folder)
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    memory, known = memory_dir / f"files_{place}.json", {}
    # if the memory is missing or damaged, or an older version without depths, all files are read again
    with suppress(OSError, ValueError, TypeError, AttributeError):
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        known = {stamp: (digest, depth) for stamp, (digest, depth) in remembered.items()}
    new = [file for file, stamp in found.items() if stamp not in known]

    def look(file: str) -> tuple[str, Depth | None, str]:
        try:
            with open(folder / file, "rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as e:
            return "", None, reason(e)
        depth = None
        with suppress(Exception):  # a damaged image; decoding will report why
            depth = depth_of(folder / file)
        return digest, depth, ""

    with warnings.catch_warnings(), closing(in_order(look, new, "reading")) as results:
        warnings.simplefilter("ignore")  # odd metadata, large sizes
        for file, (digest, depth, error) in zip(new, results):
            if error:
                broken.append((file, error))
            else:
                known[found[file]] = digest, depth
    current = {file: known[stamp] for file, stamp in found.items() if stamp in known}
    if new and current:
        content = json.dumps({found[file]: entry for file, entry in current.items()})
        with suppress(OSError):  # if it can't be written, the files are only read again next time
            write_whole(memory, lambda f: f.write(content.encode()))
    hashes = {file: digest for file, (digest, _) in current.items()}
    depths = {file: tuple(depth) for file, (_, depth) in current.items() if depth is not None}
    return hashes, depths, broken, others


def _walk(folder: Path) -> tuple[dict[str, str], list[tuple[str, str]], int]:
    """Relative path -> 'path|size|mtime' of image files; (path, reason) of unreadable ones; the number of
    other files.
    """
    found, broken, others, seen = {}, [], 0, set()

    def unreadable(e: OSError) -> None:
        broken.append((os.path.relpath(e.filename, folder), reason(e)))

    for where, subfolders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here = os.stat(where)
        if (here.st_dev, here.st_ino) in seen:  # a second link to the same folder, or a loop
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


def decode(file: str | Path, image_size: int, spans: Spans | None = None) -> np.ndarray:
    """Read an image of any size, mode and format as uint8 (S, S, 3): upright, on white, the centre square.

    It is antialiased. An animation gives its first frame. spans: black and white of deep pictures, from
    `spans_of` the whole folder; for a kind that is missing there, they are measured on this file.
    """
    with Image.open(file, formats=formats()[0]) as image:  # refuses images of over 179 megapixels
        kind = _kind(image)
        # JPEG: decode at 1/2, 1/4, 1/8 where that is enough
        image.draft(None, (3 * image_size, 3 * image_size))
        with _taking_turns(image):
            rgb = _rgb(image) if kind is None else _rgb_of_deep(image, file, kind, (spans or {}).get(kind))
            orientation = None
            with suppress(Exception):  # a damaged EXIF block may raise anything, but the pixels are fine
                orientation = image.getexif().get(EXIF_ORIENTATION)
            if orientation in UPRIGHT:
                rgb = rgb.transpose(UPRIGHT[orientation])
            side = min(rgb.size)
            left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
            rgb = rgb.crop((left, top, left + side, top + side))
            return np.asarray(rgb.resize((image_size,) * 2, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _taking_turns(image: Image.Image):
    return _one_big if image.width * image.height > BIG else nullcontext()


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def decode_all(
    folder: Path, files: list[str], image_size: int, spans: Spans | None = None
) -> Iterator[np.ndarray | str]:
    """Yield each file's image (S, S, 3) in order, as from `decode`; or the reason why it cannot be read."""

    def one(file: str) -> np.ndarray | str:
        try:
            return decode(folder / file, image_size, spans)
        except Exception as e:  # on damaged bytes, Pillow's readers raise exceptions of nearly any type
            return reason(e)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, large sizes; unreadable files are reported instead
        yield from in_order(one, files, "decoding")


# ---- more than 8 bits a channel ------------------------------------------------------------------------

# Of colours with 16 bits Pillow keeps only the high bytes; unpacked in the other byte order, only the low.
_OTHER = "B" if sys.byteorder == "little" else "L"  # not the order of the machine and libtiff
LOW_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("L", "B"), ("B", "L"), ("N", _OTHER))
} | {"LA;16B": "RGBA"}  # both bytes of the grey and both of alpha


def depth_of(file: str | Path) -> Depth | None:
    """Kind, least and largest value of a deep picture, without alpha; None if it has 8 bits per channel."""
    with Image.open(file, formats=formats()[0]) as image:
        kind = _kind(image)
        if kind is None:
            return None
        with _taking_turns(image):
            return kind, *_ends(_values(image, file))


def span_of(kind: str, low: float, high: float) -> tuple[float, float]:
    """Black and white for values from low to high: 0 and the smallest usual white that is not exceeded. If
    some values are negative or larger than any usual white, low and high themselves.
    """
    white = next((white for white in WHITES[kind] if low >= 0 and high <= white), None)
    if white is not None:
        return 0.0, float(white)
    return low, high if high > low else low + 1


def spans_of(depths: Collection[Depth]) -> dict[str, tuple[float, float]]:
    """For each kind, the black and white of all these pictures together."""
    spans = {}
    for kind in WHITES:
        ends = [(low, high) for k, low, high in depths if k == kind]
        if ends:
            spans[kind] = span_of(kind, min(low for low, _ in ends), max(high for _, high in ends))
    return spans


def _kind(image: Image.Image) -> str | None:
    """'integer' or 'float' if an image, not loaded yet, is deep; else None."""
    if image.mode == "F":
        return "float"
    deep = image.mode == "I" or image.mode.startswith("I;16") or _layout(image) in LOW_BYTES
    return "integer" if deep else None


def _layout(image: Image.Image) -> str:
    """The layout of an image's pixels in its file, in Pillow's words ('RGB;16B'); '' if
    Pillow does not say.
    """
    args = image.tile[0][3] if image.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _values(image: Image.Image, file: str | Path) -> np.ndarray:
    """All bits of a deep image, not loaded yet, as float32: grey (H, W), colour (H, W, 3), with alpha (H, W,
    4).
    """
    other = LOW_BYTES.get(_layout(image))
    image.load()
    high = np.asarray(image).astype(np.float32)
    if other is None:
        return np.nan_to_num(high)
    with Image.open(file, formats=[image.format]) as again:
        again.tile = [
            tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
            for tile in again.tile
        ]
        low = np.asarray(again)
    return 256 * high + (low[..., [1, 1, 1, 3]] if other == "RGBA" else low)


def _ends(values: np.ndarray) -> tuple[float, float]:
    shown = values[..., :3] if values.ndim == 3 else values
    return float(shown.min()), float(shown.max())


def _rgb_of_deep(
    image: Image.Image, file: str | Path, kind: str, span: tuple[float, float] | None
) -> Image.Image:
    in_colour = _layout(image) in LOW_BYTES
    if in_colour and span == FULL:
        return _rgb(image)  # the high bytes are all that 8 bits can show
    values = _values(image, file)
    black, white = span or span_of(kind, *_ends(values))
    if in_colour and (black, white) == FULL:
        return _rgb(image)
    eight_bits = np.clip((values - black) * (255 / (white - black)) + 0.5, 0, 255)
    return _rgb(Image.fromarray(eight_bits.astype(np.uint8)))


# ---- helpers -------------------------------------------------------------------------------------------


def in_order(work: Callable, items: list, label: str, batch: int = 256) -> Iterator:
    """Yield work(item) for all items in order, computed in threads; at most `batch` results
    wait in memory.
    """
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
    """Like `reason` in data/files.py, but also for errors by Pillow."""
    if isinstance(error, UnidentifiedImageError):
        return "empty, or not an image that Pillow knows"
    return reason_of_any(error)
