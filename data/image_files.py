"""Image files as people have them: found in folders, hashed by content, decoded to one shape.

A bad file does not stop anything: it is returned with the reason. Nothing is written beside the files.

Most pictures have 8 bits per channel. For *deep* ones, with 16 or 32 bits or floats, the file does not say
which value is white: cameras of 12 bits and arrays of 0 to 255 are kept in 16 bits too. It is inferred from
the largest value of a whole folder, so that a darker picture stays darker than its neighbours.
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
WHITES = {  # of deep pictures: the values that are usually white; integers of 1, 8, 10, 12, 14 and 16 bits
    "integer": (1, 255, 1023, 4095, 16383, 65535),
    "float": (1, 255, 65535),
}
FULL = (0.0, 65535.0)  # black and white of integers that use all 16 bits

Depth = tuple[str, float, float]  # of a deep picture: 'integer' or 'float', least and largest value
Spans = Mapping[str, tuple[float, float]]  # for each kind the values that become black and white


@functools.cache
def formats() -> tuple[list[str], set[str]]:
    """Pillow's names of the formats that are read, and their file endings ('.png')."""
    Image.init()
    names = sorted(set(Image.OPEN) - NOT_READ)
    return names, {ending for ending, name in Image.registered_extensions().items() if name in names}


# ---- finding and hashing -------------------------------------------------------------------------------


def find(
    folder: Path, memory_dir: Path
) -> tuple[dict[str, str], dict[str, Depth], list[tuple[str, str]], int]:
    """Look for images in a folder and below, by their ending; hidden files and folders are passed over.

    Returns relative path -> sha256 of the bytes; relative path -> depth, of the deep ones alone; (path,
    reason) of what cannot be read; how many other files. Hashes and depths are remembered in memory_dir by
    path, size and modification time: a second look only lists files.
    """
    found, broken, others = _walk(folder)
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    memory, known = memory_dir / f"files_{place}.json", {}
    # missing, damaged, or of a version that remembered hashes alone: look again
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
        with suppress(Exception):  # a damaged image: decoding will tell why
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
        with suppress(OSError):  # a read-only place costs only the time to look again
            write_whole(memory, lambda f: f.write(content.encode()))
    hashes = {file: digest for file, (digest, _) in current.items()}
    depths = {file: tuple(depth) for file, (_, depth) in current.items() if depth is not None}
    return hashes, depths, broken, others


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


def decode(file: str | Path, image_size: int, spans: Spans | None = None) -> np.ndarray:
    """Read an image of any size, mode and format as uint8 (S, S, 3): upright, on white, the centre square.

    Of an animation the first frame. Antialiased. spans: what is black and white in deep pictures, `spans_of`
    the folder; a kind that is not in it is measured on this file alone.
    """
    with Image.open(file, formats=formats()[0]) as image:  # refuses what unpacks to over 179 megapixels
        kind = _kind(image)
        # JPEG: decode at 1/2, 1/4, 1/8 where that is enough
        image.draft(None, (3 * image_size, 3 * image_size))
        with _taking_turns(image):
            rgb = _rgb(image) if kind is None else _rgb_of_deep(image, file, kind, (spans or {}).get(kind))
            orientation = None
            with suppress(Exception):  # whatever a damaged EXIF block raises, the pixels are fine
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
    """Yield each file's image (S, S, 3) in order or, where it cannot be read, the reason; as `decode`."""

    def one(file: str) -> np.ndarray | str:
        try:
            return decode(folder / file, image_size, spans)
        except Exception as e:  # Pillow's readers raise nearly any type on damaged bytes
            return reason(e)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, large sizes; what cannot be read is reported instead
        yield from in_order(one, files, "decoding")


# ---- more than 8 bits a channel ------------------------------------------------------------------------

# Of colours with 16 bits Pillow keeps the high bytes; unpacked in the other byte order, these are the low.
_OTHER = "B" if sys.byteorder == "little" else "L"  # than the machine's own, which libtiff returns ('N')
LOW_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("L", "B"), ("B", "L"), ("N", _OTHER))
} | {"LA;16B": "RGBA"}  # both bytes of the grey and both of alpha


def depth_of(file: str | Path) -> Depth | None:
    """Kind, least and largest value of a deep picture, alpha aside; None where it has 8 bits a channel."""
    with Image.open(file, formats=formats()[0]) as image:
        kind = _kind(image)
        if kind is None:
            return None
        with _taking_turns(image):
            return kind, *_ends(_values(image, file))


def span_of(kind: str, low: float, high: float) -> tuple[float, float]:
    """Black and white of values from low to high: 0 and the least usual white that none exceeds.

    Their own ends where some are negative, or larger than any usual white.
    """
    white = next((white for white in WHITES[kind] if low >= 0 and high <= white), None)
    if white is not None:
        return 0.0, float(white)
    return low, high if high > low else low + 1


def spans_of(depths: Collection[Depth]) -> dict[str, tuple[float, float]]:
    """For each kind the black and white of all these pictures together."""
    spans = {}
    for kind in WHITES:
        ends = [(low, high) for k, low, high in depths if k == kind]
        if ends:
            spans[kind] = span_of(kind, min(low for low, _ in ends), max(high for _, high in ends))
    return spans


def _kind(image: Image.Image) -> str | None:
    """'integer' or 'float', of an image that is deep; not loaded yet."""
    if image.mode == "F":
        return "float"
    deep = image.mode == "I" or image.mode.startswith("I;16") or _layout(image) in LOW_BYTES
    return "integer" if deep else None


def _layout(image: Image.Image) -> str:
    """How an image's pixels lie in its file, in Pillow's words ('RGB;16B'); '' where it does not say."""
    args = image.tile[0][3] if image.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _values(image: Image.Image, file: str | Path) -> np.ndarray:
    """All bits of a deep image, not loaded yet: float32 (H, W), in colour (H, W, 3), with alpha (H, W, 4)."""
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
