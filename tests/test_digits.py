"""Digits: the look of the embedded ones, splits, IDX files whole and damaged, how
prepare.py downloads them.
"""

import dataclasses
import functools
import gzip
import hashlib
import importlib
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError, digits, prepare
from data.digits import FILES, load, load_arrays, read_file
from research.common.flags import result_names
from research.common.messages import UserError
from research.common.task import flags_of_run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = FILES


def idx(values: np.ndarray) -> bytes:
    """The bytes of an IDX file."""
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def arrays(n: int = 60, n_test: int = 12, classes: int = 10) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    images = [rng.integers(0, 256, (k, 28, 28), dtype=np.uint8) for k in (n, n_test)]
    labels = [np.arange(k, dtype=np.uint8) % classes for k in (n, n_test)]
    return [images[0], labels[0], images[1], labels[1]]


def lay(folder: Path, values: list[np.ndarray] | None = None, ending: str = ".gz") -> Path:
    """A folder of the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in zip(FILES, values or arrays()):
        content = idx(value)
        (folder / f"{file}{ending}").write_bytes(gzip.compress(content, 1) if ending == ".gz" else content)
    return folder


def refused(dataset: str | Path, data_dir: Path | str = "nowhere") -> str:
    with pytest.raises(DataError) as e:
        load_arrays(str(dataset), str(data_dir))
    assert "\n" not in str(e.value)
    return str(e.value)


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def bag(images: np.ndarray, labels: np.ndarray) -> Counter:
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, labels))


# ---- the embedded digits -------------------------------------------------------------------------------


def test_the_embedded_digits_are_known():
    splits = load("digits", "nowhere")
    assert (splits.name, splits.content_hash) == ("digits", "7d93bda2aba3fc55")
    assert splits.class_names == tuple("0123456789")
    for part, n in {"train": 1259, "val": 179, "test": 359}.items():
        images, labels = getattr(splits, part), getattr(splits, f"{part}_labels")
        assert (images.shape, images.dtype) == ((n, 28, 28), torch.uint8)
        assert (labels.shape, labels.dtype) == ((n,), torch.int64)
    assert load("digits", "elsewhere").content_hash == splits.content_hash
    assert not Path("nowhere").exists()


def test_they_are_scikit_learns():
    from sklearn.datasets import load_digits

    x, labels = digits._eight_by_eight()
    truth = load_digits()
    assert (x == truth.images).all()
    assert (labels == truth.target).all()
    # without the file where this version of scikit-learn keeps it
    with pytest.MonkeyPatch.context() as m:
        m.setattr(digits.Path, "is_file", lambda self: False)
        again = digits._eight_by_eight()
    assert (again[0] == x).all()
    assert (again[1] == labels).all()


def test_they_look_like_mnist(monkeypatch):
    """Their ink and place are as in MNIST (mean 33, 19 % not black, 13 % above half-grey), and they are
    legible.
    """
    images, labels = digits.embedded()
    assert 30 < images.mean() < 45
    assert 0.15 < (images > 0).mean() < 0.25
    assert 0.1 < (images > 127).mean() < 0.2
    mass = images.sum((1, 2), dtype=np.int64)
    for axis in (1, 2):
        centre = (images.sum(3 - axis, dtype=np.int64) @ np.arange(28)) / mass
        assert np.abs(centre - 13.5).max() < 1.5
        assert abs(centre.mean() - 13.5) < 0.1
    means = np.stack([images[::2][labels[::2] == k].mean(axis=0) for k in range(10)])
    distance = ((images[1::2, None] - means) ** 2).sum((2, 3))
    assert (distance.argmin(axis=1) == labels[1::2]).mean() > 0.85

    # the interpolation keeps flat areas flat, and the orientation
    x = np.zeros((2, 8, 8), np.int64)
    x[0, 2:6, 2:6] = 16
    x[1, 0, 7] = 16
    monkeypatch.setattr(digits, "_eight_by_eight", lambda: (x, np.zeros(2, np.int64)))
    square, corner = digits.embedded()[0]
    assert (square[11:17, 11:17] == 255).all()
    assert (square == square.T).all()
    assert (square == square[::-1]).all()
    assert [i.mean().round() for i in np.nonzero(corner > 100)] == [9.0, 18.0]  # as near as the square goes


# ---- splits --------------------------------------------------------------------------------------------


def test_splits_are_disjoint_complete_stratified_and_in_order():
    images, labels = digits.embedded()
    _, _, parts, _ = load_arrays("digits", "nowhere")
    bags = [bag(*pair) for pair in parts.values()]
    assert sum(bags, Counter()) == bag(images, labels)
    assert not (bags[0] & bags[1] or bags[0] & bags[2] or bags[1] & bags[2])
    share, place = np.bincount(labels) / len(labels), {image.tobytes(): i for i, image in enumerate(images)}
    assert len(place) == len(images)
    for pictures, classes in parts.values():
        assert np.abs(np.bincount(classes) - share * len(classes)).max() <= 2
        places = [place[picture.tobytes()] for picture in pictures]
        assert (np.diff(places) > 0).all()
        assert (labels[places] == classes).all()


def test_val_is_cut_from_train_and_test_stays(tmp_path):
    values = arrays(120, 24)
    name, content_hash, parts, class_names = load_arrays(str(lay(tmp_path / "glyphs", values)), "nowhere")
    assert (name, class_names) == ("glyphs", tuple("0123456789"))
    assert [len(y) for _, y in parts.values()] == [110, 10, 24]
    assert np.bincount(parts["val"][1]).tolist() == [1] * 10
    assert sum((bag(*parts[part]) for part in ("train", "val")), Counter()) == bag(*values[:2])
    assert (parts["test"][0] == values[2]).all()
    assert (parts["test"][1] == values[3]).all()

    def hashed(i: int, change) -> str:
        changed = [v.copy() for v in values]
        change(changed[i])
        return load_arrays(str(lay(tmp_path / "changed", changed)), "nowhere")[1]

    def pixel(a):
        a[-1, 0, 0] ^= 1

    def label(a):
        a[-1] -= 1

    def order(a):
        a[:2] = a[1::-1].copy()

    hashes = [hashed(0, pixel), hashed(1, label), hashed(2, pixel), hashed(3, label), hashed(2, order)]
    assert len({content_hash, *hashes}) == 6
    assert hashed(0, lambda a: None) == content_hash


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 12), min_size=1, max_size=300), data=st.data())
def test_a_draw_takes_every_class_its_share(labels, data):
    labels = np.array(labels)
    n = data.draw(st.integers(1, len(labels)))
    chosen = digits.draw(labels, n)
    assert len(chosen) == n == len(set(chosen))
    assert (np.diff(chosen) > 0).all()
    assert (
        np.abs(
            np.bincount(labels[chosen], minlength=13) - np.bincount(labels, minlength=13) * n / len(labels)
        ).max()
        <= 1
    )
    assert (chosen == digits.draw(labels, n)).all()


# ---- IDX files -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), seed=st.integers(0, 99), packed=st.booleans(), named=st.booleans())
def test_idx_round_trips(tmp_path_factory, n, seed, packed, named):
    """Whether a file is gzipped is found from its bytes, whatever its name is."""
    folder = tmp_path_factory.mktemp("idx")
    for file, shape in ((TRAIN_X, (n, 28, 28)), (TEST_Y, (n,))):
        values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        content = gzip.compress(idx(values)) if packed else idx(values)
        (folder / (f"{file}.gz" if named else file)).write_bytes(content)
        read = read_file(folder, file)
        assert read.dtype == np.uint8
        assert read.shape == shape
        assert (read == values).all()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, dict[str, bytes], dict[str, np.ndarray]]:
    """Where damaged files may be written, whole ones, and their values."""
    values = dict(zip(FILES, arrays(33, 3)))
    content = {
        f"{file}{ending}": gzip.compress(idx(v)) if ending else idx(v)
        for file, v in values.items()
        for ending in (".gz", "")
    }
    return tmp_path_factory.mktemp("damaged"), content, values


@settings(max_examples=300, deadline=None)
@given(
    file=st.sampled_from(FILES),
    packed=st.booleans(),
    where=st.integers(0, 40),
    new=st.binary(max_size=6),
    cut=st.sampled_from((0, 0, 1, 3, 8, 20, 10_000)),
    more=st.binary(max_size=3),
)
@example(file=TRAIN_X, packed=False, where=4, new=b"\xff\xff\xff\xff", cut=0, more=b"")
@example(file=TRAIN_X, packed=False, where=4, new=b"\0\0\0\0", cut=0, more=b"")
@example(file=TRAIN_Y, packed=True, where=0, new=b"", cut=10_000, more=b"")
@example(file=TRAIN_Y, packed=True, where=0, new=b"", cut=0, more=b"\0\0")
def test_corrupt_headers_load_equal_data_or_are_refused(good, file, packed, where, new, cut, more):
    """Bytes are overwritten in the header (of gzip or IDX), cut off or appended: no other exception is
    raised.
    """
    folder, content, values = good
    whole = content[f"{file}{'.gz' * packed}"]
    at = where if packed else where % (16 if "images" in file else 8)
    new = new if packed else new[: (16 if "images" in file else 8) - at]  # values have no checksum
    damaged = whole[:at] + new + whole[at + len(new) :]
    (folder / file).write_bytes(damaged[: max(0, len(damaged) - cut)] + more * (cut == 0))
    try:
        read = read_file(folder, file)
    except DataError as e:
        assert str(e).startswith(f"{folder / file}: ")
        assert "\n" not in str(e)
    else:
        assert (read == values[file]).all()


def test_each_fault_is_named(tmp_path):
    folder, whole = lay(tmp_path / "own", ending=""), {}
    for file in FILES:
        whole[file] = (folder / file).read_bytes()

    def refusal(file: str, content: bytes) -> str:
        (folder / file).write_bytes(content)
        message = refused(folder)
        (folder / file).write_bytes(whole[file])
        assert message.startswith(f"--dataset={folder}: {folder}")
        return message.removeprefix(f"--dataset={folder}: ").removeprefix(f"{folder / file}: ")

    x, y = whole[TRAIN_X], whole[TRAIN_Y]
    assert refusal(TRAIN_X, x[:-1]) == "the header says 60 items in 47,040 bytes, but only 47,039 follow"
    assert refusal(TRAIN_X, x + b"x") == "the header says 60 items in 47,040 bytes, but more follow"
    assert refusal(TRAIN_Y, y[:7]) == "cut off within its header of 8 bytes"
    assert refusal(TRAIN_Y, b"") == "cut off within its header of 8 bytes"
    assert refusal(TRAIN_X, b"\x89PNG" + x[4:]).startswith(
        "not IDX (begins with 89 50 4e 47); expected: IDX of"
    )
    assert refusal(TRAIN_X, y).startswith("IDX of type 0x08 with 1 dimensions")
    assert refusal(TRAIN_Y, x).endswith("expected: IDX of unsigned bytes (0x08) with 1 dimension")
    assert refusal(TRAIN_X, b"\0\0\x0d\x03" + x[4:]).startswith("IDX of type 0x0d with 3 dimensions")
    assert (
        refusal(TRAIN_X, idx(np.zeros((60, 32, 32), np.uint8)))
        == "images of 32×32 pixels; expected are 28×28"
    )
    assert refusal(TRAIN_X, gzip.compress(x)[:-20]) == "cut off within its gzip stream"
    packed = bytearray(gzip.compress(x))
    packed[-6] ^= 1
    assert "CRC check failed" in refusal(TRAIN_X, bytes(packed))
    assert refusal(TRAIN_Y, idx(arrays(59)[1])) == (
        f"{folder}: 60 images in {TRAIN_X}, but 59 labels in {TRAIN_Y}"
    )
    assert refusal(TEST_Y, idx(np.full(12, 10, np.uint8))) == f"label 10, but {TRAIN_Y} allows only 0 to 9"
    (folder / TEST_X).unlink()
    assert refused(folder).endswith(f"own lacks {TEST_X}.gz")
    assert "31 images; at least 32 are needed" in refused(lay(tmp_path / "few", arrays(31)))
    assert "0 images; at least 1 are needed" in refused(lay(tmp_path / "none", arrays(60, 0)))
    (folder / TEST_X).mkdir()
    assert refused(folder).endswith(f"own lacks {TEST_X}.gz")


# ---- where sets lie ------------------------------------------------------------------------------------


@pytest.fixture
def official(monkeypatch) -> list[np.ndarray]:
    """Let small files count as MNIST's: their checksums are recorded as the official ones."""
    values = arrays()
    sums = {
        file: tuple(hashlib.sha256(c).hexdigest() for c in (gzip.compress(idx(v), 1, mtime=0), idx(v)))
        for file, v in zip(FILES, values)
    }
    monkeypatch.setitem(digits.CHECKSUMS, "mnist", sums)
    monkeypatch.setattr(gzip, "compress", functools.partial(gzip.compress, mtime=0))
    return values


@pytest.mark.parametrize("ending", [".gz", ""])
@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_a_named_set_is_read_in_place(tmp_path, official, ending, place):
    lay(tmp_path / place, official, ending)
    before = tree(tmp_path)
    name, content_hash, parts, _ = load_arrays("mnist", str(tmp_path))
    assert (name, [len(y) for _, y in parts.values()]) == ("mnist", [55, 5, 12])
    assert tree(tmp_path) == before
    # as a folder of one's own it is the same set
    again = load_arrays(str(tmp_path / place), "nowhere")
    assert again[1] == content_hash
    if place != ".":
        assert load_arrays(str(tmp_path / "MNIST"), "nowhere")[:2] == ("MNIST", content_hash)
        assert refused(tmp_path).endswith(f"; did you mean {tmp_path / 'MNIST'}?")
    # whole, but not the official file
    values = [official[0], official[1][::-1], *official[2:]]
    lay(tmp_path / place, values, ending)
    message = refused("mnist", tmp_path)
    assert f"{TRAIN_Y}{ending}: sha256 " in message
    assert f"but the official file has {digits.CHECKSUMS['mnist'][TRAIN_Y][not ending]})" in message
    assert f"get it with `python data/prepare.py mnist --data_dir={tmp_path}`" in message


def test_a_missing_set_names_the_command(tmp_path, official):
    for name in ("mnist", "fashion"):
        message = refused(name, tmp_path)
        assert message.startswith(
            f"--dataset={name} is not there: get it with `python data/prepare.py {name} --"
        )
        assert message.endswith(digits.LAYOUTS[name])
    raw = lay(tmp_path / "MNIST" / "raw", official)
    (raw / f"{TEST_Y}.gz").unlink()
    message = refused("mnist", tmp_path)
    assert message.startswith(
        f"--dataset=mnist is incomplete or damaged ({raw} lacks {TEST_Y}.gz): get it with"
    )
    assert refused("fashion", tmp_path).startswith("--dataset=fashion is not there")


def test_classes_are_counted(tmp_path, monkeypatch):
    assert load_arrays(str(lay(tmp_path / "raw", arrays(300, 26, 26))), "nowhere")[3] == tuple(
        map(str, range(26))
    )
    assert load_arrays(str(tmp_path / "raw"), "nowhere")[0] == tmp_path.name
    monkeypatch.setitem(digits.CHECKSUMS, "fashion", {})
    lay(tmp_path / "FashionMNIST" / "raw")
    assert load_arrays("fashion", str(tmp_path))[3][8:] == ("Bag", "Ankle boot")


def test_unknown_names(tmp_path):
    assert refused("mnits").startswith("--dataset=mnits is neither a named set (digits, mnist, fashion) nor")
    assert refused("MNIST").endswith("; did you mean mnist?")
    assert "did you mean" not in refused("qqqq")
    (tmp_path / "empty").mkdir()
    assert f"holds none of {TRAIN_X}, " in refused(tmp_path / "empty")
    assert "neither" in refused("")
    assert not digits.holds(str(tmp_path))
    assert digits.holds(str(lay(tmp_path / "a")))


# ---- other names, other places, other labels -----------------------------------------------------------

EMNIST = ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte")
EMNIST += ("emnist-letters-test-images-idx3-ubyte", "emnist-letters-test-labels-idx1-ubyte")
DOTTED = tuple(file.replace("-idx", ".idx") for file in FILES)


def lay_as(folder: Path, names: tuple[str, ...], values: list[np.ndarray], ending: str = "") -> Path:
    """The four files under other names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, values):
        content = idx(np.ascontiguousarray(value))
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content, 1) if ending else content)
    return folder


@pytest.mark.parametrize("ending", [".gz", ""])
@pytest.mark.parametrize("place", [".", "raw", "gzip", "raw/gzip"])
@pytest.mark.parametrize(("names", "title"), [(DOTTED, "own"), (EMNIST, "emnist-letters"), (FILES, "own")])
def test_files_are_found_under_their_other_names_and_in_their_folders(tmp_path, names, title, place, ending):
    values = arrays()
    lay_as(tmp_path / "own" / place, names, values, ending)
    name, content_hash, parts, _ = load_arrays(str(tmp_path / "own"), "nowhere")
    assert (name, [len(y) for _, y in parts.values()]) == (title, [55, 5, 12])
    assert content_hash == load_arrays(str(lay(tmp_path / "usual", values)), "nowhere")[1]
    assert (parts["test"][0] == values[2]).all()
    assert prepare._source(str(tmp_path / "own")) is digits


def test_one_of_several_sets_in_a_folder_is_named_after_it(tmp_path):
    letters, balanced = arrays(60, 12, 5), arrays(72, 12, 7)
    folder = lay_as(tmp_path / "gzip", EMNIST, letters, ".gz")
    lay_as(folder, tuple(name.replace("letters", "balanced") for name in EMNIST), balanced, ".gz")
    choice = f"--dataset={folder}/emnist-balanced, --dataset={folder}/emnist-letters"
    assert refused(folder) == f"--dataset={folder} holds 2 sets; choose one of {choice}"
    assert prepare.main([str(folder)]) == 2
    for place in (folder, tmp_path):  # in its folder, or in the one above: it is found in gzip/
        name, _, _, class_names = load_arrays(str(place / "emnist-letters"), "nowhere")
        assert (name, class_names) == ("emnist-letters", tuple("01234"))
    assert load_arrays(str(folder / "emnist-balanced"), "nowhere")[3] == tuple("0123456")
    assert refused(folder / "emnist-leters").endswith(f"; did you mean {folder / 'emnist-letters'}?")
    one = folder / f"{EMNIST[0]}.gz"
    assert refused(one) == f"--dataset={one} is one of the four files of a set: name its folder, {folder}"
    (folder / f"{EMNIST[3]}.gz").unlink()
    lacks = f"{folder} lacks emnist-letters-t10k-labels-idx1-ubyte.gz"
    assert refused(folder / "emnist-letters").endswith(lacks)


def test_classes_are_the_labels_that_occur(tmp_path):
    """EMNIST's letters are 1 to 26: no class 0 without pictures, and class 3 is called '3'."""
    values = arrays(300, 52, 26)
    from_1 = [values[0], values[1] + 1, values[2], values[3] + 1]
    _, content_hash, parts, class_names = load_arrays(str(lay(tmp_path / "from 1", from_1)), "nowhere")
    assert class_names == tuple(map(str, range(1, 27)))
    assert all(sorted(set(y)) == list(range(26)) for y in (parts["train"][1], parts["test"][1]))
    assert {int(label) for label in parts["test"][1][(from_1[3] == 3).nonzero()]} == {class_names.index("3")}
    _, as_before, same, _ = load_arrays(str(lay(tmp_path / "from 0", values)), "nowhere")
    assert all((same[part][1] == parts[part][1]).all() for part in digits.PARTS)
    assert content_hash != as_before  # other classes, though the same numbers
    # a sign language set has no 9, the sign for J moves; what only the test part has is a class too
    gap = [values[0][:40], np.repeat(np.uint8([0, 1, 3, 9]), 10), values[2][:4], np.uint8([0, 3, 9, 2])]
    assert load_arrays(str(lay(tmp_path / "gap", gap)), "nowhere")[3] == tuple("01239")


def save_table(path: Path, images: np.ndarray, labels: np.ndarray | None, head: str = "", last: bool = False):
    """A .csv as Kaggle has it. head: names in its first line; last: the label is the last column."""
    rows = images.reshape(len(images), -1)
    if labels is not None:
        rows = np.concatenate([rows, labels[:, None]] if last else [labels[:, None], rows], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (f"{head}\n" if head else "") + "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


PIXELS = ",".join(f"pixel{i}" for i in range(784))
HEADS = [("", False), (f"label,{PIXELS}", False), (f'"Label",{PIXELS}', False), (f"{PIXELS},class", True)]


@pytest.mark.parametrize(("head", "last"), [*HEADS, (f"\ufefflabel,{PIXELS}", False)])
def test_a_table_of_pixels(tmp_path, capsys, head, last):
    images, labels, *_ = arrays(100)
    save_table(tmp_path / "kaggle" / "train.csv", images, labels, head, last)
    for dataset in (tmp_path / "kaggle", tmp_path / "kaggle" / "train.csv"):
        name, _, parts, class_names = load_arrays(str(dataset), "nowhere")
        assert (name, class_names) == ("kaggle", tuple("0123456789"))
        assert [len(y) for _, y in parts.values()] == [70, 10, 20]  # as of the embedded digits
        assert sum((bag(*pair) for pair in parts.values()), Counter()) == bag(images, labels)
        assert all(np.bincount(parts[part][1]).tolist() == [n] * 10 for part, n in (("val", 1), ("test", 2)))
        assert capsys.readouterr().err == "kaggle: a fifth of train.csv is the test part\n"
        assert prepare._source(str(dataset)) is digits


def test_a_table_beside_it_is_the_test_part(tmp_path, capsys):
    images, labels, test_images, test_labels = arrays(96, 20)
    for ending in (".csv", ".csv.gz"):
        folder = tmp_path / ending
        save_table(folder / f"emnist-digits-train{ending}", images, labels)
        save_table(folder / f"emnist-digits-test{ending}", test_images, test_labels)
        name, content_hash, parts, _ = load_arrays(str(folder / f"emnist-digits-train{ending}"), "nowhere")
        assert (name, [len(y) for _, y in parts.values()]) == ("emnist-digits", [88, 8, 20])
        assert (parts["test"][0] == test_images).all() and (parts["test"][1] == test_labels).all()
        assert f"emnist-digits-test{ending} is the test part" in capsys.readouterr().err
        assert content_hash == load_arrays(str(lay(tmp_path / "idx", arrays(96, 20))), "nowhere")[1]
    folder = tmp_path / "contest"  # whose test table has no labels
    save_table(folder / "train.csv", images, labels, f"label,{PIXELS}")
    save_table(folder / "test.csv", test_images, None, PIXELS)
    load_arrays(str(folder), "nowhere")
    assert "a fifth of train.csv is the test part (test.csv has no labels)" in capsys.readouterr().err
    assert refused(folder / "test.csv").endswith("test.csv: no column is called label, class or target")
    save_table(folder / "train2.csv", images, labels)
    assert "holds 2 tables; choose one of --dataset=" in refused(folder)


def test_each_fault_of_a_table_is_named(tmp_path):
    images, labels, *_ = arrays(40)
    path = tmp_path / "letters.csv"

    def refusal(change, head: str = "") -> str:
        save_table(path, images, labels, head)
        lines = path.read_text().splitlines()
        path.write_bytes(change(lines).encode("latin-1"))
        return refused(path).removeprefix(f"--dataset={path}: ").removeprefix(f"{path}: ")

    def cell(value: str):
        return lambda lines: "\n".join([*lines[:5], f"{value},{lines[5].partition(',')[2]}", *lines[6:]])

    assert refusal(cell("256")) == "line 6, column 1: 256; expected are whole numbers from 0 to 255"
    assert refusal(cell("0.5"), f"label,{PIXELS}").startswith("line 6, column 1: 0.5; expected are")
    assert refusal(cell("")).startswith("line 6, column 1: nan; expected are")
    assert "could not convert string to float: 'A'" in refusal(cell("A"))
    assert "codec can't decode byte 0xe4" in refusal(cell("ä"))
    assert "line 7, saw 786" in refusal(lambda lines: "\n".join([*lines[:6], lines[6] + ",0"]))
    assert "column 785: nan" in refusal(lambda lines: "\n".join([lines[0], lines[1].rpartition(",")[0]]))
    assert refusal(lambda lines: "\n".join(lines[:31])) == "31 pictures; at least 32 are needed"
    assert "is not a table of digits" in refusal(lambda lines: "artist,song,lyrics\na,b,c\n")
    assert not digits.holds(str(path))  # so prepare.py takes it for lyrics
    (tmp_path / "empty.csv").touch()
    assert "is not a table of digits" in refused(tmp_path / "empty.csv")
    (tmp_path / "mnist.zip").touch()
    assert refused(tmp_path / "mnist.zip").endswith("(unpack an archive first)")


# ---- rows and columns exchanged ------------------------------------------------------------------------


def part_of_digits(transposed: bool, label: int = 0, per_class: int = 20) -> list[np.ndarray]:
    """As many of the embedded digits of each class, to train on and to test with."""
    images, labels = digits.embedded()
    rows = np.concatenate([np.nonzero(labels == k)[0][:per_class] for k in range(10)])
    images = images[rows].swapaxes(1, 2) if transposed else images[rows]
    labels = (labels[rows] + label).astype(np.uint8)
    return [images, labels, images[::4], labels[::4]]


def test_transpose_exchanges_rows_and_columns(tmp_path, capsys):
    exchanged = str(lay(tmp_path / "digits by hand", part_of_digits(True)))
    _, wrong, _, _ = load_arrays(exchanged, "nowhere")
    hint = (
        "digits by hand: the rows and columns of these pictures seem to be exchanged; try it {} --transpose\n"
    )
    assert capsys.readouterr().err == hint.format("with")
    _, content_hash, parts, _ = load_arrays(exchanged, "nowhere", transpose=True)
    assert capsys.readouterr().err == ""
    upright = str(lay(tmp_path / "upright", part_of_digits(False)))
    _, again, same, _ = load_arrays(upright, "nowhere")
    assert capsys.readouterr().err == ""
    assert content_hash == again != wrong
    assert all((parts[part][0] == same[part][0]).all() for part in digits.PARTS)
    assert parts["train"][0].flags.c_contiguous
    load_arrays(upright, "nowhere", transpose=True)
    assert capsys.readouterr().err == hint.replace("digits by hand", "upright").format("without")
    assert load(exchanged, "nowhere", transpose=True).content_hash == content_hash

    assert prepare.main([exchanged, "--transpose", f"--contact_sheet={tmp_path / 'sheet.png'}"]) == 0
    out = capsys.readouterr().out
    assert content_hash in out and out.endswith(" --transpose\n")
    assert prepare.main(["synthetic", "--transpose"]) == 2
    assert capsys.readouterr().err == "--transpose: synthetic is not a set of 28×28 pixels in classes\n"


@pytest.mark.parametrize("family", ["vae_mnist", "seq2seq_arith"])
def test_a_task_reads_the_data_as_its_run_did(tmp_path, family):
    """For any other data set, only the user decides."""
    script = importlib.import_module(f"research.{family}")
    exchanged = str(lay(tmp_path / "by hand", part_of_digits(True)))
    mode = {"mode": "image_to_text"} if family == "seq2seq_arith" else {}
    run = script.Config(dataset=exchanged, transpose=True, **mode)
    cfg = script.Config(task="evaluate", checkpoint="runs/some")
    kept = {"flags": dataclasses.asdict(run)}
    asked = flags_of_run(cfg, kept)
    assert asked.transpose and script.load_data(asked).content_hash == script.load_data(run).content_hash
    assert not flags_of_run(dataclasses.replace(cfg, dataset="mnist"), kept).transpose
    del kept["flags"]["transpose"]  # a run that is older than the flag
    assert not flags_of_run(cfg, kept).transpose
    assert "transpose" in script.DATA_FLAGS and "transpose" not in result_names(run)


def test_arithmetic_transposes_no_text():
    with pytest.raises(UserError, match=r"^--transpose=True: must be False with --mode=text_to_text"):
        importlib.import_module("research.seq2seq_arith").Config(transpose=True)


def letters(transposed: bool, first_label: int) -> list[np.ndarray]:
    """Upright letters of a font, and labels as in EMNIST for classes that are not digits."""
    from PIL import ImageDraw

    from research.draw.pictures import _font

    drawn = []
    for i in range(52):
        picture = Image.new("L", (28, 28))
        ImageDraw.Draw(picture).text((14, 14), chr(65 + i % 26 + 32 * (i > 25)), 255, _font(20), anchor="mm")
        drawn.append(np.array(picture))
    images = np.stack(drawn).swapaxes(1, 2) if transposed else np.stack(drawn)
    labels = (np.arange(52) % 26 + first_label).astype(np.uint8)
    return [images, labels, images, labels]


def test_the_hint_is_given_for_letters_where_the_name_says_emnist(tmp_path, capsys):
    for transposed, names, told in ((True, EMNIST, True), (False, EMNIST, False), (True, FILES, False)):
        folder = lay_as(tmp_path / f"{transposed} {names[0]}", names, letters(transposed, 1))
        load_arrays(str(folder), "nowhere")
        assert ("seem to be exchanged; try it with --transpose" in capsys.readouterr().err) is told


def test_the_hint_is_no_false_alarm(tmp_path, capsys):
    """There is no warning for few digits, for digits with other labels, upside down or mirrored, or for ten
    other classes.
    """
    images, labels, *_ = part_of_digits(False)
    sets = {"upright": (images, labels), "wrong labels": (images, np.roll(labels, 20))}
    sets |= {"mirrored": (images[:, :, ::-1], labels), "upside down": (images[:, ::-1], labels)}
    sets |= {"inverted": (255 - images, labels), "noise": tuple(arrays(200)[:2])}
    y, x = np.mgrid[:28, :28] - 13.5
    for seed in range(20):  # ten kinds of boxes: clothes, cars, shoes
        sides = np.random.default_rng(seed).uniform(3, 12, (10, 2))
        boxes = [255 * ((np.abs(x) < w) & (np.abs(y) < h)) for w, h in sides]
        sets[f"boxes {seed}"] = np.repeat(boxes, 20, axis=0).astype(np.uint8), labels
    for name, (pictures, classes) in sets.items():
        assert not digits.look_transposed(pictures, classes, tuple("0123456789"), name), name
    for seed in range(20):
        rows = np.random.default_rng(seed).permutation(200)[:32]
        assert not digits.look_transposed(images[rows], labels[rows], tuple("0123456789"), "few")
    load_arrays("digits", "nowhere")
    assert capsys.readouterr().err == ""


@pytest.mark.shared
def test_the_hint_knows_mnist(tmp_path, capsys):
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data/mnist here")
    images, labels = load_arrays("mnist", str(SHARED))[2]["test"]
    names = tuple("0123456789")
    for n in (500, 10_000):
        for start in range(0, len(labels), n):
            some, of = images[start : start + n], labels[start : start + n]
            assert not digits.look_transposed(some, of, names, "emnist-mnist")
            assert digits.look_transposed(some.swapaxes(1, 2), of, names, "my-digits")
    load_arrays(str(SHARED / "MNIST"), "nowhere")
    assert capsys.readouterr().err == ""


@pytest.mark.shared
def test_real_mnist():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data/mnist here")
    before = tree(SHARED)
    splits = load("mnist", str(SHARED))
    assert splits.content_hash == "6e627becfb9d2bf7"
    assert [len(splits.train), len(splits.val), len(splits.test)] == [55_000, 5_000, 10_000]
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the official test part
    assert splits.test_labels.bincount().tolist() == counts
    whole = splits.train_labels.bincount() + splits.val_labels.bincount()
    assert whole.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert ((splits.val_labels.bincount() - whole / 12).abs() <= 1).all()
    assert splits.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    total = splits.train.numpy().sum(dtype=np.int64) + splits.val.numpy().sum(dtype=np.int64)
    # the mean that every MNIST example subtracts
    assert round(int(total) / (60_000 * 784 * 255), 4) == 0.1307
    assert tree(SHARED) == before


# ---- prepare.py ----------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[tuple[Path, list[str]]]:
    """A folder served on loopback as the second mirror of MNIST, whose first lacks all; what was served."""

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code, *_):
            served.extend([self.path] if code == 200 else [])

        def log_message(self, *_):
            pass

    served: list[str] = []
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(prepare.MIRRORS, "mnist", (f"{url}/gone/", f"{url}/"))
    yield folder, served
    server.shutdown()
    thread.join()
    server.server_close()


def test_prepare_fetches_what_is_missing(tmp_path, official, mirror, capsys):
    folder, served = mirror
    lay(folder, official)
    store = tmp_path / "store"
    raw = store / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / f"{TRAIN_Y}.gz").write_bytes((folder / f"{TRAIN_Y}.gz").read_bytes())
    (raw / f"{TEST_X}.gz").write_bytes((folder / f"{TEST_X}.gz").read_bytes()[:-100])  # an interrupted copy
    sheet = tmp_path / "sheet.png"
    args = ["mnist", f"--data_dir={store}", f"--contact_sheet={sheet}"]
    assert prepare.main(args) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"mnist: {TRAIN_X}.gz fetched, 0.0")
    assert out[1] == f"mnist: {TRAIN_Y} is there"
    assert [line.split()[2] for line in out[2:4]] == ["fetched,", "fetched,"]
    assert out[4] == "mnist: 72 images of 28×28 in 10 classes (55 train, 5 val, 12 test)"
    assert load_arrays("mnist", str(store))[1] in out[5]
    assert out[-1] == f"train with --dataset=mnist --data_dir={store}"
    assert sorted(p.name for p in raw.iterdir()) == sorted(f"{file}.gz" for file in FILES)
    assert [p.name for p in store.iterdir()] == ["MNIST"]
    with Image.open(sheet) as picture:
        assert (picture.size, picture.mode) == ((280, 280), "L")

    before = tree(store)
    assert served == [f"/{file}.gz" for file in (TRAIN_X, TEST_X, TEST_Y)]
    assert prepare.main(args) == 0
    assert f"mnist: all files are there, in {raw}" in capsys.readouterr().out
    assert (tree(store), len(served)) == (before, 3)


def test_prepare_keeps_what_came_before_a_failure(tmp_path, official, mirror, capsys):
    folder, served = mirror
    lay(folder, official)
    (folder / f"{TRAIN_Y}.gz").write_bytes(b"<html>log in to this network</html>")
    store = tmp_path / "store"
    assert prepare.main(["mnist", f"--data_dir={store}"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("mnist could not be fetched from http://127.0.0.1")
    assert f"{TRAIN_Y}.gz: HTTP Error 404: File not found; not IDX (begins with 3c 68 74 6d)" in message
    assert message.rstrip().endswith(f"By hand, place in {store} {digits.LAYOUTS['mnist']}")
    assert [p.name for p in store.rglob("*") if p.is_file()] == [f"{TRAIN_X}.gz"]
    assert [p.name for p in store.iterdir()] == ["MNIST"]

    lay(folder, official)
    (folder / f"{TEST_Y}.gz").write_bytes(gzip.compress(idx(official[3][::-1])))  # whole, but another one
    assert prepare.main(["mnist", f"--data_dir={store}"]) == 1
    assert "but the official file has" in capsys.readouterr().err
    lay(folder, official)
    assert prepare.main(["mnist", f"--data_dir={store}"]) == 0
    out = capsys.readouterr().out
    assert (out.count("is there"), out.count("fetched")) == (3, 1)
    assert served.count(f"/{TRAIN_X}.gz") == 1


def test_prepare_on_sets_that_lie_here(tmp_path, official, capsys):
    flat = lay(tmp_path / "flat", official)
    assert prepare.main(["mnist", f"--data_dir={flat}"]) == 0
    assert f"all files are there, in {flat}" in capsys.readouterr().out
    assert prepare.main([str(flat)]) == 0
    assert "flat: 72 images of 28×28 in 10 classes" in capsys.readouterr().out
    assert prepare.main(["digits", "--image_size=28"]) == 0
    assert "content hash 7d93bda2aba3fc55" in capsys.readouterr().out
    assert prepare.main(["digits", "--image_size=64"]) == 2
    assert capsys.readouterr().err == "--image_size=64: digits is kept at 28×28 pixels\n"
    assert prepare.main(["fasion"]) == 2
    assert capsys.readouterr().err.endswith("did you mean fashion?\n")
