"""Composed pictures as uint8 arrays (H, W, 3), and their files: PNG, MP4, GIF.

Nothing here keeps global state, so a background thread may draw. Labels are drawn by Pillow, in milliseconds.
The bytes of a file depend only on the frames and the versions of the libraries, not on the time or the number
of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.files import becoming
from research.draw.charts import bars, curves, heatmap, histogram

__all__ = ["bars", "curves", "grid", "heatmap", "histogram", "ping_pong", "read_png", "strip", "to_uint8"]
__all__ += ["write_gif", "write_mp4", "write_png"]

INK = (30, 30, 30)
MAGENTA = (255, 0, 255)
N_EXACT = 128  # of the 256 colours of a GIF of charts, at most this many are kept exactly


def to_uint8(x) -> np.ndarray:
    """Images as uint8 (N, H, W, 3). Pixels that are not finite become magenta; grey is repeated three times.

    x: a tensor, an array or a list of these. It is float (…, C, H, W), which is clipped to [0, 1] and
    rounded; or uint8 (…, H, W, C); or uint8 (…, C, H, W) if the last axis can't be the channels. C is 1 or 3.
    Anything else raises ValueError.
    """
    if isinstance(x, (list, tuple)):
        if not x:
            raise ValueError("no images to draw")
        return np.concatenate([to_uint8(image) for image in x])
    if hasattr(x, "detach"):  # a tensor; numpy has no bfloat16
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() else x).numpy()
    x = np.asarray(x)
    is_float, shape = x.dtype.kind == "f", x.shape
    if x.ndim >= 3 and (is_float or shape[-1] not in (1, 3)):
        x = np.moveaxis(x, -3, -1)
    if x.ndim < 3 or x.shape[-1] not in (1, 3) or not (is_float or x.dtype == np.uint8):
        raise ValueError(
            f"images are float (…, C, H, W) or uint8 (…, H, W, C), C 1 or 3; not {x.dtype} {shape}"
        )
    x = pixels = x.reshape(-1, *x.shape[-3:])
    if is_float:
        pixels = (np.clip(np.nan_to_num(x.astype(np.float32)), 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = np.repeat(pixels, 3 // x.shape[-1], axis=-1)
    if is_float:
        pixels[~np.isfinite(x).all(-1)] = MAGENTA
    return pixels


@lru_cache
def _font(size: int):
    # DejaVu comes with matplotlib and has Greek letters and arrows; Pillow's own font lacks them.
    try:
        path = Path(find_spec("matplotlib").origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return ImageFont.load_default(size)


def _extent(text: str, size: int) -> tuple[int, int]:
    """Width and height of a text in pixels; the height is that of its lines, whatever their letters are."""
    lines = text.split("\n")
    return math.ceil(max(_font(size).getlength(line) for line in lines)), len(lines) * (size + 3)


def _wrap(text: str, width: float, size: int) -> str:
    """Breaks lines between words; a word that is wider than `width` stays whole."""
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}".lstrip()
            fits = not lines[-1] or _extent(longer, size)[0] <= width
            lines[-1:] = [longer] if fits else [lines[-1], word]
    return "\n".join(lines)


def _fit(labels: Sequence, width: float, height: float) -> tuple[list[str], int]:
    """Labels, wrapped, and the largest font size from 12 to 8 px at which all fit. If none fits, the size is
    8 and lines that are too wide end in '…'.
    """

    def cut(line: str) -> str:
        while len(line) > 1 and _extent(line, size)[0] > width:
            line = line.removesuffix("…")[:-1] + "…"
        return line

    for size in (12, 11, 10, 9, 8):
        wrapped = [_wrap(str(label), width, size) for label in labels]
        if all(w <= width and h <= height for w, h in (_extent(label, size) for label in wrapped)):
            break
    return ["\n".join(map(cut, label.split("\n"))) for label in wrapped], size


def grid(
    images,
    n_cols: int | None = None,
    row_labels: Sequence[str] | None = None,
    col_labels: Sequence[str] | None = None,
    title: str | None = None,
    scale: int = 1,
    pad: int = 2,
) -> np.ndarray:
    """One picture of tiles in rows of n_cols, on white, each enlarged `scale` times by repeating pixels.

    images: as in `to_uint8`; n_cols: by default the second axis of (rows, cols, C, H, W), else such that the
    tiles form a square. Without labels the picture is rows·(H·scale + pad) + pad pixels high, and its width
    is computed alike. Labels and the title, which is wrapped, add space on the left and above; a title wider
    than a small picture also adds space on the right.
    ValueError: no images, more or fewer labels than rows or columns, sizes below their minimum.
    """
    if n_cols is None and len(getattr(images, "shape", ())) >= 5:
        n_cols = images.shape[-4]
    tiles = to_uint8(images)
    n_cols = math.ceil(math.sqrt(len(tiles))) if n_cols is None else n_cols
    if not len(tiles) or n_cols < 1 or scale < 1 or pad < 0:
        raise ValueError(f"nothing to draw: {len(tiles)} images, {n_cols=}, {scale=}, {pad=}")
    n_rows = math.ceil(len(tiles) / n_cols)
    for name, labels, wanted in (("row_labels", row_labels, n_rows), ("col_labels", col_labels, n_cols)):
        if labels is not None and len(labels) != wanted:
            raise ValueError(f"{name} has {len(labels)} entries for {wanted}")
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    cell_h, cell_w = tiles.shape[1] + pad, tiles.shape[2] + pad

    left = top = title_h = right = 0
    if row_labels is not None:
        row_labels, row_size = _fit(row_labels, math.inf, cell_h)
        left = max(_extent(label, row_size)[0] for label in row_labels) + 6
    if title:
        width = max(200, left + n_cols * cell_w)
        title = _wrap(title, width, 13)
        title_w, title_h = _extent(title, 13)
        top = title_h = title_h + 4
        right = max(0, title_w - left - n_cols * cell_w)
    if col_labels is not None:
        col_labels, col_size = _fit(col_labels, cell_w, math.inf)
        top += max(_extent(label, col_size)[1] for label in col_labels) + 2

    picture = np.full((top + n_rows * cell_h + pad, left + n_cols * cell_w + pad + right, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = top + pad + i // n_cols * cell_h, left + pad + i % n_cols * cell_w
        picture[y : y + len(tile), x : x + tile.shape[1]] = tile
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((pad, 2), title, INK, _font(13), spacing=2)
    for i, label in enumerate(row_labels if row_labels is not None else ()):
        at = (left - 3, top + pad + i * cell_h + (cell_h - pad) // 2)
        draw.text(at, label, INK, _font(row_size), anchor="rm", align="right", spacing=2)
    for i, label in enumerate(col_labels if col_labels is not None else ()):
        at = (left + pad + i * cell_w + (cell_w - pad) // 2, title_h + 1)
        draw.text(at, label, INK, _font(col_size), anchor="ma", align="center", spacing=2)
    return np.array(canvas)


def strip(images, labels=None, title=None, scale: int = 1, pad: int = 2) -> np.ndarray:
    """One row of images with a label above each; otherwise like `grid`."""
    tiles = to_uint8(images)
    return grid(tiles, len(tiles), col_labels=labels, title=title, scale=scale, pad=pad)


def ping_pong(frames):
    """Frames (list, array or tensor) forwards and then backwards, for a loop that shows neither end twice."""
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    return [frames[i] for i in order] if isinstance(frames, (list, tuple)) else frames[order]


def _save(path, write: Callable[[Path], None]) -> Path:
    """Writes the file `path`, by `write` to a temporary path, so that nobody ever reads half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with becoming(path, path.suffix) as temporary:  # the suffix tells the writers which format to write
        write(temporary)
    return path


def _enlarge(frames, upscale: int, resample: str) -> list[Image.Image]:
    """Frames (as in `to_uint8`) as Pillow images, `upscale` times as large. resample: lanczos or nearest."""
    images = [Image.fromarray(frame) for frame in to_uint8(frames)]
    size = (images[0].width * upscale, images[0].height * upscale)
    return [image.resize(size, Image.Resampling[resample.upper()]) for image in images]


def write_png(path, array) -> Path:
    """Writes one picture (H, W, 3), atomically."""
    (picture,) = to_uint8(array)
    return _save(path, lambda file: Image.fromarray(picture).save(file))


def read_png(path) -> np.ndarray:
    """The pixels of a picture file, uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write_gif(path, frames, fps: float = 20, upscale: int = 1, resample: str = "lanczos") -> Path:
    """Writes frames (as in `to_uint8`) as an endless GIF, atomically. Equal neighbours become one long frame.

    A GIF counts time in hundredths of a second, and browsers slow down frames shorter than two of them, so
    50 fps is the most.
    """
    images = _enlarge(frames, upscale, resample)
    # One palette for all frames: with one for each, areas at rest flicker, and finding it takes seconds.
    palette = _palette(np.concatenate([np.asarray(image) for image in images[:: 1 + len(images) // 16]]))
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    options = {"loop": 0, "duration": max(20, round(100 / fps) * 10)}
    return _save(path, lambda file: first.save(file, save_all=True, append_images=rest, **options))


def _palette(sheet: np.ndarray) -> Image.Image:
    """256 colours for the pixels (H, W, 3), as a picture that `quantize` takes.

    They are found by median cut of all pixels. In charts, which are mostly flat, the colours of flat areas
    are kept exactly: otherwise two classes with few points could be merged into one.
    """
    red, green, blue = np.moveaxis(sheet.astype(np.uint32), -1, 0)
    numbers = (red << 16) + (green << 8) + blue
    squares = np.lib.stride_tricks.sliding_window_view(numbers, (3, 3))  # (H - 2, W - 2, 3, 3)
    is_flat = (squares == squares[..., 1:2, 1:2]).all((-2, -1))
    cut = Image.Quantize.MEDIANCUT
    if is_flat.mean() < 0.5:
        return Image.fromarray(sheet).quantize(256, method=cut)
    colors, counts = np.unique(squares[is_flat][:, 1, 1], return_counts=True)
    kept = colors[np.argsort(counts, kind="stable")[::-1][:N_EXACT]]
    palette = np.stack([kept >> 16, kept >> 8 & 255, kept & 255], axis=1).astype(np.uint8)
    rest = sheet[~np.isin(numbers, kept)]
    if len(rest):
        others = Image.fromarray(rest[None]).quantize(256 - len(kept), method=cut).getpalette()
        palette = np.concatenate([palette, np.reshape(others, (-1, 3)).astype(np.uint8)])
    image = Image.new("P", (1, 1))
    image.putpalette(palette.tobytes())
    return image


def write_mp4(path, frames, fps: float = 20, upscale: int = 1, resample: str = "lanczos") -> Path:
    """Writes frames (as in `to_uint8`) as H.264 in yuv420p, which every browser plays, atomically.

    An odd height or width is extended by a copy of the last row or column. OSError: ffmpeg fails, because the
    disk is full or it lacks x264.
    """
    import imageio.v2 as imageio

    video = np.stack([np.asarray(image) for image in _enlarge(frames, upscale, resample)])
    video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    # One thread, portable code paths and no dates or versions: the same bytes on every machine.
    options = "-crf 16 -preset medium -movflags +faststart -threads 1 -x264-params cpu-independent=1"
    options += " -map_metadata -1 -fflags +bitexact -flags:v +bitexact"
    options += " -vf scale=out_color_matrix=bt709:flags=bitexact+accurate_rnd,"
    options += "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    settings = {"fps": fps, "codec": "libx264", "pixelformat": "yuv420p", "quality": None}
    settings["macro_block_size"] = 1  # imageio would otherwise resize to a multiple of 16

    def write(file):
        log = {"ffmpeg_log_level": "error", "output_params": options.split()}
        with imageio.get_writer(file, format="FFMPEG", **settings, **log) as writer:
            for frame in video:
                writer.append_data(frame)
        # imageio ignores ffmpeg's exit code. The index is written last and moved to the front by faststart.
        if not file.exists() or b"moov" not in file.read_bytes()[:256]:
            raise OSError(f"ffmpeg could not write {path}")

    return _save(path, write)
