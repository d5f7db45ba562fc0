"""Small grey pictures with classes: handwritten digits, MNIST, Fashion-MNIST or any set laid out like them.

`digits`, the default, is scikit-learn's 1,797 digits of 8×8 pixels brought to 28×28; it needs no download.
The others are four IDX files, gzipped or not, read where they lie; nothing is written beside them.

    splits = load("mnist", "data/store")
    splits.train, splits.train_labels                   # uint8 (55000, 28, 28), int64 (55000,)

torch is imported where it is used: reading and checking need none.
Shapes: N pictures.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data import DataError
from data.names import closest, did_you_mean, missing
from data.terminal import readable

if TYPE_CHECKING:
    import torch

SIZE = 28
PARTS = ("train", "val", "test")
PIPELINE = 1  # part of every content hash: raise it when the embedded digits or the split change
MIN_IMAGES = 32  # to train on; of fewer, val would be one or two
NAMED_SETS = ("digits", "mnist", "fashion")
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
FILES = tuple(part + kind for part in ("train", "t10k") for kind in (IMAGES, LABELS))
FOLDERS = {"mnist": "MNIST/raw", "fashion": "FashionMNIST/raw"}  # under --data_dir: torchvision's own places
LAYOUTS = {name: f"in {folder}/ {'.gz, '.join(FILES)}.gz" for name, folder in FOLDERS.items()}
# name -> file -> checksums of the .gz and of what is in it, where known: 32 hex digits md5, 64 sha256
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
    """A data set in its three parts: white on black, as stored; rows in the order of the files."""

    name: str  # short, for titles ('digits', 'mnist')
    content_hash: str  # 16 hex digits: what the pictures, their classes and the split are
    train: torch.Tensor  # uint8 (N, 28, 28), CPU
    val: torch.Tensor
    test: torch.Tensor
    train_labels: torch.Tensor  # int64 (N,), from 0 to len(class_names) - 1
    val_labels: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]


def load(dataset: str, data_dir: str) -> DigitSplits:
    """Load a named set or a folder of IDX files. Raises DataError where missing, damaged or unusable."""
    import torch

    name, content_hash, parts, class_names = load_arrays(dataset, data_dir)
    tensors = {part: torch.from_numpy(images) for part, (images, _) in parts.items()}
    tensors |= {f"{part}_labels": torch.from_numpy(labels) for part, (_, labels) in parts.items()}
    return DigitSplits(name, content_hash, **tensors, class_names=class_names)


def load_arrays(
    dataset: str, data_dir: str | Path
) -> tuple[str, str, dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """As `load`, without torch: name, content hash, part -> (images, labels), class names."""
    name = dataset
    if dataset == "digits":
        images, labels = embedded()
        chosen = draw(labels, len(labels) // 5)
        test = images[chosen], labels[chosen]
        images, labels = np.delete(images, chosen, axis=0), np.delete(labels, chosen)
        n_val = (len(labels) + len(chosen)) // 10
    else:
        if dataset in FOLDERS:
            images, labels, *test = _named(dataset, Path(data_dir))
        else:
            name, (images, labels, *test) = _folder(dataset)
        n_val = len(labels) // 12  # 5,000 of 60,000
    chosen = draw(labels, n_val)
    train = np.delete(images, chosen, axis=0), np.delete(labels, chosen)
    parts = dict(zip(PARTS, (train, (images[chosen], labels[chosen]), test)))
    parts = {part: (x, y.astype(np.int64)) for part, (x, y) in parts.items()}
    n_classes = 1 + int(labels.max())
    class_names = FASHION if dataset == "fashion" else tuple(map(str, range(n_classes)))
    return name, _digest(parts), parts, class_names


def holds(dataset: str) -> bool:
    """Whether this is a set for `load`: one of its names, or a folder with at least one of the four files."""
    return dataset in NAMED_SETS or any(map(_any_file, _places(dataset)))


def draw(labels: np.ndarray, n: int) -> np.ndarray:
    """n row numbers in rising order, arbitrary but always the same, each class with its share of them ± 1."""
    # RandomState: numpy keeps its stream for ever, default_rng's may change
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[(2 * np.arange(n) + 1) * len(labels) // (2 * n)])  # evenly spaced


def _digest(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    sha = hashlib.sha256(str(PIPELINE).encode())
    for part, (images, labels) in parts.items():
        sha.update(f"\n{part} {len(labels)}\n".encode())
        sha.update(np.ascontiguousarray(images))
        sha.update(labels.astype("<i8"))
    return sha.hexdigest()[:16]


# ---- the embedded digits -------------------------------------------------------------------------------


def embedded() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits drawn as MNIST's are: uint8 (1797, 28, 28) and labels (1797,).

    Cubic interpolation (Keys 1981, a = -1/2) from 8×8 to 20×20, contrast doubled around half-grey, because
    counts of ink in 4×4 cells are flat where MNIST has strokes with edges; placed with the centre of mass in
    the middle. All in integers: no machine rounds differently.
    """
    x, labels = _eight_by_eight()
    n = np.abs(4 * np.arange(20)[:, None] - 3 - 10 * np.arange(8))  # tenths of an input pixel: 20×8 distances
    cubic = np.where(n <= 10, 3 * n**3 - 50 * n**2 + 2000, -(n**3) + 50 * n**2 - 800 * n + 4000)
    weights = np.where(n < 20, cubic, 0)  # in 2000ths
    full = 16 * 2000**2
    large = np.clip(2 * (weights @ x @ weights.T) - full // 2, 0, full)
    large = ((255 * large + full // 2) // full).astype(np.uint8)
    mass = x.sum((1, 2))
    # Where the 20×20 square begins: 14 - 2.5 (centre + 1/2), rounded
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


# ---- sets of IDX files ---------------------------------------------------------------------------------


def _named(name: str, data_dir: Path) -> list[np.ndarray]:
    if (folder := place(name, data_dir)) is None:
        raise missing(name, data_dir, LAYOUTS[name])
    try:
        return _read_set(folder, CHECKSUMS[name])
    except DataError as e:
        raise missing(name, data_dir, LAYOUTS[name], f"is incomplete or damaged ({e})") from None


def place(name: str, data_dir: Path) -> Path | None:
    """The folder where `load` finds the files of `mnist` or `fashion`, which may not be all there."""
    return next(filter(_any_file, (data_dir / FOLDERS[name], data_dir)), None)


def _folder(dataset: str) -> tuple[str, list[np.ndarray]]:
    folder = next(filter(_any_file, _places(dataset)), None)
    if folder is None and os.path.isdir(os.path.expanduser(dataset)):
        below = sorted(p.parent for p in Path(dataset).expanduser().glob("*/raw") if _any_file(p))
        hint = did_you_mean(below[0] if below else None)
        raise DataError(
            f"--dataset={dataset} holds none of {', '.join(FILES)} (.gz or not), nor does its raw/{hint}"
        )
    if folder is None:
        hint = did_you_mean(closest(NAMED_SETS, dataset.lower()))
        raise DataError(
            f"--dataset={dataset} is neither a named set ({', '.join(NAMED_SETS)}) nor an existing folder of "
            f"IDX files{hint}"
        )
    try:
        arrays = _read_set(folder, {})
    except DataError as e:
        raise DataError(f"--dataset={dataset}: {e}") from None
    title = folder.resolve()
    return readable((title.parent if title.name == "raw" else title).name) or "images", arrays


def _places(dataset: str) -> tuple[Path, Path]:
    folder = Path(os.path.expanduser(dataset))
    return folder / "raw", folder


def _any_file(folder: Path) -> bool:
    return any(os.path.isfile(folder / f"{file}{ending}") for file in FILES for ending in (".gz", ""))


def _read_set(folder: Path, checksums: dict[str, tuple[str, str | None]]) -> list[np.ndarray]:
    """Train images, train labels, test images, test labels; they fit together."""
    arrays = [read_file(folder, file, checksums.get(file)) for file in FILES]
    for i, least in ((0, MIN_IMAGES), (2, 1)):
        images, labels = len(arrays[i]), len(arrays[i + 1])
        if images != labels:
            raise DataError(
                f"{folder}: {images:,} images in {FILES[i]}, but {labels:,} labels in {FILES[i + 1]}"
            )
        if images < least:
            raise DataError(f"{folder / FILES[i]}: {images} images; at least {least} are needed")
    known, largest = int(arrays[1].max()), int(arrays[3].max())
    if largest > known:
        raise DataError(f"{folder / FILES[3]}: label {largest}, but {FILES[1]} allows only 0 to {known}")
    return arrays


def read_file(folder: Path, file: str, checksums: tuple[str, str | None] | None = None) -> np.ndarray:
    """Read one of FILES, its .gz if that is there, and compare the checksum, where one is known.

    Returns uint8 (N, 28, 28) or (N,). Raises DataError, naming the file.
    """
    path = next((p for p in (folder / f"{file}.gz", folder / file) if os.path.isfile(p)), None)
    if path is None:
        raise DataError(f"{folder} lacks {file}.gz")
    try:
        content = path.read_bytes()
        array = _parse(content, (SIZE, SIZE) if file.endswith(IMAGES) else ())
    except (EOFError, zlib.error, OSError, DataError) as e:  # gzip raises any of the first three
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
    """IDX: two zero bytes, type, number of dimensions, each as big-endian uint32, then the values."""
    stream = io.BytesIO(content)
    if content.startswith(GZIP):
        stream = gzip.GzipFile(fileobj=stream)
    start, n_dims = stream.read(4), 1 + len(item)
    if len(start) == 4 and start != bytes((0, 0, 8, n_dims)):
        what = "not IDX"
        if start[:2] == b"\0\0":
            what = f"IDX of type 0x{start[2]:02x} with {start[3]} dimensions"
        need = f"unsigned bytes (0x08) with {n_dims} {'dimension' if n_dims == 1 else 'dimensions'}"
        raise DataError(f"{what} (begins with {start.hex(' ')}); needed is IDX of {need}")
    head = stream.read(4 * n_dims)
    if len(start) < 4 or len(head) < 4 * n_dims:
        raise DataError(f"cut off within its header of {4 + 4 * n_dims} bytes")
    count, *shape = map(int, np.frombuffer(head, ">u4"))
    if tuple(shape) != item:
        raise DataError(f"images of {shape[0]}×{shape[1]} pixels; needed are 28×28")
    size, values = count * int(np.prod(item, dtype=np.int64)), bytearray()
    # In pieces: a wrong count must not reserve its memory. One byte more: past the end gzip checks its sum.
    while chunk := stream.read(min(1 << 20, size + 1 - len(values))):
        values += chunk
    if len(values) != size:
        follow = f"only {len(values):,} follow" if len(values) < size else "more follow"
        raise DataError(f"the header says {count:,} items in {size:,} bytes, but {follow}")
    return np.frombuffer(values, np.uint8).reshape(count, *item)
