"""Rendered faces: the embedded image data set, a cartoon head in 3-D with known, independent factors.

Image i of seed s is a pure function of (s, i): `render(sample_factors(s, np.array([i])))`. Nothing is stored.

How: rays are cast orthographically against ellipsoids, some of which are cut by planes (hair, hat); the
closest hit wins. Eyes, brows and mouth are painted in head coordinates on the surface that was hit, so they
move and foreshorten as the head turns. There are 2x2 samples per pixel. For each sample only + - * / sqrt min
max and comparisons are used: they round alike in scalar and vector code, so an image has the same bytes by
itself, in any batch, and on any threads. It uses NumPy on Python threads, because torch's threads would wait
for each other at every operation.

Space: x to the right, y up, z towards the viewer; the picture spans -1 .. 1.
Shapes: N images, F factors, K parts, P samples that hit; S pixels and W = 2 S samples along each side.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

VERSION = 1  # bump when any pixel can change
N_IMAGES = 20_000
SIZES = (32, 64, 128)
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Factor:
    """A ground-truth factor: continuous in [low, high), or categorical with the values 0 .. n - 1."""

    name: str
    kind: str  # 'continuous' or 'categorical'
    low: float
    high: float  # for a categorical factor: its last value
    default: float  # a value that looks good, for pictures in which another factor varies
    doc: str
    labels: tuple[str, ...] = ()  # names of the categories


FACTORS = (
    Factor("yaw", "continuous", -60, 60, 20, "degrees turned, positive to the right of the picture"),
    Factor("pitch", "continuous", -20, 20, 0, "degrees tilted, positive looks up"),
    Factor("skin_tone", "continuous", 0, 1, 0.2, "light (0) to dark (1)"),
    Factor("hair_colour", "continuous", 0, 1, 0.3, "black (0), brown, red (0.5), blond, grey (1); brows too"),
    Factor("hair_length", "continuous", 0, 1, 0.5, "bald (0) to the shoulders (1)"),
    Factor("glasses", "categorical", 0, 2, 0, "spectacles", ("none", "clear", "dark")),
    Factor("hat", "categorical", 0, 1, 0, "a hat with a brim", ("none", "hat")),
    Factor("mouth", "continuous", -1, 1, 0.4, "frown (-1), straight (0), open smile (1)"),
    Factor("light", "continuous", -1, 1, -0.4, "comes from the left (-1), the front (0), the right (1)"),
    Factor("background", "continuous", 0, 1, 0.6, "hue from yellow (0) over green and blue to pink (1)"),
    Factor("face_width", "continuous", -1, 1, 0, "narrow (-1) to wide (1)"),
)
FACTOR_NAMES = tuple(factor.name for factor in FACTORS)

# RGB at equal steps along the colour factors, linear in between
SKIN = ((1.00, 0.87, 0.77), (0.94, 0.74, 0.58), (0.72, 0.49, 0.34), (0.43, 0.27, 0.19))
HAIR = ((0.09, 0.08, 0.10), (0.40, 0.23, 0.11), (0.76, 0.29, 0.09), (0.96, 0.80, 0.40), (0.64, 0.66, 0.72))
BACKGROUND = (
    (0.96, 0.90, 0.56),
    (0.67, 0.88, 0.58),
    (0.54, 0.87, 0.85),
    (0.58, 0.73, 0.95),
    (0.78, 0.66, 0.95),
    (0.96, 0.64, 0.78),
)
SHIRT, HAT, BAND = (0.25, 0.33, 0.47), (0.66, 0.17, 0.24), (0.95, 0.88, 0.74)
FRAME, IRIS = (0.10, 0.09, 0.11), (0.20, 0.42, 0.50)
HEAD_Y = 0.10  # the head's centre, above the middle of the picture
N_PAINTED = 2  # the first parts, skull and jaw, carry the painted face


def sample_factors(seed: int, indices: np.ndarray) -> np.ndarray:
    """Factors of the images `indices` (N,) under `seed`: float32 (N, F), uniform and independent.

    It is counter-based (splitmix64 of seed, index, factor), so a row does not depend on the other indices.
    """

    def mix(x):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    step = np.uint64(0x9E3779B97F4A7C15)
    key = mix(np.array([seed % 2**64], np.uint64) + step)  # an array, because a scalar would warn of overflow
    key = mix(key + (np.asarray(indices).astype(np.uint64)[:, None] + np.uint64(1)) * step)
    bits = mix(key + np.arange(1, len(FACTORS) + 1, dtype=np.uint64) * step)  # (N, F)
    u = (bits >> np.uint64(40)).astype(np.float64) / 2**24  # [0, 1)
    columns = [
        np.floor(x * len(f.labels)) if f.labels else f.low + (f.high - f.low) * x
        for x, f in zip(u.T, FACTORS, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _palette(colours, t: np.ndarray) -> np.ndarray:
    """Colour (N, 3) at t (N,) in 0 .. 1 along `colours`."""
    return np.column_stack([np.interp(t, np.linspace(0, 1, len(c)), c) for c in np.array(colours).T])


def _rotation(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) that nod by `pitch`, then turn about the vertical by `yaw`; both
    (N,), in degrees.
    """
    (cy, sy), (cp, sp) = ((np.cos(np.radians(a)), np.sin(np.radians(a))) for a in (yaw, pitch))
    rows = [cy, -sy * sp, sy * cp, 0 * cy, cp, sp, -sy, -cy * sp, cy * cp]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


class _Scene:
    """The parts of N heads, as float32 tables (K, N, ...). At u, v from its centre, the surface of a part is
    z = centre_z - lean . (u, v) +- sqrt(disc . (1, -u^2, -2 u v, -v^2)).
    """

    def __init__(self, factors: np.ndarray):
        f = dict(zip(FACTOR_NAMES, np.ascontiguousarray(factors.T, np.float64), strict=True))
        self.head = _rotation(f["yaw"], f["pitch"])  # head to view
        # for each part: centre, lean, disc; centre and matrix of its normals, colour; low and high x, y
        self.shape, self.shade, self.box = [], [], []
        self.cuts = {}  # part -> [(2, N, 3)]: upper and lower bounds a + b x + c y of its z
        skin, hair = _palette(SKIN, f["skin_tone"]), _palette(HAIR, f["hair_colour"])
        w, length, hat, worn = 1 + 0.17 * f["face_width"], f["hair_length"], f["hat"] > 0, f["glasses"] > 0
        stubble = np.clip(length / 0.12, 0, 1)  # the shortest hair fades in on the scalp
        locks = skin + (hair - skin) * stubble[:, None]
        bulk = 0.99 + 0.02 * stubble + 0.10 * length

        skull = self._add((0, 0.11, -0.06), (0.47 * w, 0.50, 0.54), skin)
        # skull and jaw share the skull's normals, because otherwise a crease would cross the cheeks
        self._add((0, -0.13, 0.08), (0.40 * w, 0.51, 0.42), skin, normals=skull)
        self._add((0, -0.13, 0.50), (0.08, 0.08, 0.14), skin)  # the nose: tip, bridge
        self._add((0, -0.02, 0.46), (0.05, 0.17, 0.07), skin, pitch=14)
        self._add((0, -0.62, -0.08), (0.20, 0.50, 0.20), 0.86 * skin, body=True)  # neck, shoulders
        self._add((0, -1.26, -0.12), (0.78, 0.50, 0.36), SHIRT, body=True)
        for side in (-1, 1):
            self._add((0.46 * w * side, -0.04, -0.05), (0.05, 0.12, 0.085), skin, yaw=20 * side)  # ears
            self._add((0.41 * w * side, 0.04, 0.19), (0.018, 0.024, 0.31), FRAME, worn, yaw=-20 * side)
            # the hair on the head, in two halves that meet at the parting
            self._add(
                (0, 0.11, -0.07),
                (0.47 * w * bulk, 0.50 * bulk, 0.54 * bulk),
                locks,
                length > 0,
                cuts=[(-0.28 * side, -0.76, 0.58, 0.02)],
            )
        # the hair behind and beside the neck
        self._add(
            (0, -0.40, -0.14),
            ((0.47 + 0.07 * length) * w, 1, 0.47 + 0.02 * length),
            locks,
            length > 0.05,
            cuts=[(0, 0, 1, 0.12), (0, -1, 0, 1.15 * length - 0.60)],
        )
        self._add((0, 0.37, -0.06), (0.55 * w, 0.46, 0.60), HAT, hat, pitch=8, cuts=[(0, -1, 0, -0.11)])
        self._add(
            (0, 0.37, -0.06),
            (0.56 * w, 0.46, 0.61),
            BAND,
            hat,
            pitch=8,
            cuts=[(0, -1, 0, 0.03), (0, 1, 0, 0.11)],
        )
        self._add((0, 0.36, -0.03), (0.66 * w, 0.04, 0.70), HAT, hat, pitch=8)  # brim

        angle, background = np.radians(70 * f["light"]), _palette(BACKGROUND, f["background"])
        light = [0.94 * np.sin(angle), np.full_like(w, 0.33), 0.94 * np.cos(angle)]
        paint = [*0.8 * hair.T, *background.T, w, f["mouth"], f["glasses"]]
        look = [*light, *paint, *self.head.reshape(-1, 9).T]  # (21, N)
        self.look, self.shape, self.shade = (np.array(x, np.float32) for x in (look, self.shape, self.shade))

    def _add(self, centre, radii, colour, shown=True, body=False, yaw=0, pitch=0, cuts=(), normals=None):
        """Add an ellipsoid with the centre `centre` in the head's frame (or in that of the body, which does
        not turn), rotated by yaw and pitch. Heads have it where `shown` (N,) is true. For each (*normal,
        offset) in `cuts` it is cut to normal . p < offset, in its own frame. Returns the values from which
        its normals are computed, for parts that share them.
        """
        n = len(self.head)
        centre, radii, colour = (  # (N, 3)
            np.column_stack([np.broadcast_to(x, n) for x in xs]) if isinstance(xs, tuple) else xs
            for xs in (centre, radii, colour)
        )
        frame = np.tile(np.eye(3), (n, 1, 1)) if body else self.head
        turned = _rotation(np.array([yaw]), np.array([pitch]))
        axes = sum(frame[:, :, k, None] * turned[:, None, k, :] for k in range(3))  # (N, 3, 3), columns
        c = (frame * centre[:, None, :]).sum(axis=2) + np.array([0, HEAD_Y, 0])
        xx, xy, xz, yy, yz, zz = matrix = [
            (axes[:, i] * axes[:, j] / radii**2).sum(axis=1) for i in range(3) for j in range(i, 3)
        ]
        p, q = xz / zz, yz / zz
        disc = np.column_stack([1 / zz, xx / zz - p * p, xy / zz - p * q, yy / zz - q * q])
        half = np.sqrt((axes[:, :2] ** 2 * radii[:, None] ** 2).sum(axis=2))  # half size on the screen
        for *normal, offset in cuts:
            a = (axes * np.array(normal)).sum(axis=2)
            az = np.where(np.abs(a[:, 2]) < 1e-4, 1e-4, a[:, 2])[:, None]
            plane = np.column_stack([offset + (a * c).sum(axis=1), -a[:, :2]]) / az
            bounds = np.where(az > 0, plane, (1e6, 0, 0)), np.where(az < 0, plane, (-1e6, 0, 0))
            self.cuts.setdefault(len(self.shape), []).append(np.array(bounds, np.float32))
        normals, shown = normals or [*c.T, *matrix], np.broadcast_to(shown, n)
        self.shape.append(np.column_stack([c, p, q, np.where(shown[:, None], disc, (-1, 0, 0, 0))]))
        self.shade.append(np.column_stack([*normals, colour]))
        self.box.append(np.array([c[:, :2] - half, c[:, :2] + half])[:, shown])  # (2, <= N, 2)
        return normals


def _closest_hit(scene: _Scene, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closest surface at every sample: its depth (N, W, W), and 1 + the index of its part, or 0 (N, W,
    W).
    """
    side = len(grid)
    depth = np.full((len(scene.head), side, side), -1e3, np.float32)
    part = np.zeros(depth.shape, np.uint8)
    for k, (low, high) in enumerate(scene.box):
        if not len(low):  # none of the heads has this part
            continue
        # the columns and rows in which some head can be hit; row 0 is the top
        x0, y0 = np.clip((low.min(axis=0) + 1) * side / 2 - 1, 0, side).astype(int)
        x1, y1 = np.clip((high.max(axis=0) + 1) * side / 2 + 2, 0, side).astype(int)
        columns, rows = slice(x0, x1), slice(side - y1, side - y0)
        cx, cy, cz, p, q, d0, d1, d2, d3 = scene.shape[k].T[:, :, None, None]
        x, y = grid[columns], -grid[rows, None]
        u, v = x - cx, y - cy  # (N, 1, columns), (N, rows, 1)
        disc = (d0 - d1 * u * u) - v * (2 * d2 * u + d3 * v)  # (N, rows, columns)
        hit = disc > 0
        root = np.sqrt(np.abs(disc, out=disc), out=disc)  # the absolute value, because NaN would be slow
        middle = (cz - p * u) - q * v
        z = middle + root
        for bounds in scene.cuts.get(k, ()):
            a, b, c = bounds.transpose(2, 0, 1)[..., None, None]  # (2, N, 1, 1)
            upper, lower = (a + b * x) + c * y
            z, root = np.minimum(z, upper), np.minimum(root, middle - lower)
        if k in scene.cuts:
            hit &= z >= middle - root  # only where the planes leave something of the solid
        near = depth[:, rows, columns]
        hit &= z > near
        np.copyto(near, z, where=hit)
        np.copyto(part[:, rows, columns], k + 1, where=hit)
    return depth, part


def _ramp(inside: np.ndarray, size: int) -> np.ndarray:
    """Coverage, 0 .. 1, from the distance to a painted edge (positive inside); the edge is
    one sample wide.
    """
    return np.minimum(np.maximum(inside * size + 0.5, 0), 1)


def _mix(rgb: list, coverage: np.ndarray, colour) -> list:
    """Paint `colour` (three numbers or arrays) over the channels `rgb`; returns the new channels."""
    return [channel + coverage * (c - channel) for channel, c in zip(rgb, colour, strict=True)]


def _paint_face(rgb: list, x, y, z, mouth, brows, w, size: int) -> list:
    """Paint cheeks, eyes, brows and mouth over the channels `rgb` of P samples at head
    coordinates x, y, z.
    """
    front, side = z > 0.05, np.abs(x)
    dx, dy = side - 0.26 * w, y + 0.20
    rgb = _mix(rgb, front * np.maximum(0.30 - dx * dx * 19 - dy * dy * 24, 0), (0.90, 0.36, 0.36))
    dx = side - 0.185 * w
    eye = (1 - dx * dx * 90 - (y - 0.02) * (y - 0.02) * 144) * (1 / 22)  # about the distance to the rim
    rgb = _mix(rgb, front * _ramp(eye + 0.02, size) * (y > 0.02), (0.16, 0.11, 0.10))  # lashes
    white = front * _ramp(eye, size)
    rgb = _mix(rgb, white, (0.99, 0.99, 0.99))
    for radius, height, colour in ((0.062, 0.018, IRIS), (0.036, 0.018, FRAME), (0.016, 0.044, (1, 1, 1))):
        disc = (radius / 2) - (dx * dx + (y - height) * (y - height)) * (0.5 / radius)
        rgb = _mix(rgb, white * _ramp(disc, size), colour)  # iris, pupil, glint
    t = np.abs(dx * 8)
    arch = 0.038 - np.abs(y - (0.20 - 0.05 * t * t)) - 0.012 * t
    rgb = _mix(rgb, front * _ramp(arch, size) * _ramp((1 - t) * 0.125, size), brows)
    t = x * x * 18
    upper = mouth * 0.13 * (t - 0.5) - 0.325
    lower = upper - 0.16 * np.maximum(mouth, 0) * (1 - t)  # open when smiling
    within = front * _ramp((1 - t) * 0.12, size)
    inside = np.minimum(upper - y, y - lower)
    rgb = _mix(rgb, within * _ramp(inside + 0.027, size), (0.66, 0.20, 0.20))  # lips
    rgb = _mix(rgb, within * _ramp(inside, size), (0.30, 0.05, 0.08))
    inside = np.minimum(inside, y - (0.55 * upper + 0.45 * lower))
    return _mix(rgb, within * _ramp(inside, size), (0.98, 0.97, 0.94))  # teeth


def _paint_glasses(rgb: list, depth: np.ndarray, kind, w, pose, grid: np.ndarray, size: int) -> list:
    """Paint lenses and their rims, which lie in a plane before the eyes, over the picture where nothing is
    closer.
    """
    xx, xy, xz, yx, yy, yz, zx, zy, zz = pose  # head to view, so its columns take the view to the head
    px, py = grid[None, None, :], -grid[None, :, None] - HEAD_Y
    z = (0.50 - xz * px - yz * py) * (1 / zz)  # where the head's z is 0.50
    x, y = (xx * px + yx * py) + zx * z, (xy * px + yy * py) + zy * z - 0.02
    seen, dark = z > depth, kind > 1
    dx, dy = np.square((np.abs(x) - 0.195 * w) * (1 / 0.165)), np.square(y * (1 / 0.14))
    lens = (1 - dx * (0.6 + 0.4 * dx) - dy * (0.6 + 0.4 * dy)) * 0.052  # about the distance to the rim
    tint = [c - np.float32(0.86) * dark for c in (0.92, 0.97, 1.0)]
    rgb = _mix(rgb, seen * _ramp(lens, size) * (0.22 + np.float32(0.70) * dark), tint)
    bridge = np.minimum(0.08 - np.abs(x), 0.02 - np.abs(y - 0.03))
    return _mix(rgb, seen * _ramp(np.maximum(0.019 - np.abs(lens), bridge), size), FRAME)


def _render_chunk(factors: np.ndarray, size: int) -> np.ndarray:
    """Pictures (N, S, S, 3) uint8 of a few heads, with all samples computed at once."""
    scene, side = _Scene(factors), 2 * size
    grid = ((2 * np.arange(side) + 1 - side) / side).astype(np.float32)  # symmetric about 0
    depth, part = _closest_hit(scene, grid)
    look, fade = scene.look, np.repeat(1 - 0.06 * grid, side).reshape(side, side)
    canvas = look[6:9, :, None, None] * fade  # the background, a little lighter at the top

    hit = np.flatnonzero(part)  # (P,)
    image, pixel, k = hit // side**2, hit % side**2, part.ravel()[hit].astype(np.int64)
    x, y, z = grid[pixel % side], -grid[pixel // side], depth.ravel()[hit]
    table = np.ascontiguousarray(scene.shade.reshape(-1, 12).T)  # (12, K N)
    cx, cy, cz, xx, xy, xz, yy, yz, zz, *rgb = table.take((k - 1) * len(scene.head) + image, axis=1)
    dx, dy, dz = x - cx, y - cy, z - cz
    nx, ny, nz = (a * dx + b * dy + c * dz for a, b, c in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)))
    lx, ly, lz = look[:3].take(image, axis=1)
    lambert = (nx * lx + ny * ly + nz * lz) / np.sqrt(nx * nx + ny * ny + nz * nz)
    bright = 0.56 + 0.54 * np.maximum(lambert, 0) + 0.16 * np.minimum(lambert, 0)

    face = np.flatnonzero(k <= N_PAINTED)
    own = look.take(image[face], axis=1)
    px, py, pz, *skin = (values[face] for values in (x, y, z, *rgb))
    head = [own[12 + j] * px + own[15 + j] * (py - HEAD_Y) + own[18 + j] * pz for j in range(3)]
    painted = _paint_face(skin, *head, own[10], own[3:6], own[9], size)
    for channel, plain, paint in zip(canvas, rgb, painted, strict=True):
        plain[face] = paint
        channel.reshape(-1)[hit] = plain * bright

    worn = np.flatnonzero(look[11])
    w, _, glasses, *pose = look[9:, worn, None, None]
    canvas[:, worn] = _paint_glasses(list(canvas[:, worn]), depth[worn], glasses, w, pose, grid, size)
    c = np.minimum(canvas, 1)
    c = (c[..., ::2, ::2] + c[..., 1::2, 1::2]) + (c[..., ::2, 1::2] + c[..., 1::2, ::2])
    return (c * (255 / 4) + 0.5).astype(np.uint8).transpose(1, 2, 3, 0)


def render(factors: np.ndarray, image_size: int = 64) -> np.ndarray:
    """RGB pictures (N, S, S, 3) uint8 of `factors` (N, F). S = image_size is 32, 64 or 128,
    else ValueError.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise ValueError(f"factors must be (N, {len(FACTORS)}), the FACTOR_NAMES; got {factors.shape}")
    if image_size not in SIZES:
        raise ValueError(f"image_size must be one of {SIZES}, got {image_size}")
    images = np.empty((len(factors), image_size, image_size, 3), np.uint8)
    chunk = 2**16 // image_size**2  # pictures at once: 1 MiB per array of samples, for the processor's cache

    def draw(start: int) -> None:
        images[start : start + chunk] = _render_chunk(factors[start : start + chunk], image_size)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(draw, range(0, len(factors), chunk)))  # list: raises what a thread raised
    return images


def contact_sheet(image_size: int = 64, columns: int = 9) -> np.ndarray:
    """A picture (F S, columns S, 3) uint8: in row j, factor j goes from low to high, the others are at
    default.
    """
    factors = np.tile(np.array([f.default for f in FACTORS]), (len(FACTORS), columns, 1))
    for j, f in enumerate(FACTORS):
        values = np.linspace(f.low, f.high, columns)
        factors[j, :, j] = np.round(values) if f.labels else values
    rows = render(factors.reshape(-1, len(FACTORS)), image_size)
    rows = rows.reshape(len(FACTORS), columns, image_size, image_size, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(len(FACTORS) * image_size, columns * image_size, 3)
