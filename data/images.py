"""Images for the VAE and GAN families: rendered faces, CelebA, LFW or any folder of the user's own.

Every set becomes one uint8 array (N, S, S, 3) in `<data_dir>/cache/<content_hash>_<S>.npy`, with its rows in
the order train, val, test. Training maps it into memory.

    splits = load("synthetic", "data/store", image_size=64)
    splits.train                                        # uint8 (17000, 64, 64, 3)

torch and torchvision are imported where they are used: checking, hashing and decoding need neither.
Shapes: N images, S = image_size pixels, F factors.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from data import DataError
from data.files import reason, write_whole
from data.image_files import FULL, Depth, Spans, decode_all, find, in_order, span_of, spans_of
from data.names import closest, did_you_mean, missing
from data.terminal import readable
from data.waiting import announced

if TYPE_CHECKING:
    import torch

PARTS = ("train", "val", "test")
MIN_IMAGES = 32  # different images; with fewer, val and test would have only one or two
PIPELINE = 1  # part of every content hash: raise it when decoding, cropping or splitting changes
LAYOUTS = {  # where a set's files are under --data_dir, as in torchvision
    "celeba": "celeba/img_align_celeba/000001.jpg … 202599.jpg and, in celeba/, list_eval_partition.txt, "
    "list_attr_celeba.txt, identity_CelebA.txt, list_bbox_celeba.txt, list_landmarks_align_celeba.txt",
    "lfw": "lfw-py/lfw_funneled/<Person_Name>/<Person_Name>_0001.jpg … (13,233 images of 5,749 people)",
}
NOUNS = {"face": "faces", "emoji": "emoji", "photo": "photos"}  # names of pictures, singular and plural
NEARLY_BLACK = 16  # of 255; if no value is larger, the pictures were probably read in a wrong way


@dataclass(frozen=True)
class ImageSplits:
    """A data set in its three parts, as copy-on-write maps of the cache: writing to them stays private."""

    name: str  # short, for titles ('synthetic', 'faces')
    content_hash: str  # 16 hex digits, from the images and their split (not from image_size or paths)
    train: torch.Tensor  # uint8 (N, S, S, 3), channels last, CPU
    val: torch.Tensor
    test: torch.Tensor
    factor_names: tuple[str, ...] = ()
    factors: dict[str, np.ndarray] | None = None  # part -> float32 (N, F), if the truth is known
    spans: Spans = field(default_factory=dict)  # black and white of pictures with more than 8 bits

    @property
    def noun(self) -> str:
        """What one picture is called in titles: 'face', 'emoji', 'photo', or else 'picture'."""
        return noun_of(self.name)[0]

    @property
    def nouns(self) -> str:
        """What several pictures are called in titles."""
        return noun_of(self.name)[1]


@dataclass(frozen=True)
class _Source:
    name: str
    content_hash: str
    # fill(image_size, write) passes all rows in order to `write`; returns the numbers of train, val and test
    fill: Callable[[int, Callable[[np.ndarray], Any]], list[int]]
    spans: Spans = field(default_factory=dict)


def noun_of(name: str) -> tuple[str, str]:
    """What pictures of the set `name` are called, singular and plural: as its name says, or
    else picture(s).
    """
    if name in NAMED_SETS:
        return "face", "faces"
    for word in re.findall("[a-z]+", name.lower()):
        for one, many in NOUNS.items():
            if word in (one, many, f"{one}s"):
                return one, many
    return "picture", "pictures"


def fingerprint(dataset: str, data_dir: str) -> str:
    """Content hash of a set, without decoding it. Raises DataError if it is missing or has no images."""
    return _resolve(dataset, Path(data_dir)).content_hash


def load(dataset: str, data_dir: str, image_size: int) -> ImageSplits:
    """Load a named set or a folder as square images; the first call decodes, later ones map the cache.

    Raises DataError if the set is missing or unusable, or can't be cached.
    """
    import torch

    source, parts, _ = _load(dataset, data_dir, image_size)
    name, content_hash = source.name, source.content_hash
    splits = {part: torch.from_numpy(rows) for part, rows in parts.items()}
    if dataset != "synthetic":
        return ImageSplits(name, content_hash, **splits, spans=source.spans)
    from data import synthetic

    truth = synthetic.sample_factors(0, np.arange(synthetic.N_IMAGES))
    cuts = list(accumulate(len(rows) for rows in parts.values()))[:-1]
    factors = dict(zip(PARTS, np.split(truth, cuts)))
    return ImageSplits(name, content_hash, **splits, factor_names=synthetic.FACTOR_NAMES, factors=factors)


def load_arrays(dataset: str, data_dir: str, image_size: int) -> tuple[str, str, dict[str, np.ndarray], Path]:
    """Like `load`, without torch. Returns name, content hash, part -> uint8 (N, S, S, 3),
    and the cache file.
    """
    source, parts, path = _load(dataset, data_dir, image_size)
    return source.name, source.content_hash, parts, path


@announced("reading --dataset={}")
def _load(dataset: str, data_dir: str, image_size: int) -> tuple[_Source, dict[str, np.ndarray], Path]:
    if image_size < 1:
        raise DataError(f"--image_size={image_size}: must be at least 1 pixel")
    source = _resolve(dataset, Path(data_dir))
    path = Path(data_dir) / "cache" / f"{source.content_hash}_{image_size}.npy"
    if (cached := _open_cache(path, image_size)) is None:
        _build_cache(path, image_size, source.fill)
        cached = _open_cache(path, image_size)
    if cached is None:
        raise DataError(f"the image cache {path} does not read back as it was written: is the disk in order?")
    rows, counts = cached
    parts = {part: rows[end - n : end] for part, n, end in zip(PARTS, counts, accumulate(counts))}
    return source, parts, path


# ---- the sets ------------------------------------------------------------------------------------------


def _resolve(dataset: str, data_dir: Path) -> _Source:
    if dataset in NAMED_SETS:
        return NAMED_SETS[dataset](data_dir)
    path = os.path.expanduser(dataset)
    if os.path.isdir(path):
        return _folder(Path(path), data_dir)
    if os.path.exists(path):
        raise DataError(f"--dataset={dataset} is a file, not a folder of images (unpack an archive first)")
    parent, known = os.path.dirname(path), list(NAMED_SETS)
    if os.path.isdir(parent):  # a mistyped path: look among its neighbours too
        known += [os.path.join(parent, name) for name in os.listdir(parent)]
    hint = did_you_mean(closest(known, path, path.lower()))
    raise DataError(
        f"--dataset={dataset} is neither a named set ({', '.join(NAMED_SETS)}) nor an existing folder{hint}"
    )


def _synthetic(data_dir: Path) -> _Source:
    from data import synthetic

    n = synthetic.N_IMAGES
    counts = [n - n // 20 - n // 10, n // 20, n // 10]  # of 20,000: 17,000, 1,000, 2,000

    def fill(image_size: int, write: Callable) -> list[int]:
        if image_size not in synthetic.SIZES:
            raise DataError(f"--image_size={image_size}: synthetic is rendered at one of {synthetic.SIZES}")
        factors = synthetic.sample_factors(0, np.arange(n))
        chunks = np.array_split(factors, max(1, n // 200))
        with closing(
            in_order(lambda f: synthetic.render(f, image_size), chunks, "rendering", batch=8)
        ) as done:
            for rows in done:
                write(np.ascontiguousarray(rows))
        return counts

    return _Source("synthetic", _digest("synthetic", synthetic.VERSION, *counts), fill)


def _celeba(data_dir: Path) -> _Source:
    folder = data_dir / "celeba"
    try:
        partition = hashlib.sha256((folder / "list_eval_partition.txt").read_bytes()).hexdigest()
    except OSError:
        raise _missing("celeba", data_dir) from None
    if not (folder / "img_align_celeba").is_dir():
        raise _missing("celeba", data_dir, "lacks its folder img_align_celeba")

    def fill(image_size: int, write: Callable) -> list[int]:
        from torchvision.datasets import CelebA

        try:  # torchvision checks the md5 sums of the annotation files
            parts = [CelebA(data_dir, part, target_type=[]).filename for part in ("train", "valid", "test")]
        except (RuntimeError, OSError, ValueError) as e:
            raise _missing("celeba", data_dir, f"is incomplete or damaged ({reason(e)})") from None
        return _fill_parts("celeba", data_dir, folder / "img_align_celeba", parts, image_size, write)

    # Hashing 202,599 images would read 1.4 GB; the official partition names them.
    return _Source("celeba", _digest("celeba", partition), fill)


def _lfw(data_dir: Path) -> _Source:
    # Only the layout is that of torchvision: its LFWPeople needs files whose server is gone.
    folder = data_dir / "lfw-py" / "lfw_funneled"
    hashes, _, broken, _ = find(folder, data_dir / "cache")
    hashes = {file: digest for file, digest in sorted(hashes.items()) if len(Path(file).parts) == 2}
    if not hashes:
        raise _missing("lfw", data_dir)
    if broken:
        raise _missing("lfw", data_dir, f"cannot be read ({_printable(broken[0][0])}: {broken[0][1]})")
    people = Counter(Path(file).parts[0] for file in hashes)
    part_of, before = {}, 0
    # People in a random but fixed order. All images of a person go to the part of the first one.
    for person in sorted(people, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()):
        part_of[person] = bisect.bisect([0.8 * len(hashes), 0.9 * len(hashes)], before)
        before += people[person]
    parts = [[file for file in hashes if part_of[Path(file).parts[0]] == part] for part in range(3)]
    if not all(parts):
        raise _missing("lfw", data_dir, f"is incomplete ({len(hashes)} images of {len(people)} people)")

    def fill(image_size: int, write: Callable) -> list[int]:
        return _fill_parts("lfw", data_dir, folder, parts, image_size, write)

    return _Source("lfw", _digest("lfw", *(f"{file} {digest}" for file, digest in hashes.items())), fill)


def _folder(folder: Path, data_dir: Path) -> _Source:
    """The user's own images. Order and split depend only on the files' bytes, so renaming changes nothing."""
    hashes, depths, unreadable, others = find(folder, data_dir / "cache")
    if not hashes:
        raise DataError(
            f"--dataset={folder}: no images found ({len(unreadable)} unreadable, {others} other files); "
            "read by their ending: JPEG, PNG, WebP, GIF, BMP, TIFF and the other pixel formats of Pillow"
        )
    files = sorted(hashes, key=lambda file: (hashes[file], file))
    spans = spans_of(depths.values())

    def fill(image_size: int, write: Callable) -> list[int]:
        broken, kept, brightest = list(unreadable), [], 0
        with closing(decode_all(folder, files, image_size, spans)) as images:
            for file, image in zip(files, images):
                if isinstance(image, str):
                    broken.append((file, image))
                else:
                    write(image)
                    kept.append(hashes[file])
                    brightest = max(brightest, int(image.max()))
        different = sorted(set(kept))
        notes = _about_spans(list(depths.values()), spans)
        if kept and brightest < NEARLY_BLACK:
            notes.append(f"all pictures are nearly black: their largest value is {brightest} of 255")
        _tell(_title(folder), broken, others, len(kept) - len(different), notes)
        if len(different) < MIN_IMAGES:
            raise DataError(
                f"--dataset={folder}: {len(files) + len(unreadable)} images found, {len(broken)} broken, "
                f"{len(different)} different usable images left; at least {MIN_IMAGES} are needed"
            )
        tenth = len(different) // 10  # parts are cut between different images, so exact copies stay together
        ends = [bisect.bisect_left(kept, different[-2 * tenth]), bisect.bisect_left(kept, different[-tenth])]
        return [ends[0], ends[1] - ends[0], len(kept) - ends[1]]

    content_hash = _digest("folder", *sorted(hashes.values()), *_marks(list(depths.values()), spans))
    return _Source(_title(folder), content_hash, fill, spans)


def _marks(depths: list[Depth], spans: Spans) -> list[str]:
    """What distinguishes a set from the one that earlier versions made of the same files. They assumed 16
    bits for all integers, and read every float picture by itself.
    """
    marks = [f"integer {spans['integer']}"] if spans.get("integer", FULL) != FULL else []
    if any(span_of(*depth) != spans["float"] for depth in depths if depth[0] == "float"):
        marks.append(f"float {spans['float']}")
    return marks


def _about_spans(depths: list[Depth], spans: Spans) -> list[str]:
    """A line for each kind of deep pictures that says which values were read as black and white, and why."""
    lines = []
    for kind, span in spans.items():
        lows, highs = zip(*(ends for of_kind, *ends in depths if of_kind == kind))
        low, high = min(lows), max(highs)
        depth = "16-bit" if kind == "integer" and low >= 0 and high <= FULL[1] else kind
        what = f"{len(lows):,} {depth} pictures"
        if span == (low, high) and low != 0:
            lines.append(f"{what} with values from {low:g} to {high:g}: these are read as black and white")
        else:
            lines.append(f"{what} whose largest value is {high:g}: read as 0 to {span[1]:g}")
    return lines


NAMED_SETS: dict[str, Callable[[Path], _Source]] = {"synthetic": _synthetic, "celeba": _celeba, "lfw": _lfw}


def _fill_parts(
    name: str, data_dir: Path, folder: Path, parts: list[list[str]], image_size: int, write: Callable
) -> list[int]:
    """Decode a published set. A broken file is an error, because without it this would be another set."""
    files = [file for part in parts for file in part]
    with closing(decode_all(folder, files, image_size)) as images:
        for file, image in zip(files, images):
            if isinstance(image, str):
                raise _missing(name, data_dir, f"is incomplete or damaged ({_printable(file)}: {image})")
            write(image)
    return [len(part) for part in parts]


def _missing(name: str, data_dir: Path, what: str = "is not there") -> DataError:
    return missing(name, data_dir, LAYOUTS[name], what)


def _digest(*parts: object) -> str:
    text = "\n".join(map(str, (PIPELINE, *parts)))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _title(folder: Path) -> str:
    return readable(folder.resolve().name) or "images"


def _printable(file: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in file)  # names may have line breaks and stray bytes


def _tell(name: str, broken: list[tuple[str, str]], others: int, copies: int, notes: list[str]) -> None:
    lines = [f"{name}: {len(broken)} broken files skipped"] if broken else []
    lines += [f"  {_printable(file)}: {why}" for file, why in broken[:10]]
    lines += [f"  … and {len(broken) - 10} more"] if len(broken) > 10 else []
    lines += [f"{name}: {others} files skipped: hidden, or without an image's ending"] if others else []
    lines += [f"{name}: {copies} exact copies; copies stay in one part of the split"] if copies else []
    lines += [f"{name}: {note}" for note in notes]
    for line in lines:
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


# ---- the cache -----------------------------------------------------------------------------------------


def _open_cache(path: Path, image_size: int) -> tuple[np.ndarray, list[int]] | None:
    """Map the cache: rows (N, S, S, 3), and how many are train, val and test. None if it is missing or
    damaged.
    """
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shape = (sum(about["counts"]), image_size, image_size, 3)
        head = _header(shape)
        with open(path, "rb") as f:
            if f.read(len(head)) != head or os.fstat(f.fileno()).st_size != len(head) + int(np.prod(shape)):
                return None
        rows = np.memmap(path, np.uint8, mode="c", offset=len(head), shape=shape)
        return (rows, about["counts"]) if _checksum(rows) == about["crc32"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build_cache(path: Path, image_size: int, fill: Callable) -> None:
    def write(f: io.BufferedWriter) -> dict[str, Any]:
        # Rows are written with write(), not to a map: a map on a full disk ends in SIGBUS, not in an error.
        f.write(_header((0, image_size, image_size, 3)))
        start = f.tell()
        counts = fill(image_size, f.write)
        shape = (sum(counts), image_size, image_size, 3)
        f.seek(0)
        f.write(_header(shape))  # numpy pads it, so its length does not depend on N
        assert f.tell() == start, f"the header is {f.tell()} bytes long, not {start}"
        f.flush()
        return {"counts": counts, "crc32": _checksum(np.memmap(f.name, np.uint8, "r", start, shape))}

    try:
        about = write_whole(path, write)
        write_whole(path.with_suffix(".json"), lambda f: f.write(json.dumps(about).encode()))
    except OSError as e:
        raise DataError(
            f"cannot write the image cache {path}: {reason(e)}; make room or choose another --data_dir"
        ) from None


def _header(shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def _checksum(rows: np.ndarray) -> int:
    """crc32 of up to 1,024 rows spread over the file. It finds holes and mix-ups without
    reading everything.
    """
    crc = 0
    for i in np.linspace(0, len(rows) - 1, min(len(rows), 1024)).astype(int):
        crc = zlib.crc32(rows[i], crc)
    return crc
