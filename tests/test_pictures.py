"""Pictures: exact pixels of tiles, labels that stay in their area, charts that draw, files that read back."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from research.draw import pictures
from research.draw.charts import class_colors, curves, scatter

ROOT = Path(__file__).resolve().parents[1]


def tiles(n, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def smooth_frames(n=6, size=32):
    """A red square that moves over a blue and green ramp."""
    y, x = np.mgrid[:size, :size] / size
    frames = np.stack([np.stack([np.zeros_like(x), y, 1 - x])] * n).astype(np.float32)
    for i in range(n):
        frames[i, :, 4:16, 2 + 2 * i : 14 + 2 * i] = np.array([1.0, 0.1, 0.1])[:, None, None]
    return torch.from_numpy(frames)


# to_uint8


def test_to_uint8_clips_rounds_and_repeats_grey():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0, 1.4 / 255]).reshape(1, 1, 2, 3)
    out = pictures.to_uint8(x)
    assert out.shape == (1, 2, 3, 3)
    assert out.dtype == np.uint8
    assert out[0, ..., 0].tolist() == [[0, 0, 128], [255, 255, 1]]
    assert (out == out[..., :1]).all()


def test_to_uint8_takes_the_layouts_in_use():
    x = tiles(6)
    first = np.moveaxis(x, -1, -3)
    for same in (
        x,
        torch.from_numpy(x),
        first,
        list(x),
        x.reshape(2, 3, 8, 8, 3),
        torch.from_numpy(first) / 255.0,
    ):
        np.testing.assert_array_equal(pictures.to_uint8(same), x)
    np.testing.assert_array_equal(pictures.to_uint8(x[0]), x[:1])
    assert pictures.to_uint8((torch.from_numpy(first) / 255).bfloat16().requires_grad_()).shape == x.shape
    pictures.to_uint8(x)[:] = 0
    np.testing.assert_array_equal(x, tiles(6))  # a copy


def test_to_uint8_shows_nan_and_inf_as_magenta():
    x = torch.full((2, 3, 4, 4), 0.5)
    x[0, 1, 2, 3], x[1, 0, 0, 0] = float("nan"), -float("inf")
    out = pictures.to_uint8(x)
    assert out[0, 2, 3].tolist() == out[1, 0, 0].tolist() == [255, 0, 255]
    assert (out == 128).all(-1).sum() == 2 * 16 - 2
    assert pictures.to_uint8(torch.full((1, 1, 2, 2), float("nan")))[0, 1, 1].tolist() == [255, 0, 255]


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((2, 4, 8, 8)), np.zeros((3, 8, 8), np.int64), []])
def test_to_uint8_refuses_other_shapes_and_types(bad):
    with pytest.raises(ValueError, match="images"):
        pictures.to_uint8(bad)


# grid


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), n_cols=st.integers(1, 5), scale=st.integers(1, 3), pad=st.integers(0, 3))
def test_grid_has_exact_size_and_pixels(n, n_cols, scale, pad):
    images = tiles(n, height=3, width=5)
    picture = pictures.grid(images, n_cols, scale=scale, pad=pad)
    n_rows = -(-n // n_cols)
    assert picture.shape == (n_rows * (3 * scale + pad) + pad, n_cols * (5 * scale + pad) + pad, 3)
    rest = np.ones(picture.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = pad + i // n_cols * (3 * scale + pad), pad + i % n_cols * (5 * scale + pad)
        tile = np.s_[y : y + 3 * scale, x : x + 5 * scale]
        np.testing.assert_array_equal(picture[tile], np.kron(image, np.ones((scale, scale, 1), np.uint8)))
        rest[tile] = False
    assert (picture[rest] == 255).all()


def test_grid_of_rows_and_columns_and_of_a_square():
    x = tiles(6).reshape(2, 3, 8, 8, 3)
    np.testing.assert_array_equal(pictures.grid(x), pictures.grid(tiles(6), 3))
    np.testing.assert_array_equal(pictures.grid(tiles(9)), pictures.grid(tiles(9), 3))
    np.testing.assert_array_equal(pictures.strip(x), pictures.grid(tiles(6), 6))


def test_labels_change_only_the_label_area():
    x = tiles(6, 32, 40)
    plain = pictures.grid(x, 3)
    height, width, _ = plain.shape
    labelled = pictures.grid(x, 3, ["z0 pose", "z12\nlight"], ["−2σ", "0", "a label of many words"], "β = 4")
    assert labelled.shape[0] > height
    assert labelled.shape[1] > width
    np.testing.assert_array_equal(labelled[-height:, -width:], plain)
    left, above = labelled[-height:, :-width], labelled[:-height]
    for area in (
        left[: height // 2],
        left[height // 2 :],
        above[:, -width:][:, : width // 3],
        above[:, -40:],
    ):
        assert (area < 128).any()  # something is written there
    assert (labelled[:, 0] > 200).all()  # and nothing is cut off at the rims
    assert (labelled[0] > 200).all()


def test_a_title_is_wrapped_and_a_long_word_widens_the_picture():
    x = tiles(4, 32, 32)
    plain = pictures.grid(x, 2)
    wrapped = pictures.grid(
        x, 2, title="a title that is far longer than two tiles of thirty-two pixels each are wide"
    )
    assert wrapped.shape[0] > pictures.grid(x, 2, title="a title").shape[0]
    assert wrapped.shape[1] <= 202
    wide = pictures.grid(x, 2, title="w" * 60)
    assert wide.shape[1] > 400
    np.testing.assert_array_equal(wide[-plain.shape[0] :, : plain.shape[1]], plain)
    assert (wide[:, -1] > 200).all()
    assert pictures.grid(x, 2, title="").shape == plain.shape


def test_column_labels_that_never_fit_are_cut():
    x = tiles(3, 28, 28)
    plain, labelled = pictures.grid(x, 3), pictures.strip(x, ["reconstructions", "x", "y"])
    assert labelled.shape[1] == plain.shape[1]
    np.testing.assert_array_equal(labelled[-plain.shape[0] :], plain)
    between = labelled[: -plain.shape[0], 30:32]  # the gap between the first and the second column
    assert (between > 200).all()


def test_grid_refuses_wrong_numbers():
    with pytest.raises(ValueError, match="row_labels has 1 entries for 2"):
        pictures.grid(tiles(4), 2, row_labels=["a"])
    with pytest.raises(ValueError, match="col_labels has 3 entries for 2"):
        pictures.grid(tiles(4), 2, col_labels="abc")
    with pytest.raises(ValueError, match="n_cols=0"):
        pictures.grid(tiles(4), 0)
    with pytest.raises(ValueError, match="0 images"):
        pictures.grid(tiles(0))


def test_grid_is_fast():
    images, rows, cols = tiles(90, 64, 64), [f"z{i}" for i in range(10)], [f"{i}σ" for i in range(9)]
    pictures.grid(images[:1], 1, title="fonts")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        pictures.grid(images, 9, rows, cols, "traversals")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # 9 ms on an idle core


# charts


def charts():
    x, rng = np.arange(30), np.random.default_rng(0)
    yield pictures.curves(
        {"val": (x, 100 / (x + 1)), "a$b_{c$": (x, x + 1.0)}, "step", "loss", "$title", logy=True
    )
    yield pictures.curves({f"run {i}": (x[:2], x[:2] * np.nan) for i in range(9)}, "step", "loss")
    yield pictures.bars(rng.random(32), [f"z{i}" for i in range(32)], "KL per latent", "nats")
    yield pictures.bars([1.0, np.nan], ["$", "$\\frac$"], "characters", "share")
    yield pictures.bars([])
    yield pictures.histogram(np.r_[rng.normal(size=99), np.nan], "means", "mu")
    yield pictures.histogram([np.nan])
    yield pictures.heatmap(rng.random((3, 2)), ["a", "b", "c"], ["long name", "$x_{$"], "information")
    yield pictures.heatmap([[np.nan]], ["a"], ["b"], fmt="")


def test_charts_draw_and_repeat_and_leave_pyplot_alone():
    drawn = list(charts())
    for chart in drawn:
        assert chart.dtype == np.uint8
        assert chart.ndim == 3
        assert chart.shape[2] == 3
        assert chart.std() > 3
        for rim in (chart[0], chart[-1], chart[:, 0], chart[:, -1]):
            assert (rim == 255).all()  # nothing is cut off
    # A thread of its own draws the same.
    thread = threading.Thread(target=lambda: drawn.append(next(charts())))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(drawn[-1], drawn[0])
    assert "matplotlib.pyplot" not in sys.modules or len(sys.modules["matplotlib.pyplot"].get_fignums()) == 0


def test_charts_show_their_data():
    low, high = pictures.bars([1.0, 1.0, 4.0]), pictures.bars([1.0, 4.0, 4.0])
    blue = [((chart == [0, 114, 178]).all(-1)).sum(0) for chart in (low, high)]
    middle = slice(low.shape[1] // 2 - 5, low.shape[1] // 2 + 15)
    assert blue[1][middle].max() > 2 * blue[0][middle].max()
    assert blue[0][middle].max() > 20
    one_point = pictures.curves({"a": ([3], [1.0])}, "step", "loss")
    assert (one_point == [0, 114, 178]).all(-1).sum() > 5  # its marker
    grey = (pictures.heatmap([[np.nan, 1.0], [0.0, 1.0]], "ab", "cd", fmt="") == 187).all(-1)
    assert grey.mean() > 0.05


def test_with_logx_doubling_is_always_as_far():
    def gaps(logx: bool) -> np.ndarray:
        drawn = pictures.curves({"a": ([1, 2, 4, 8], [1.0] * 4)}, "characters", "bits", logx=logx)
        blue = drawn[..., 2].astype(int) - drawn[..., 0] > 60
        tall = blue.sum(0) > 4  # the line is thinner than its markers
        return np.diff(np.flatnonzero(np.diff(tall.astype(int)) == 1))

    assert len(gaps(True)) == 3 and np.ptp(gaps(True)) <= 2
    assert np.ptp(gaps(False)) > 50


def eight_bits(colors: np.ndarray) -> np.ndarray:
    return (255 * colors).round().astype(int)


def far_apart(colors: np.ndarray) -> float:
    """The least distance between two of these colours (N, 3), in steps of the channel that differs most."""
    between = np.abs(colors[:, None].astype(int) - colors).max(-1)
    return between[~np.eye(len(colors), dtype=bool)].min()


def test_classes_have_colours_that_are_told_apart():
    """This includes EMNIST's 62 classes. Ten classes have matplotlib's own colours, as on existing pages."""
    assert eight_bits(class_colors(10))[[0, 3]].tolist() == [[31, 119, 180], [214, 39, 40]]
    for n in (2, 10, 11, 26, 47, 62):
        colors = class_colors(n)
        assert colors.shape == (n, 3) and (class_colors(62)[:n] == colors).all()
        assert far_apart(eight_bits(colors)) >= 20
        assert (colors.min(1) < 0.8).all()  # none is lost on white


def of_classes(n: int, shift: float = 0.0) -> np.ndarray:
    points = np.stack(np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-3, 3, 31)), axis=-1).reshape(-1, 2)
    names = [str(i) for i in range(n)]
    return scatter(points + shift, np.arange(len(points)) % n, names, "Codes", rings=(1, 2, 3))


@pytest.mark.parametrize("n", [10, 26, 62])
def test_files_keep_the_classes_apart(tmp_path, n):
    """Each class has its colour in the legend of a PNG; in a film, which has 256 colours, nearly so."""
    picture, wanted = of_classes(n), eight_bits(class_colors(n))
    for rim in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (rim == 255).all()  # no name is cut off
    legend = picture.shape[1] - 640 // 2  # the points lie further left
    is_dot = [(picture == color).all(-1) & (np.arange(picture.shape[1]) > legend - 60) for color in wanted]
    with Image.open(pictures.write_png(tmp_path / "a.png", picture)) as image:
        assert image.mode == "RGB"
        kept = np.array(image)
    assert all(dots.sum() >= 20 and (kept[dots] == color).all() for dots, color in zip(is_dot, wanted))
    with Image.open(pictures.write_gif(tmp_path / "a.gif", [picture, of_classes(n, 0.1)])) as image:
        frame = np.array(image.convert("RGB"))
    shown = np.array([np.median(frame[dots], axis=0) for dots in is_dot])
    assert np.abs(shown - wanted).max() <= 10
    assert far_apart(shown) >= 15


def test_no_curve_is_without_its_name():
    """Nor do two of them look alike, however many there are."""
    drawn = curves({f"run {i}": (np.arange(30), np.arange(30) + i) for i in range(40)}, "step", "loss")
    for rim in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (rim == 255).all()
    beside = drawn[:, -75:-10]
    written = (beside < 128).any((1, 2))
    assert (np.diff(written.astype(int)) == 1).sum() >= 40  # rows of letters in the legend


def test_committed_pictures_are_in_true_colour():
    """Saved with a palette, two digits on README's plane had the same colour."""
    committed = [
        p for folder in ("docs", "sweeps", "benchmarks") for p in sorted((ROOT / folder).rglob("*.png"))
    ]
    assert len(committed) >= 9
    for path in committed:
        with Image.open(path) as image:
            assert image.mode in ("RGB", "RGBA", "L"), path
    plane = np.array(Image.open(ROOT / "docs" / "pictures" / "digits_plane.png"))
    for color in eight_bits(class_colors(10)):
        assert (plane == color).all(-1).sum() >= 30  # the dot in the legend at least


def test_importing_pictures_does_not_import_matplotlib_or_imageio():
    code = "import sys, research.draw.pictures\nprint({'matplotlib', 'imageio', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# files


def test_png_reads_back_exactly_and_repeats(tmp_path):
    picture = tiles(1, 17, 23)[0]
    path = pictures.write_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(imageio.imread(path), picture)
    assert path.read_bytes() == pictures.write_png(tmp_path / "b.png", picture).read_bytes()
    assert os.listdir(path.parent) == ["a.png"]


def test_gif_reads_back(tmp_path):
    frames = smooth_frames()
    path = pictures.write_gif(tmp_path / "a.gif", frames, fps=10)
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (
            6,
            (32, 32),
            100,
            0,
        )
    back = np.stack([frame[..., :3] for frame in imageio.mimread(path)])
    assert np.abs(back.astype(int) - pictures.to_uint8(frames)).mean() < 4
    assert path.read_bytes() == pictures.write_gif(tmp_path / "b.gif", frames, fps=10).read_bytes()
    assert pictures.write_gif(tmp_path / "c.gif", frames, fps=1000).stat().st_size > 0


def test_gif_keeps_greys_and_the_time_of_equal_frames(tmp_path):
    grey = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).repeat(5, 1, 1, 1)
    grey[3:] = 1 - grey[3:]
    with Image.open(pictures.write_gif(tmp_path / "a.gif", grey, fps=20)) as image:
        assert image.n_frames == 2
        assert image.info["duration"] == 150
        # Pillow looks colours up in cells of four levels.
        np.testing.assert_allclose(
            np.array(image.convert("RGB")).astype(int), pictures.to_uint8(grey)[0], atol=6
        )


@pytest.mark.parametrize("resample", ["lanczos", "nearest"])
def test_mp4_reads_back(tmp_path, resample, capfd):
    frames = smooth_frames(8)
    path = pictures.write_mp4(tmp_path / "a.mp4", frames, fps=12, upscale=2, resample=resample)
    with imageio.get_reader(path) as reader:
        meta, back = reader.get_meta_data(), np.stack([*reader.iter_data()])
    assert (meta["fps"], meta["size"], meta["codec"]) == (12, (64, 64), "h264")
    assert meta["pix_fmt"].startswith("yuv420p")
    assert back.shape == (8, 64, 64, 3)
    expected = pictures.to_uint8(frames).repeat(2, axis=1).repeat(2, axis=2)
    assert np.abs(back.astype(int) - expected).mean() < 6
    inside = back[0, 14:26, 10:22].reshape(-1, 3).mean(0)  # within the red square, far from chroma borders
    np.testing.assert_allclose(inside, [255, 26, 26], atol=8)
    assert path.read_bytes() == pictures.write_mp4(tmp_path / "b.mp4", frames, 12, 2, resample).read_bytes()
    assert b"moov" in path.read_bytes()[:256]  # plays before it is loaded
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]
    assert capfd.readouterr() == ("", "")


def test_mp4_of_odd_size_repeats_the_last_row_and_column(tmp_path, caplog):
    picture = np.full((31, 33, 3), 40, np.uint8)
    picture[-1], picture[:, -1] = 220, 220
    with imageio.get_reader(pictures.write_mp4(tmp_path / "a.mp4", [picture] * 3)) as reader:
        back = np.stack([*reader.iter_data()])
    assert back.shape == (3, 32, 34, 3)
    assert not caplog.records  # imageio warns of sizes that are not multiples of 16
    assert (np.abs(back[:, -1].astype(int) - 220) < 12).all()
    assert (np.abs(back[:, :, -1].astype(int) - 220) < 12).all()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = pictures.write_mp4(tmp_path / "a.mp4", smooth_frames(2))
    before = path.read_bytes()

    class Broken:
        """A writer whose ffmpeg died after some bytes, which imageio does not report."""

        def __init__(self, file, **_):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.write_bytes(b"\0" * 999)

        def append_data(self, frame):
            pass

    monkeypatch.setattr(imageio, "get_writer", Broken)
    with pytest.raises(OSError, match=r"ffmpeg could not write .*a\.mp4"):
        pictures.write_mp4(path, smooth_frames(2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_videos_refuse_no_frames_and_frames_of_different_size(tmp_path):
    for write in (pictures.write_gif, pictures.write_mp4):
        with pytest.raises(ValueError, match="no images"):
            write(tmp_path / "a", [])
        with pytest.raises(ValueError, match="dimension"):
            write(tmp_path / "a", [tiles(1)[0], tiles(1, 9)[0]])
    assert not os.listdir(tmp_path)


def test_ping_pong_shows_neither_end_twice():
    assert pictures.ping_pong([0, 1, 2, 3]) == [0, 1, 2, 3, 2, 1]
    assert pictures.ping_pong([0, 1]) == [0, 1]
    assert pictures.ping_pong([0]) == [0]
    assert pictures.ping_pong(torch.arange(3)).tolist() == [0, 1, 2, 1]
    assert pictures.ping_pong(np.arange(3)).tolist() == [0, 1, 2, 1]
