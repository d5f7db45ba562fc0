"""Small grey pictures with classes: handwritten digits, MNIST, Fashion-MNIST, or any set of the same form.

`digits`, the default, is scikit-learn's 1,797 digits of 8×8 pixels, enlarged to 28×28; it needs no download.
The others are four IDX files, gzipped or not, or tables of pixels (.csv). They are read where they are, and
nothing is written beside them.

    splits = load("mnist", "data/store")
    splits.train, splits.train_labels                   # uint8 (55000, 28, 28), int64 (55000,)

Classes are the labels that occur, which need not begin with 0: those of EMNIST's letters are 1 to 26.
torch is imported where it is used: reading and checking need none.
Shapes: N pictures.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from data import DataError
from data.files import reason
from data.names import closest, did_you_mean, missing
from data.terminal import readable
from data.waiting import announced

if TYPE_CHECKING:
    import torch

SIZE = 28
PARTS = ("train", "val", "test")
PIPELINE = 1  # part of every content hash: raise it when the embedded digits or the split change
MIN_IMAGES = 32  # to train on; with fewer, val would have only one or two
NAMED_SETS = ("digits", "mnist", "fashion")
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
FILES = tuple(part + kind for part in ("train", "t10k") for kind in (IMAGES, LABELS))
# FILES, and other spellings: train-images.idx3-ubyte, emnist-letters-test-images-idx3-ubyte.gz
SPELLED = re.compile(r"(.*?)(train|t10k|test)-(?:images[-.]idx3|labels[-.]idx1)-ubyte(?:\.gz)?")
SUBFOLDERS = ("raw", "", "gzip", "raw/gzip")  # subfolders of a set's folder in which its files may be
LABEL_COLUMNS = ("label", "class", "target")  # names of the label's column in tables of pixels
FOLDERS = {"mnist": "MNIST/raw", "fashion": "FashionMNIST/raw"}  # under --data_dir, as in torchvision
LAYOUTS = {name: f"in {folder}/ {'.gz, '.join(FILES)}.gz" for name, folder in FOLDERS.items()}
# name -> file -> checksums of the .gz and of its content, if known; 32 hex digits are md5, 64 are sha256
CHECKSUMS: dict[str, dict[str, tuple[str, str | None]]] = {
    "mnist": {
        "train-images-idx3-ubyte": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion": {
        "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
        "train-labels-idx1-ubyte": (
            "25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", None),
        "t10k-labels-idx1-ubyte": (
            "bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class DigitSplits:
    """A data set in its three parts: white on black, as in the files; rows in the order of the files."""

    name: str  # short, for titles ('digits', 'mnist')
    content_hash: str  # 16 hex digits, from the pictures, their classes and the split
    train: torch.Tensor  # uint8 (N, 28, 28), CPU
    val: torch.Tensor
    test: torch.Tensor
    train_labels: torch.Tensor  # int64 (N,), from 0 to len(class_names) - 1
    val_labels: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]  # the labels that occur in the files; words for Fashion-MNIST


def load(dataset: str, data_dir: str, transpose: bool = False) -> DigitSplits:
    """Load a named set, IDX files or a table of pixels. Raises DataError if it is missing, damaged or
    unusable.

    transpose: exchange the rows and columns of every picture.
    """
    import torch

    name, content_hash, parts, class_names = load_arrays(dataset, data_dir, transpose)
    tensors = {part: torch.from_numpy(images) for part, (images, _) in parts.items()}
    tensors |= {f"{part}_labels": torch.from_numpy(labels) for part, (_, labels) in parts.items()}
    return DigitSplits(name, content_hash, **tensors, class_names=class_names)


@announced("reading --dataset={}")
def load_arrays(
    dataset: str, data_dir: str | Path, transpose: bool = False
) -> tuple[str, str, dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Like `load`, without torch. Returns name, content hash, part -> (images, labels), and class names."""
    if dataset == "digits":
        name, (images, labels, *test) = dataset, embedded()
    elif dataset in FOLDERS:
        name, (images, labels, *test) = dataset, _named(dataset, Path(data_dir))
    else:
        name, (images, labels, *test) = _own(dataset)
    if test:
        n_val = len(labels) // 12  # 5,000 of 60,000
    else:
        n_val, chosen = len(labels) // 10, draw(labels, len(labels) // 5)
        test = images[chosen], labels[chosen]
        images, labels = np.delete(images, chosen, axis=0), np.delete(labels, chosen)
    chosen = draw(labels, n_val)
    train = np.delete(images, chosen, axis=0), np.delete(labels, chosen)
    parts = dict(zip(PARTS, (train, (images[chosen], labels[chosen]), test)))
    there = np.unique(np.concatenate([y for _, y in parts.values()]))  # EMNIST's letters begin with 1
    for part, (x, y) in parts.items():
        x = np.ascontiguousarray(x.swapaxes(1, 2)) if transpose else x
        parts[part] = x, np.searchsorted(there, y).astype(np.int64)
    class_names = FASHION if dataset == "fashion" else tuple(map(str, there.tolist()))
    if dataset not in NAMED_SETS and look_transposed(*parts["train"], class_names, name):
        how = "without" if transpose else "with"
        _say(f"{name}: the rows and columns of these pictures seem to be exchanged; try it {how} --transpose")
    return name, _digest(parts, there), parts, class_names


def holds(dataset: str) -> bool:
    """Whether `load` can load this: one of its names, IDX files or a table of pixels.

    Raises DataError for a folder of several sets.
    """
    return dataset in NAMED_SETS or _find_idx(dataset) is not None or _find_tables(dataset) is not None


def draw(labels: np.ndarray, n: int) -> np.ndarray:
    """n row numbers in rising order, random but always the same; each class has its share of them ± 1."""
    # RandomState, because numpy promises never to change its stream; that of default_rng may change
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[(2 * np.arange(n) + 1) * len(labels) // (2 * n)])  # evenly spaced


def _digest(parts: dict[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> str:
    sha = hashlib.sha256(str(PIPELINE).encode())
    if labels[-1] != len(labels) - 1:  # if they are not 0, 1, 2 …, the names of the classes count
        sha.update(f"\n{labels.tolist()}".encode())
    for part, (images, labels) in parts.items():
        sha.update(f"\n{part} {len(labels)}\n".encode())
        sha.update(np.ascontiguousarray(images))
        sha.update(labels.astype("<i8"))
    return sha.hexdigest()[:16]


# ---- the embedded digits -------------------------------------------------------------------------------


def embedded() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits in the style of MNIST's: uint8 (1797, 28, 28) and labels (1797,).

    Cubic interpolation (Keys 1981, a = -1/2) enlarges them from 8×8 to 20×20 pixels. Contrast is doubled
    around half-grey, because the originals count ink in 4×4 cells and are flat where MNIST's strokes have
    edges. The centre of mass is put in the middle. Everything is computed in integers, so that all machines
    round alike.
    """
    x, labels = _eight_by_eight()
    n = np.abs(4 * np.arange(20)[:, None] - 3 - 10 * np.arange(8))  # tenths of an input pixel: 20×8 distances
    cubic = np.where(n <= 10, 3 * n**3 - 50 * n**2 + 2000, -(n**3) + 50 * n**2 - 800 * n + 4000)
    weights = np.where(n < 20, cubic, 0)  # in 2000ths
    full = 16 * 2000**2
    large = np.clip(2 * (weights @ x @ weights.T) - full // 2, 0, full)
    large = ((255 * large + full // 2) // full).astype(np.uint8)
    mass = x.sum((1, 2))
    # The first row and column of the 20×20 square: 14 - 2.5 (centre + 1/2), rounded
    top, left = (
        np.clip((53 * mass - 10 * (x.sum(other) @ np.arange(8))) // (4 * mass), 0, SIZE - 20)
        for other in (2, 1)
    )
    images = np.zeros((len(x), SIZE, SIZE), np.uint8)
    for i in range(len(x)):
        images[i, top[i] : top[i] + 20, left[i] : left[i] + 20] = large[i]
    return images, labels


def _eight_by_eight() -> tuple[np.ndarray, np.ndarray]:
    """The data behind sklearn.datasets.load_digits: int64 (1797, 8, 8) with values 0 to 16, and labels."""
    file = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # importing scikit-learn takes two seconds
        table = np.loadtxt(file, np.int64, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.int64), digits.target.astype(np.int64)


# ---- sets of one's own and named ones ------------------------------------------------------------------


def _named(name: str, data_dir: Path) -> list[np.ndarray]:
    if (folder := place(name, data_dir)) is None:
        raise missing(name, data_dir, LAYOUTS[name])
    try:
        return _read_set(folder, "", CHECKSUMS[name])
    except DataError as e:
        raise missing(name, data_dir, LAYOUTS[name], f"is incomplete or damaged ({e})") from None


def place(name: str, data_dir: Path) -> Path | None:
    """The folder in which `load` finds files of `mnist` or `fashion`; some may be missing. None: there are
    none.
    """
    places = (data_dir / FOLDERS[name], data_dir)
    return next((folder for folder in places if "" in _beginnings(folder)), None)


def _own(dataset: str) -> tuple[str, list[np.ndarray]]:
    """The short name of the user's own set, its pictures and labels, and those to test with, if there are
    any.
    """
    path, idx = Path(os.path.expanduser(dataset)), _find_idx(dataset)
    tables = _find_tables(dataset) if idx is None else None
    try:
        if idx is not None:
            folder, beginning = idx
            return readable(beginning.rstrip("-_.")) or _title(folder), _read_set(folder, beginning, {})
        if tables is not None:
            name = re.sub("[-_ ]?train|\\.csv|\\.gz", "", tables[0].name, flags=re.I)
            name = _title(path) if path.is_dir() else name or _title(path.parent)
            return readable(name), _read_tables(name, *tables)
    except DataError as e:
        raise DataError(f"--dataset={dataset}: {e}") from None
    raise DataError(f"--dataset={dataset} {_why_not(dataset)}")


def _why_not(dataset: str) -> str:
    """The end of a sentence that says what a path is that is not a set, and what was perhaps meant."""
    path = Path(os.path.expanduser(dataset))
    if dataset and path.is_dir():
        below = sorted(p for deep in ("*", "*/raw", "*/gzip") for p in path.glob(deep) if _beginnings(p))
        meant = below[0] if below else None
        if meant is not None and meant.name in SUBFOLDERS:
            meant = meant.parent
        return (
            f"holds none of {', '.join(FILES)} (.gz or not), nor do its raw/ and gzip/, nor has it a .csv of "
            f"pixels{did_you_mean(meant)}"
        )
    if path.is_file() and SPELLED.fullmatch(path.name):
        return f"is one of the four files of a set: name its folder, {path.parent}"
    if path.is_file() and _is_csv(path):
        return f"is not a table of digits: a row has a label and {SIZE**2} pixels, separated by commas"
    if path.is_file():
        return "is a file, not a folder of IDX files or a .csv of pixels (unpack an archive first)"
    known = list(NAMED_SETS)
    for folder in (path.parent / sub for sub in SUBFOLDERS):
        known += [
            str(path.parent / beginning.rstrip("-_.")) for beginning in _beginnings(folder) if beginning
        ]
    hint = did_you_mean(closest(known, dataset, dataset.lower()))
    names = ", ".join(NAMED_SETS)
    return f"is neither a named set ({names}) nor an existing folder of IDX files or .csv of pixels{hint}"


def _title(folder: Path) -> str:
    folder = folder.resolve()
    while folder.name in ("raw", "gzip"):
        folder = folder.parent
    return readable(folder.name) or "images"


def _say(line: str) -> None:
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(line)


# ---- IDX files -----------------------------------------------------------------------------------------


def _find_idx(dataset: str) -> tuple[Path, str] | None:
    """The folder of a set's IDX files and the beginning of their names, such as 'emnist-letters-'; None if
    there are none.

    dataset: a folder or, if that has several sets, a path in it that is the beginning of one set's names.
    """
    path = Path(os.path.expanduser(dataset))
    for folder in (path / sub for sub in SUBFOLDERS):
        beginnings = _beginnings(folder)
        if "" in beginnings:
            return folder, ""
        if len(beginnings) > 1:
            sets = ", ".join(f"--dataset={path / beginning.rstrip('-_.')}" for beginning in beginnings)
            raise DataError(f"--dataset={dataset} holds {len(beginnings)} sets; choose one of {sets}")
        if beginnings:
            return folder, beginnings[0]
    for folder in (path.parent / sub for sub in SUBFOLDERS):
        for beginning in _beginnings(folder):
            if path.name and beginning.rstrip("-_.") == path.name:
                return folder, beginning
    return None


def _beginnings(folder: Path) -> list[str]:
    """What comes before the usual names of IDX files in a folder: '' or, for example, 'emnist-letters-'."""
    try:
        with os.scandir(folder) as entries:
            spelled = [SPELLED.fullmatch(entry.name) for entry in entries if entry.is_file()]
    except OSError:
        return []
    return sorted({match[1] for match in spelled if match})


def _spellings(file: str) -> list[str]:
    """Every name under which one of FILES may be stored."""
    part, kind, ending = file.split("-", 2)
    parts = (part, "test") if part == "t10k" else (part,)
    names = [f"{part}-{kind}{mark}{ending}" for part in parts for mark in "-."]
    return [name + packed for name in names for packed in (".gz", "")]


def _read_set(folder: Path, beginning: str, checksums: dict[str, tuple[str, str | None]]) -> list[np.ndarray]:
    """Train images, train labels, test images, test labels. Raises DataError if they do not fit together."""
    arrays = [read_file(folder, file, checksums.get(file), beginning) for file in FILES]
    files = [beginning + file for file in FILES]
    for i, least in ((0, MIN_IMAGES), (2, 1)):
        images, labels = len(arrays[i]), len(arrays[i + 1])
        if images != labels:
            raise DataError(
                f"{folder}: {images:,} images in {files[i]}, but {labels:,} labels in {files[i + 1]}"
            )
        if images < least:
            raise DataError(f"{folder / files[i]}: {images} images; at least {least} are needed")
    _check_labels(arrays[1], arrays[3], files[1], folder / files[3])
    return arrays


def _check_labels(train: np.ndarray, test: np.ndarray, train_file: str, test_file: Path) -> None:
    if test.max() > train.max():
        allowed = f"{train_file} allows only {train.min()} to {train.max()}"
        raise DataError(f"{test_file}: label {test.max()}, but {allowed}")


def read_file(
    folder: Path, file: str, checksums: tuple[str, str | None] | None = None, beginning: str = ""
) -> np.ndarray:
    """Read one of FILES, or its .gz if that exists, and compare the checksum if one is known.

    beginning: what comes before the file's name.
    Returns uint8 (N, 28, 28) or (N,). Raises DataError, which names the file.
    """
    names = (folder / (beginning + name) for name in _spellings(file))
    path = next((p for p in names if os.path.isfile(p)), None)
    if path is None:
        raise DataError(f"{folder} lacks {beginning}{file}.gz")
    try:
        content = path.read_bytes()
        array = _parse(content, (SIZE, SIZE) if file.endswith(IMAGES) else ())
    except (EOFError, zlib.error, OSError, DataError) as e:  # gzip may raise any of the first three
        why = getattr(e, "strerror", None) or e
        if isinstance(e, EOFError):
            why = "cut off within its gzip stream"
        raise DataError(f"{path}: {why}") from None
    wanted = checksums and checksums[not content.startswith(GZIP)]
    if wanted:
        kind = "md5" if len(wanted) == 32 else "sha256"
        found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
        if found != wanted:
            raise DataError(f"{path}: {kind} {found}, but the official file has {wanted}")
    return array


def _parse(content: bytes, item: tuple[int, ...]) -> np.ndarray:
    """The array in an IDX file: two zero bytes, type, number of dimensions, the size of each dimension as a
    big-endian uint32, then the values. item: the shape of one item. Raises DataError.
    """
    stream = io.BytesIO(content)
    if content.startswith(GZIP):
        stream = gzip.GzipFile(fileobj=stream)
    start, n_dims = stream.read(4), 1 + len(item)
    if len(start) == 4 and start != bytes((0, 0, 8, n_dims)):
        what = "not IDX"
        if start[:2] == b"\0\0":
            what = f"IDX of type 0x{start[2]:02x} with {start[3]} dimensions"
        need = f"unsigned bytes (0x08) with {n_dims} {'dimension' if n_dims == 1 else 'dimensions'}"
        raise DataError(f"{what} (begins with {start.hex(' ')}); expected: IDX of {need}")
    head = stream.read(4 * n_dims)
    if len(start) < 4 or len(head) < 4 * n_dims:
        raise DataError(f"cut off within its header of {4 + 4 * n_dims} bytes")
    count, *shape = map(int, np.frombuffer(head, ">u4"))
    if tuple(shape) != item:
        raise DataError(f"images of {shape[0]}×{shape[1]} pixels; expected are 28×28")
    size, values = count * int(np.prod(item, dtype=np.int64)), bytearray()
    # In pieces, so that a wrong count does not reserve memory. One more byte, because gzip checks its sum
    # only past the end.
    while chunk := stream.read(min(1 << 20, size + 1 - len(values))):
        values += chunk
    if len(values) != size:
        follow = f"only {len(values):,} follow" if len(values) < size else "more follow"
        raise DataError(f"the header says {count:,} items in {size:,} bytes, but {follow}")
    return np.frombuffer(values, np.uint8).reshape(count, *item)


# ---- tables of pixels ----------------------------------------------------------------------------------


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith((".csv", ".csv.gz"))


def _find_tables(dataset: str) -> tuple[Path, Path | None] | None:
    """The table to train on, and the one to test with, whose name has 'test' instead of 'train'; None if
    there is no table.

    dataset: the first table, or a folder that contains no other one.
    """
    path = Path(os.path.expanduser(dataset))
    if dataset and path.is_dir():
        tables = [p for p in sorted(path.iterdir()) if _is_csv(p) and _columns(p) is not None]
        choice = [p for p in tables if "train" in p.name] or [p for p in tables if "test" not in p.name]
        if len(choice) > 1:
            tables = ", ".join(f"--dataset={p}" for p in choice)
            raise DataError(f"--dataset={dataset} holds {len(choice)} tables; choose one of {tables}")
        if not choice:
            return None
        path = choice[0]
    elif not path.is_file() or not _is_csv(path) or _columns(path) is None:
        return None
    test = path.with_name(path.name.replace("train", "test"))
    return path, test if test != path and os.path.isfile(test) and _columns(test) is not None else None


def _columns(path: Path) -> tuple[int | None, bool] | None:
    """For a table of pixels: the index of the label's column (None: it has none), and whether its first line
    has names. None for any other file.
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            first = file.readline(100_000).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error):
        return None
    cells = [cell.strip().strip('"').lower() for cell in first.split(",")]
    if len(cells) not in (SIZE**2, SIZE**2 + 1):
        return None
    named = not all(cell.replace(".", "", 1).isdigit() for cell in cells)
    if len(cells) == SIZE**2:
        return None, named
    if not named:
        return 0, False
    return next((i for i, cell in enumerate(cells) if cell in LABEL_COLUMNS), None), True


def _read_tables(name: str, path: Path, test: Path | None) -> list[np.ndarray]:
    """Pictures and labels of a table, and of its test table if that exists and has labels."""
    images, labels = _read_table(path)
    if len(labels) < MIN_IMAGES:
        raise DataError(f"{path}: {len(labels)} pictures; at least {MIN_IMAGES} are needed")
    unlabelled = test is not None and _columns(test)[0] is None
    if test is None or unlabelled:
        why = f" ({test.name} has no labels)" if unlabelled else ""
        _say(f"{name}: a fifth of {path.name} is the test part{why}")
        return [images, labels]
    _say(f"{name}: {test.name} is the test part")
    test_images, test_labels = _read_table(test)
    if not len(test_labels):
        raise DataError(f"{test}: 0 pictures; at least 1 is needed")
    _check_labels(labels, test_labels, path.name, test)
    return [images, labels, test_images, test_labels]


def _read_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, uint8 (N, 28, 28), and labels, uint8 (N,), of rows with a label and 784 pixels."""
    import pandas as pd

    column, named = _columns(path)
    if column is None:
        raise DataError(f"{path}: no column is called label, class or target")
    rows, options = [], {"header": None, "skiprows": int(named), "chunksize": 10_000}
    try:
        with pd.read_csv(path, encoding="utf-8-sig", **options) as chunks:
            for chunk in chunks:
                values = chunk.to_numpy(np.float64)
                bad = np.argwhere(~((values >= 0) & (values <= 255) & (values == np.floor(values))))
                if len(bad):
                    line = named + sum(map(len, rows)) + bad[0][0] + 1
                    found = f"line {line}, column {bad[0][1] + 1}: {values[tuple(bad[0])]:g}"
                    raise DataError(f"{path}: {found}; expected are whole numbers from 0 to 255")
                rows.append(values.astype(np.uint8))
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as e:  # pandas raises subclasses of ValueError
        raise DataError(f"{path}: {reason(e)}") from None
    table = np.concatenate(rows)
    return np.delete(table, column, axis=1).reshape(-1, SIZE, SIZE), table[:, column]


# ---- which way up --------------------------------------------------------------------------------------


N_LOOKED_AT = 3000  # pictures, at most


def look_transposed(images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], name: str) -> bool:
    """Whether the rows and columns of pictures (N, 28, 28) seem to be exchanged, as in EMNIST's files.

    If the classes are the ten digits, their mean pictures are compared with those of the embedded digits,
    both ways. For MNIST, the correlation is higher by 0.36 the right way round, and by 0.2 even for 32 of its
    pictures. In other sets of ten classes it may be higher when transposed, but then most classes are not
    most similar to their own digit. Other classes are examined only if the name says EMNIST: letters are
    taller than wide.
    """
    images, labels, is_emnist = images[:N_LOOKED_AT], labels[:N_LOOKED_AT], "emnist" in name.lower()
    ten = [class_names.index(digit) for digit in "0123456789" if digit in class_names]
    if len(ten) == 10 and all((labels == k).any() for k in ten):
        upright, turned = _like_embedded(np.stack([images[labels == k].mean(0) for k in ten]))
        gain = np.trace(turned - upright) / 10
        are_digits = (turned.argmax(1) == np.arange(10)).sum() >= 5
        return bool(gain > 0.15 and (is_emnist or are_digits))
    sideways, up_and_down = _spread(images)
    return is_emnist and sideways > up_and_down


def _like_embedded(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations (10, 10) of mean pictures (10, 28, 28) with those of the embedded digits; and the same
    after transposing.
    """
    images, labels = embedded()
    known = np.stack([images[labels == k].mean(0) for k in range(10)]).reshape(10, -1)
    upright, turned = (np.corrcoef(x.reshape(10, -1), known)[:10, 10:] for x in (means, means.swapaxes(1, 2)))
    return upright, turned


def _spread(images: np.ndarray) -> list[float]:
    """The spread of the ink sideways, and up and down: its variance about its centre,
    averaged over pictures.
    """
    ink, at, spread = images.astype(np.float64), np.arange(SIZE), []
    for axis in (1, 2):
        along = ink.sum(axis) / np.maximum(ink.sum((1, 2)), 1)[:, None]  # (N, 28)
        centre = along @ at
        spread.append(float(((at - centre[:, None]) ** 2 * along).sum(1).mean()))
    return spread
