"""Image files of every kind become the right pixels; sets, splits, hashes, cache and errors of images.py."""

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError, image_files, images, prepare, synthetic
from data.images import fingerprint, load, load_arrays
from research.tasks import faces_bench

ROOT = Path(__file__).resolve().parents[1]
FACES = ROOT.parent / "shared" / "data" / "faces" / "faces"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def photo(seed: int, width: int = 9, height: int = 9) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def album(folder: Path, n: int = 40, **kwargs) -> Path:
    """A folder of n different small images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        photo(i, **kwargs).save(folder / f"{i:03d}.png")
    return folder


def corners(size: int = 16) -> Image.Image:
    """Upright test picture: red left above, green right above, blue left below, white right below."""
    picture = Image.new("RGB", (2, 2))
    picture.putdata([RED, GREEN, BLUE, WHITE])
    return picture.resize((size, size), Image.Resampling.NEAREST)


def one(tmp_path: Path, name: str, picture: Image.Image, size: int = 8, **save) -> np.ndarray:
    picture.save(tmp_path / name, **save)
    pixels = image_files.decode(tmp_path / name, size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    return pixels


def rows_of(parts: dict) -> list[set[bytes]]:
    return [{bytes(row) for row in rows} for rows in parts.values()]


# ---- decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a.png", "a.bmp", "a.tif", "a.ppm", "a.tga", "a.webp", "a.JPG", "a.gif", "a.jp2", "a.sgi", "a.PCX"],
)
def test_formats_and_corners(tmp_path, name):
    save = {"lossless": True} if name.endswith("webp") else {"quality": 100} if name == "a.JPG" else {}
    pixels = one(tmp_path, name, corners(), **save)
    for (y, x), colour in {(1, 1): RED, (1, 6): GREEN, (6, 1): BLUE, (6, 6): WHITE}.items():
        assert np.abs(pixels[y, x].astype(int) - colour).max() <= 8, (name, y, x, pixels[y, x])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "LA", "I;16", "F"])
def test_modes_give_white_and_black(tmp_path, mode):
    black = np.zeros((16, 16, 3), np.uint8)
    black[:, 8:] = 255
    picture = Image.fromarray(black)
    if mode == "I;16":
        picture = Image.fromarray(black[..., 0].astype(np.uint16) * 257)
    elif mode == "LAB":
        picture = Image.merge("LAB", [Image.fromarray(black[..., 0]), *[Image.new("L", (16, 16), 128)] * 2])
    else:
        picture = picture.convert(mode)
    pixels = one(tmp_path, f"m.{'tif' if mode in ('CMYK', 'YCbCr', 'LAB', 'F') else 'png'}", picture)
    assert pixels[:, 1].max() <= 4
    assert pixels[:, 6].min() >= 251


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_rotated_equals_its_upright_twin(tmp_path, orientation, ending):
    upright = corners(16).resize((24, 16))
    undo = image_files.UPRIGHT.get(orientation)
    turned_back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves
    stored = upright.transpose(turned_back.get(orientation, undo)) if undo is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    save = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    pixels = one(tmp_path, f"turned.{ending}", stored, exif=exif, **save)
    twin = one(tmp_path, "upright.png", upright)
    assert np.abs(pixels.astype(int) - twin).max() <= (8 if ending == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_costs_nothing(tmp_path):
    pixels = one(
        tmp_path, "a.jpg", Image.new("RGB", (16, 16), RED), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"
    )
    assert np.abs(pixels.astype(int) - RED).max() <= 4


def write_deep(path: Path, values: np.ndarray, order: str = ">", packed: bool = True) -> Path:
    """A file with 16 bits a channel, of which Pillow writes none in colour.

    values (H, W, C), C 1 to 4: grey, grey and alpha, RGB, RGBA; order and packed: of a TIFF.
    """
    height, width, channels = values.shape
    if path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 65535\n" % (width, height) + values.astype(">u2").tobytes())
    elif path.suffix == ".png":

        def chunk(kind: bytes, data: bytes) -> bytes:
            whole = kind + data
            return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    else:
        data = values.astype(f"{order}u2").tobytes()
        data = zlib.compress(data) if packed else data
        tags = {256: width, 257: height, 259: 8 if packed else 1, 262: 2 if channels > 2 else 1}
        tags |= {277: channels, 278: height, 279: len(data)} | ({338: 2} if channels == 4 else {})
        n = len(tags) + 2
        depths = struct.pack(f"{order}4H", *[16] * 4)
        at = 8 + 2 + 12 * n + 4
        short = struct.pack(f"{order}HHIHH", 258, 3, 1, 16, 0)  # one channel's depth stands in the tag itself
        entries = {258: struct.pack(f"{order}HHII", 258, 3, channels, at) if channels > 1 else short}
        entries |= {k: struct.pack(f"{order}HHII", k, 4, 1, v) for k, v in tags.items()}
        entries[273] = struct.pack(f"{order}HHII", 273, 4, 1, at + len(depths))
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, n)
        listed = b"".join(entries[k] for k in sorted(entries))
        path.write_bytes(head + listed + bytes(4) + depths + data)
    return path


TIFFS = [("a.tif", {"order": order, "packed": packed}) for order in "<>" for packed in (True, False)]
DEEP = [("a.pgm", {}), ("a.png", {}), *TIFFS]
CHANNELS = {"a.pgm": (1,), "a.png": (1, 2, 3, 4), "a.tif": (1, 3, 4)}
EVERY_DEEP = [(name, save, channels) for name, save in DEEP for channels in CHANNELS[name]]


@pytest.mark.parametrize(("name", "save", "channels"), EVERY_DEEP)
@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 65535])
def test_16_bits_are_read_in_the_span_of_their_largest_value(tmp_path, name, save, channels, white):
    """Grey and colour pictures. If 65,535 were white in all of them, values of 0 to 255 would be black."""
    values = np.random.default_rng(white).integers(0, white + 1, (8, 8, channels)).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, white
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    path = write_deep(tmp_path / name, values, **save)
    assert image_files.depth_of(path) == ("integer", 0, white)
    shown = np.broadcast_to(values[..., :1], (8, 8, 3)) if channels < 3 else values[..., :3]
    off = np.abs(image_files.decode(path, 8) - shown * (255 / white)).max()
    assert off <= (1 if channels > 1 and white == 65535 else 0.51)  # of these Pillow keeps the high bytes


@pytest.mark.parametrize(("stored", "seen"), [(0, 0), (128 * 257, 128), (32768, 128), (255, 1), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, stored, seen):
    """The picture is part of a folder that has a white pixel."""
    grey, spans = np.full((16, 16, 1), stored, np.uint16), {"integer": (0, 65535)}
    for name, save in DEEP:
        path = write_deep(tmp_path / name, grey, **save)
        assert (image_files.decode(path, 8, spans) == seen).all()


def deep_album(folder: Path, white: int, channels: int = 1, ending: str = "png") -> list[np.ndarray]:
    """40 pictures, each plain: the last one as bright as `white`, the others darker, all different."""
    folder.mkdir(parents=True)
    plain = [np.full((8, 8, channels), white * (i + 1) // 40, np.uint16) for i in range(40)]
    for i, values in enumerate(plain):
        write_deep(folder / f"{i:02d}.{ending}", values)
    return plain


@pytest.mark.parametrize(
    ("white", "channels", "ending"), [(255, 1, "png"), (4095, 3, "png"), (4095, 1, "tif")]
)
def test_deep_pictures_are_read_in_the_span_of_their_folder(tmp_path, capsys, white, channels, ending):
    """A picture that is half as bright as another stays so; one line says what was inferred."""
    plain = deep_album(tmp_path / "scans", white, channels, ending)
    splits = load(str(tmp_path / "scans"), str(tmp_path / "store"), 8)
    told = capsys.readouterr().err
    assert told == f"scans: 40 16-bit pictures whose largest value is {white}: read as 0 to {white}\n"
    rows = torch.cat([splits.train, splits.val, splits.test])[:, 0, 0, 0].tolist()
    expected = [round(float(values[0, 0, 0]) * 255 / white) for values in plain]
    assert sorted(rows) == pytest.approx(sorted(expected), abs=1)
    # --image of a task: a file of one's own, too
    flags = types.SimpleNamespace(image=str(tmp_path / "scans" / f"19.{ending}"), index=None, image_size=8)
    face = faces_bench.pick_face(types.SimpleNamespace(cfg=flags, data=splits, noun="scan"), 0)
    assert int(face.x[0, 0, 0, 0]) == pytest.approx(expected[19], abs=1)


def test_full_16_bits_stay_the_set_that_they_were_and_others_do_not_mix(tmp_path):
    """Hashes and pixels of a folder that was read well before; another for one that was black."""
    deep_album(tmp_path / "full", 65535)
    files = sorted((tmp_path / "full").iterdir(), key=lambda p: hashlib.sha256(p.read_bytes()).digest())
    digests = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in files)
    as_before = hashlib.sha256("\n".join(["1", "folder", *digests]).encode()).hexdigest()[:16]
    store = str(tmp_path / "store")
    assert fingerprint(str(tmp_path / "full"), store) == as_before

    deep_album(tmp_path / "dark", 255)
    digests = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "dark").iterdir())
    black = hashlib.sha256("\n".join(["1", "folder", *digests]).encode()).hexdigest()[:16]
    dark = fingerprint(str(tmp_path / "dark"), store)
    assert dark != black
    assert dark == fingerprint(str(tmp_path / "dark"), str(tmp_path / "elsewhere"))  # deterministic


def test_floats_are_read_in_the_span_of_their_folder(tmp_path, capsys):
    """If each were read by itself, dark pictures of a folder from 0 to 255 could be taken for pictures from 0
    to 1.
    """
    folder = tmp_path / "floats"
    folder.mkdir()
    for i in range(40):
        Image.new("F", (8, 8), 0.5 + 5.0 * i).save(folder / f"{i}.tif")
    _, _, parts, _ = load_arrays(str(folder), str(tmp_path / "store"), 8)
    assert "40 float pictures whose largest value is 195.5: read as 0 to 255" in capsys.readouterr().err
    rows = sorted(int(row[0, 0, 0]) for row in np.concatenate(list(parts.values())))
    assert rows == [int(0.5 + 5.0 * i + 0.5) for i in range(40)]


def test_values_beyond_all_spans_go_from_black_to_white(tmp_path, capsys):
    folder = tmp_path / "heights"
    folder.mkdir()
    for i in range(40):
        Image.new("I", (8, 8), 100_000 * i - 1_000_000).save(folder / f"{i}.tif")
    _, _, parts, _ = load_arrays(str(folder), str(tmp_path / "store"), 8)
    assert "40 integer pictures with values from -1e+06 to 2.9e+06: these are" in capsys.readouterr().err
    rows = sorted(int(row[0, 0, 0]) for row in np.concatenate(list(parts.values())))
    assert (rows[0], rows[-1]) == (0, 255) and (np.diff(rows) > 0).all()


def test_pictures_that_are_nearly_black_are_told(tmp_path, capsys):
    """Class numbers or masks of 0 and 1: 8 bits are read as they are, but a line says so."""
    for folder, factor in (("masks", 1), ("photos", 200)):
        (tmp_path / folder).mkdir()
        for i in range(40):
            mask = np.random.default_rng(i).integers(0, 2, (8, 8)).astype(np.uint8)
            Image.fromarray(factor * mask).save(tmp_path / folder / f"{i}.png")
        load_arrays(str(tmp_path / folder), str(tmp_path / "store"), 8)
    told = capsys.readouterr().err
    assert told == "masks: all pictures are nearly black: their largest value is 1 of 255\n"


def test_32_bit_grey(tmp_path):
    assert (one(tmp_path, "f.tif", Image.new("F", (16, 16), 0.5)) == 128).all()
    assert (one(tmp_path, "f.tif", Image.new("F", (16, 16), 100.0)) == 100).all()
    assert (one(tmp_path, "i.tif", Image.new("I", (16, 16), 32768)) == 128).all()
    wide = np.full((16, 16), -(10**6), np.int32)
    wide[:, 8:] = 10**6
    pixels = one(tmp_path, "i.tif", Image.fromarray(wide))
    assert (pixels[:, 0] == 0).all()
    assert (pixels[:, -1] == 255).all()
    assert (one(tmp_path, "n.tif", Image.new("F", (16, 16), float("nan"))) == 0).all()


def test_transparency_lies_on_white(tmp_path):
    assert (one(tmp_path, "a.png", Image.new("RGBA", (16, 16), (0, 0, 0, 0))) == 255).all()
    half = one(tmp_path, "b.png", Image.new("RGBA", (16, 16), (0, 0, 0, 128)))
    assert (np.abs(half.astype(int) - 127) <= 1).all()
    assert (one(tmp_path, "c.png", Image.new("LA", (16, 16), (0, 0))) == 255).all()
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([*BLUE, *RED])
    assert (one(tmp_path, "d.png", palette) == RED).all()
    assert (one(tmp_path, "e.png", palette, transparency=1) == 255).all()
    assert (one(tmp_path, "f.gif", palette, transparency=1) == 255).all()
    assert (one(tmp_path, "g.png", Image.new("RGB", (16, 16), RED), transparency=RED) == 255).all()


def test_cmyk_colours(tmp_path):
    for ending, tolerance in (("tif", 0), ("jpg", 6)):
        pixels = one(tmp_path, f"a.{ending}", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))
        assert np.abs(pixels.astype(int) - RED).max() <= tolerance


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, ending):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    pixels = one(tmp_path, f"a.{ending}", frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize(("width", "height"), [(30, 10), (10, 30), (31, 10), (1000, 333), (333, 1000)])
def test_the_centre_square_is_cut_out(tmp_path, width, height):
    """A picture of three bands of which the middle one is red: only red is left."""
    bands = Image.new("RGB", (width, height), BLUE)
    side = min(width, height)
    bands.paste(RED, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    assert (one(tmp_path, "a.png", bands) == RED).all()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_shrinking_averages(tmp_path, ending):
    """A one-pixel chessboard becomes even grey, not black or white; JPEG on its short cut too."""
    board = Image.fromarray(((np.indices((512, 512)).sum(axis=0) % 2) * 255).astype(np.uint8))
    pixels = one(tmp_path, f"a.{ending}", board, size=16)
    assert np.abs(pixels.astype(int) - 127.5).max() <= 3


def test_enlarging(tmp_path):
    assert (one(tmp_path, "a.png", Image.new("RGB", (1, 7), GREEN), size=32) == GREEN).all()


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 40),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    value=st.integers(0, 255),
)
def test_any_plain_image_stays_plain(tmp_path_factory, width, height, size, mode, value):
    folder = tmp_path_factory.getbasetemp()
    value = 255 * (value > 127) if mode == "1" else value
    picture = Image.new("L", (width, height), value).convert(mode)
    assert (one(folder, "plain.png", picture, size=size) == value).all()


@settings(max_examples=40, deadline=None)
@given(
    junk=st.binary(max_size=200),
    keep=st.integers(0, 400),
    ending=st.sampled_from(["png", "jpg", "gif", "tif"]),
)
def test_damaged_bytes_give_a_reason_not_a_crash(tmp_path_factory, junk, keep, ending):
    folder = tmp_path_factory.getbasetemp()
    photo(1).save(folder / f"whole.{ending}")
    (folder / f"damaged.{ending}").write_bytes((folder / f"whole.{ending}").read_bytes()[:keep] + junk)
    (result,) = image_files.decode_all(folder, [f"damaged.{ending}"], 8)
    assert (isinstance(result, str) and result) or result.shape == (8, 8, 3)


# ---- own folders ---------------------------------------------------------------------------------------


def test_an_album_of_all_sorts(tmp_path, capsys):
    folder = album(tmp_path / "my photos", 30)
    album(folder / "deep" / "deeper", 45, width=20)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"hidden")
    (folder / ".git").mkdir()
    photo(99).save(folder / ".git" / "x.png")
    (folder / "empty.png").touch()
    (folder / "words.jpg").write_text("not an image either")
    (folder / "cut [bold]\n.png").write_bytes((folder / "000.png").read_bytes()[:150])
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder / "deep", target_is_directory=True)
    os.mkfifo(folder / "pipe.png")

    splits = load(str(folder), str(tmp_path / "store"), 16)
    assert splits.name == "my photos"
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [61, 7, 7]
    assert splits.train.shape == (61, 16, 16, 3)
    assert splits.train.dtype == torch.uint8
    assert splits.factors is None
    message = capsys.readouterr().err
    assert "5 broken files skipped" in message
    for name in (
        "empty.png: empty",
        "words.jpg: ",
        "cut [bold]?.png: ",
        "dangling.png: No such",
        "pipe.png: not a",
    ):
        assert name in message, message
    assert "2 files skipped: hidden" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my photos", "store"]

    splits.train[:] = 0  # copy-on-write: the cache does not change
    assert load(str(folder), str(tmp_path / "store"), 16).train.any()


def test_a_long_list_of_broken_files_is_cut(tmp_path, capsys):
    folder = album(tmp_path / "a")
    for i in range(25):
        (folder / f"broken{i}.jpg").write_bytes(b"x" * i)
    load_arrays(str(folder), str(tmp_path / "store"), 8)
    message = capsys.readouterr().err
    assert message.count("\n") == 12
    assert "25 broken files" in message
    assert "… and 15 more" in message


def test_a_decompression_bomb_is_a_broken_file(tmp_path, capsys):
    folder = album(tmp_path / "a")
    bomb = bytearray((folder / "000.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    (folder / "bomb.png").write_bytes(bomb)
    load_arrays(str(folder), str(tmp_path / "store"), 8)
    assert "bomb.png: Image size (900000000 pixels) exceeds limit" in capsys.readouterr().err


def test_copies_stay_on_one_side(tmp_path, capsys):
    folder = album(tmp_path / "a")
    for i in range(40):
        for copy in range(i % 4):
            (folder / f"copy{i}_{copy}.png").write_bytes((folder / f"{i:03d}.png").read_bytes())
    _, _, parts, _ = load_arrays(str(folder), str(tmp_path / "store"), 9)
    train, val, test = rows_of(parts)
    assert (len(train), len(val), len(test)) == (32, 4, 4)
    assert not (train & val or train & test or val & test)
    assert sum(map(len, parts.values())) == 100
    assert "60 exact copies" in capsys.readouterr().err


def test_names_and_places_mean_nothing_and_contents_all(tmp_path):
    folder, store = album(tmp_path / "a"), str(tmp_path / "store")
    _, content_hash, parts, _ = load_arrays(str(folder), store, 8)
    assert len(content_hash) == 16
    assert int(content_hash, 16) >= 0
    assert content_hash == fingerprint(str(folder), str(tmp_path / "elsewhere"))

    moved = tmp_path / "b"
    (moved / "sub").mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        file.rename(moved / ("sub" if i % 2 else "") / f"x{i}.PNG")
    again = load_arrays(str(moved), str(tmp_path / "store2"), 8)
    assert (again[0], again[1]) == ("b", content_hash)
    assert all((again[2][part] == parts[part]).all() for part in images.PARTS)

    photo(1234).save(moved / "x0.PNG")
    changed = fingerprint(str(moved), store)
    assert changed != content_hash
    (moved / "x0.PNG").unlink()
    assert fingerprint(str(moved), store) not in (content_hash, changed)


def test_hashes_are_remembered(tmp_path, monkeypatch):
    folder, store = album(tmp_path / "a"), tmp_path / "store"
    first = fingerprint(str(folder), str(store))
    (memory,) = (store / "cache").glob("files_*.json")
    with monkeypatch.context() as m:
        m.setattr(image_files.hashlib, "file_digest", None)  # reading a file again would fail
        assert fingerprint(str(folder), str(store)) == first
    older = {stamp: digest for stamp, (digest, _) in json.loads(memory.read_text()).items()}
    for content in ("{ damaged", "[]", "{}", json.dumps(older)):
        memory.write_text(content)
        assert fingerprint(str(folder), str(store)) == first
    assert len(json.loads(memory.read_text())) == 40


def test_the_cache_is_reused_and_rebuilt(tmp_path, monkeypatch):
    folder, store = album(tmp_path / "a"), str(tmp_path / "store")
    _, _, parts, path = load_arrays(str(folder), store, 8)
    expected = np.concatenate(list(parts.values()))
    good = path.read_bytes()
    assert (np.load(path) == expected).all()
    with monkeypatch.context() as m:
        m.setattr(images, "decode_all", None)
        assert (np.concatenate(list(load_arrays(str(folder), store, 8)[2].values())) == expected).all()
    flipped = bytearray(good)
    flipped[-100] ^= 1
    for damage in (good[:-10], good[:5], b"", good + b"x", bytes(flipped), b"\0" * len(good)):
        path.write_bytes(damage)
        assert (np.concatenate(list(load_arrays(str(folder), store, 8)[2].values())) == expected).all()
        assert path.read_bytes() == good
    for damage in ("", "[]", '{"counts": 3}', '{"counts": [1, 2, 3], "crc32": 0}'):
        path.with_suffix(".json").write_text(damage)
        load_arrays(str(folder), store, 8)
        assert path.read_bytes() == good
    load_arrays(str(folder), store, 4)
    assert len(list(path.parent.iterdir())) == 5  # two sizes of two files, one memory of hashes, no leftovers


def test_two_processes_at_once(tmp_path):
    """The second finishes while the first is writing; both end with the same whole file."""
    folder, store = album(tmp_path / "a"), str(tmp_path / "store")
    original, inner = images.decode_all, []

    def nested(*args):
        if not inner:
            inner.append(True)
            inner.append(load_arrays(str(folder), store, 8))
        return original(*args)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(images, "decode_all", nested)
        outer = load_arrays(str(folder), store, 8)
    assert all((outer[2][part] == inner[1][2][part]).all() for part in images.PARTS)
    assert len(list((tmp_path / "store" / "cache").iterdir())) == 3


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    folder = album(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the image cache .* choose another --data_dir") as e:
        load_arrays(str(folder), str(tmp_path / "file"), 8)
    assert "\n" not in str(e.value)
    assert fingerprint(str(folder), str(tmp_path / "file")) == fingerprint(
        str(folder), str(tmp_path / "store")
    )

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(image_files.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        load_arrays(str(folder), str(tmp_path / "full"), 8)
    assert list((tmp_path / "full" / "cache").iterdir()) == []  # nothing half-made stays


# ---- what is refused -----------------------------------------------------------------------------------


def refused(dataset: str | Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as e:
        load_arrays(str(dataset), str(tmp_path / "store"), 8)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_too_few(tmp_path):
    folder = album(tmp_path / "a", 31)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "broken.png").touch()
    message = refused(folder, tmp_path)
    assert "33 images found, 1 broken, 31 different usable images left; at least 32 are needed" in message
    photo(77).save(folder / "one more.png")
    _, _, parts, _ = load_arrays(str(folder), str(tmp_path / "store"), 8)
    assert [len(rows) for rows in parts.values()] in ([26, 3, 3 + 1], [26, 3 + 1, 3], [26 + 1, 3, 3])


def test_no_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    assert "no images found (0 unreadable, 0 other files)" in refused(tmp_path / "empty", tmp_path)
    message = refused(tmp_path / "texts", tmp_path)
    assert "1 other files" in message
    assert "JPEG, PNG" in message
    assert "is a file, not a folder of images" in refused(tmp_path / "texts" / "a.txt", tmp_path)
    with pytest.raises(DataError, match="no images found"):
        fingerprint(str(tmp_path / "empty"), str(tmp_path))


def test_unknown_names(tmp_path):
    message = refused("synthetik", tmp_path)
    assert message.startswith("--dataset=synthetik is neither a named set (synthetic, celeba, lfw) nor")
    assert message.endswith("; did you mean synthetic?")
    assert refused("CelebA", tmp_path).endswith("; did you mean celeba?")
    assert "did you mean" not in refused("qqqq", tmp_path)
    assert "neither" in refused("", tmp_path)
    (tmp_path / "portraits").mkdir()
    assert refused(tmp_path / "portrait", tmp_path).endswith(f"; did you mean {tmp_path / 'portraits'}?")
    with pytest.raises(DataError, match="--image_size=0"):
        load_arrays("synthetic", str(tmp_path), 0)


def test_what_pictures_are_called(tmp_path):
    """'emoji', not 'faces': what the folder's name says."""
    called = {"faces": "face", "My-Faces_2": "face", "emoji": "emoji", "emojis": "emoji", "photos": "photo"}
    called |= {
        "surfaces": "picture",
        "shoes": "picture",
        "synthetic": "face",
        "lfw": "face",
        "celeba": "face",
    }
    assert {name: images.noun_of(name)[0] for name in called} == called
    assert images.noun_of("emoji") == ("emoji", "emoji") and images.noun_of("x") == ("picture", "pictures")
    splits = load(str(album(tmp_path / "Noto emoji")), str(tmp_path / "store"), 8)
    assert (splits.noun, splits.nouns) == ("emoji", "emoji")


@pytest.mark.parametrize("name", ["celeba", "lfw"])
def test_a_missing_set_names_the_command_and_the_layout(tmp_path, name):
    message = refused(name, tmp_path)
    assert f"`python data/prepare.py {name} --data_dir=" in message
    assert images.LAYOUTS[name] in message
    with pytest.raises(DataError, match="is not there"):
        fingerprint(name, str(tmp_path))


# ---- named sets ----------------------------------------------------------------------------------------


def test_synthetic(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "N_IMAGES", 200)
    content_hash = fingerprint("synthetic", str(tmp_path))
    splits = load("synthetic", str(tmp_path), 32)
    assert (splits.name, splits.content_hash) == ("synthetic", content_hash)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [170, 10, 20]
    assert splits.factor_names == synthetic.FACTOR_NAMES
    for part in images.PARTS:
        factors = splits.factors[part]
        assert factors.dtype == np.float32
        assert factors.shape == (len(getattr(splits, part)), len(splits.factor_names))
    # images and factors belong together
    again = synthetic.render(splits.factors["val"][3:5], 32)
    assert (splits.val[3:5].numpy() == again).all()
    assert (load("synthetic", str(tmp_path), 32).test == splits.test).all()
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    assert fingerprint("synthetic", str(tmp_path)) != content_hash
    with pytest.raises(DataError, match="--image_size=33"):
        load("synthetic", str(tmp_path), 33)


def test_synthetic_split_sizes(tmp_path, monkeypatch):
    """The real sizes, without rendering 20,000 images."""
    monkeypatch.setattr(
        synthetic, "render", lambda factors, size: np.zeros((len(factors), size, size, 3), np.uint8)
    )
    _, _, parts, _ = load_arrays("synthetic", str(tmp_path), 32)
    assert [len(rows) for rows in parts.values()] == [17_000, 1_000, 2_000]


def fake_celeba(root: Path) -> None:
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 21)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (10 * i, 0, 0)).save(folder / "img_align_celeba" / name, quality=95)
    parts = [0] * 12 + [1] * 4 + [2] * 4
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, parts)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    for file, columns in {
        "list_attr_celeba": 40,
        "list_bbox_celeba": 4,
        "list_landmarks_align_celeba": 10,
    }.items():
        lines = [
            "20",
            " ".join(f"c{j}" for j in range(columns)),
            *(f"{n} {'1 ' * columns}".strip() for n in names),
        ]
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")


def test_celeba(tmp_path, monkeypatch):
    from torchvision.datasets import celeba

    fake_celeba(tmp_path)
    with pytest.raises(DataError, match=r"is incomplete or damaged \(Dataset not found or corrupted"):
        load("celeba", str(tmp_path), 16)  # the md5 sums are wrong
    monkeypatch.setattr(celeba, "check_integrity", lambda file, md5: os.path.isfile(file))
    splits = load("celeba", str(tmp_path), 16)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [12, 4, 4]
    reds = [int(image[8, 8, 0]) for part in (splits.train, splits.val, splits.test) for image in part]
    assert np.abs(np.array(reds) - 10 * np.arange(20)).max() <= 2  # the official order
    assert fingerprint("celeba", str(tmp_path)) == splits.content_hash

    (tmp_path / "celeba" / "img_align_celeba" / "000007.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"000007\.jpg"):
        load("celeba", str(tmp_path), 8)
    (tmp_path / "celeba" / "img_align_celeba").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="lacks its folder img_align_celeba"):
        fingerprint("celeba", str(tmp_path))


def test_lfw_keeps_people_apart(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "lfw-py" / "lfw_funneled"
    for person in range(60):
        (folder / f"Person_{person}").mkdir(parents=True)
        for i in range(rng.integers(1, 6)):
            file = folder / f"Person_{person}" / f"Person_{person}_{i + 1:04d}.jpg"
            Image.new("RGB", (25, 25), (4 * person, 0, 7 * i)).save(file, quality=95)
    (folder / "pairs_01.txt").write_text("lies there too")
    _, content_hash, parts, _ = load_arrays("lfw", str(tmp_path), 8)
    people = [set(np.round(rows[:, 4, 4, 0] / 4).astype(int)) for rows in parts.values()]
    assert sum(map(len, people)) == 60 == len(set.union(*people))
    sizes = [len(rows) for rows in parts.values()]
    assert 0.75 < sizes[0] / sum(sizes) < 0.9
    assert content_hash == fingerprint("lfw", str(tmp_path))
    next(folder.glob("*/*.jpg")).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"incomplete or damaged .*not an image"):
        load_arrays("lfw", str(tmp_path), 8)


@pytest.mark.shared
def test_real_faces(tmp_path):
    if not FACES.is_dir():
        pytest.skip("no ../shared/data/faces here")
    splits = load(str(FACES), str(tmp_path), 64)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [349, 43, 43]
    for part in (splits.train, splits.val, splits.test):
        pixels = part.float()
        assert 80 < pixels.mean() < 150
        assert pixels.std() > 40
        red, _, blue = pixels[:, 24:40, 24:40].mean(dim=(0, 1, 2))  # the middle of a face
        assert red > blue + 10


# ---- prepare.py ----------------------------------------------------------------------------------------


def run_prepare(*args: object, cwd: Path) -> types.SimpleNamespace:
    command = [sys.executable, str(ROOT / "data" / "prepare.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_prepare_as_a_command(tmp_path):
    folder = album(tmp_path / "photos", 70)
    (folder / "broken.jpg").touch()
    args = ["--data_dir=store", "--image_size=16", "--contact_sheet=out/sheet.png"]
    done = run_prepare("photos", *args, cwd=tmp_path)
    assert (done.returncode, "1 broken files skipped" in done.stderr) == (0, True), done
    assert "photos: 70 images of 16×16×3 (56 train, 7 val, 7 test)" in done.stdout
    assert fingerprint(str(folder), str(tmp_path / "store")) in done.stdout
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (160, 160)

    unknown = run_prepare("celeb", cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "did you mean celeba?" in unknown.stderr


@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), ([], 2), (["synthetic", "--image_sise=3"], 2)])
def test_prepare_flags(capsys, args, code):
    with pytest.raises(SystemExit) as e:
        prepare.main(args)
    out = "".join(capsys.readouterr())
    assert (e.value.code, "--image_size" in out or "SET|FOLDER" in out) == (code, True)


def test_prepare_reports_what_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").touch()
    album(tmp_path / "a")
    base = [str(tmp_path / "a"), "--image_size=8"]
    assert prepare.main([*base, f"--data_dir={tmp_path / 'file' / 'x'}"]) == 2
    assert prepare.main(["lfw", f"--data_dir={tmp_path / 'file'}"]) == 2
    sheet = tmp_path / "file" / "sheet.png"
    assert prepare.main([*base, f"--data_dir={tmp_path}", f"--contact_sheet={sheet}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == [
        "cannot",
        f"--data_dir={tmp_path / 'file'}",
        f"--contact_sheet={sheet}:",
    ]


@pytest.mark.parametrize("name", ["celeba", "lfw"])
def test_a_failed_download(tmp_path, monkeypatch, capsys, name):
    from torchvision.datasets import utils

    def no_network(*args):
        (Path(args[1]) / args[2]).write_bytes(b"half a fi")
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "download_url", no_network)
    monkeypatch.setattr(utils, "download_file_from_google_drive", no_network)
    assert prepare.main([name, f"--data_dir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"{name} could not be fetched from http")
    assert "no route to host. By hand, place in" in message
    assert images.LAYOUTS[name] in message
    assert list(tmp_path.iterdir()) == []


def test_an_lfw_archive_placed_by_hand(tmp_path, monkeypatch, capsys):
    import tarfile

    from torchvision.datasets import utils

    source = tmp_path / "lfw_funneled"
    for person in range(20):
        album(source / f"Person_{person}", 2, width=9 + person)
    base = tmp_path / "store" / "lfw-py"
    (base / "lfw_funneled").mkdir(parents=True)  # an earlier unpacking that was interrupted
    with tarfile.open(base / "lfw-funneled.tgz", "w:gz") as tar:
        tar.add(source, "lfw_funneled")
    monkeypatch.setattr(utils, "check_integrity", lambda file, md5: os.path.isfile(file))
    assert prepare.main(["lfw", f"--data_dir={tmp_path / 'store'}", "--image_size=8"]) == 0
    assert "lfw: 40 images of 8×8×3" in capsys.readouterr().out
    assert sorted(p.name for p in base.iterdir()) == ["lfw-funneled.tgz", "lfw_funneled"]
