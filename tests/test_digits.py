"""Digits: the look of the embedded ones, splits, IDX files whole and damaged, how prepare.py gets them."""

import functools
import gzip
import hashlib
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
    """Of MNIST's ink and place (mean 33, 19 % not black, 13 % above half-grey), and legible."""
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
    """Gzipped or not is seen in the bytes, whatever the file is called."""
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
    """Bytes overwritten in the header (of gzip or IDX), cut off or appended: never another exception."""
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
        "not IDX (begins with 89 50 4e 47); needed is IDX of"
    )
    assert refusal(TRAIN_X, y).startswith("IDX of type 0x08 with 1 dimensions")
    assert refusal(TRAIN_Y, x).endswith("needed is IDX of unsigned bytes (0x08) with 1 dimension")
    assert refusal(TRAIN_X, b"\0\0\x0d\x03" + x[4:]).startswith("IDX of type 0x0d with 3 dimensions")
    assert (
        refusal(TRAIN_X, idx(np.zeros((60, 32, 32), np.uint8))) == "images of 32×32 pixels; needed are 28×28"
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
    """Small files pass for MNIST's: their checksums are recorded."""
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
