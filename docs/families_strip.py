"""The strip of pictures on top of the README, a tile for each family, cut from what docs/ shows already.

Run     python docs/families_strip.py
Writes  docs/pictures/families.png
"""

import textwrap
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).with_name("pictures")
TILE, GAP, HEAD = 224, 12, 50  # pixels
INK, SOFT, PAPER = "#1d2329", "#56616b", "#ffffff"
LEARNED = (  # by a Transformer, from a chapter of Moby-Dick: docs/charlm.md
    ("step 32", 'rahvan"elot.aTfsppafpolrrD.tuelg umg nn'),
    ("step 256", "geded pecot.'The parpoly not cor to shim and mindes. By All"),
    ("step 2,048", "ce had like a four far slorticed us interatice in sair a tre"),
)
MODERNISED = (  # sentences from random codes, and what the twist makes of them: docs/text_vae.md
    ("a random code", "To send the day shall be world to live:"),
    ("a random code", "Doth who here, do words are you and to be."),
    ("in today's English", "Does who here, do words are you and to be."),
)


def font(size: int, name: str = "DejaVu Sans") -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib."""
    return ImageFont.truetype(font_manager.findfont(name), size)


def cut(name: str, left: int, top: int, width: int, height: int) -> Image.Image:
    """A part of a picture in docs/pictures as a tile; places in pixels."""
    part = Image.open(PICTURES / f"{name}.png").convert("RGB").crop((left, top, left + width, top + height))
    return part.resize((TILE, TILE), Image.Resampling.LANCZOS)


def generated_faces() -> Image.Image:
    """Sixteen faces of the GAN, which stand in one row in docs/pictures."""
    row = Image.open(PICTURES / "three_models_photos.png").convert("RGB")
    tile = Image.new("RGB", (4 * 66 - 2, 4 * 66 - 2), PAPER)
    for i in range(16):
        left = 103 + 66 * i
        tile.paste(row.crop((left, 220, left + 64, 284)), (66 * (i % 4), 66 * (i // 4)))
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def written(parts: tuple[tuple[str, str], ...]) -> Image.Image:
    """Texts below what they are."""
    tile = Image.new("RGB", (TILE, TILE), "#f4f6f8")
    pen, y = ImageDraw.Draw(tile), 8
    for name, text in parts:
        pen.text((10, y), name, SOFT, font(12))
        y += 17
        for line in textwrap.wrap(text, 25):
            pen.text((10, y), line, INK, font(13, "DejaVu Sans Mono"))
            y += 17
        y += 8
    return tile


def main() -> None:
    """Draw the strip."""
    tiles = [
        ("charlm", "characters, early to late", written(LEARNED)),
        ("text_vae", "sentences from a code", written(MODERNISED)),
        ("seq2seq_arith", "sums, with drawn answers", cut("arithmetic_drawn", 0, 54, 180, 180)),
        ("vae_mnist", "a plane of digits", cut("digits_plane", 874, 37, 560, 560)),
        ("bvae_faces", "faces; β = 0, 4, 20 below", cut("price_of_beta", 50, 22, 518, 518)),
        ("gan_faces", "generated from 349 photos", generated_faces()),
    ]
    strip = Image.new("RGB", (len(tiles) * (TILE + GAP) - GAP, HEAD + TILE), PAPER)
    pen = ImageDraw.Draw(strip)
    for i, (name, about, tile) in enumerate(tiles):
        x = i * (TILE + GAP)
        pen.text((x, 2), name, INK, font(18))
        pen.text((x, 26), about, SOFT, font(14))
        strip.paste(tile, (x, HEAD))
    strip.save(PICTURES / "families.png", optimize=True)


if __name__ == "__main__":
    main()
