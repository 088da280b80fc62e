"""Surfaces of the demo world's kitchens, drawn anew for every session of ten segments."""

# S texture side

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered.actions import Array

Texture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surfaces:
    """One session's textures, (S, S, 3) each."""

    wall: Texture
    floor: Texture
    counter: Texture
    front: Texture
    """Cabinet doors and drawers."""
    inside: Texture
    metal: Texture
    sink: Texture
    water: Texture
    jar: Texture
    lid: Texture
    mug: Texture
    mug_inside: Texture
    board: Texture
    food: Texture
    pan: Texture
    stew: Texture
    wood: Texture
    plate: Texture
    sponge: Texture
    sleeve: Texture


def draw_surfaces(rng: np.random.Generator) -> Surfaces:
    """A kitchen's look; colours are free where things are known by shape, and kept where not."""
    cloth = ("plain", "stripes", "checks", "speckle")
    return Surfaces(
        wall=_texture(rng, _colour(rng, 0.0, 0.4, 0.6, 0.95), cloth, size=128, repeats=9),
        floor=_texture(rng, _colour(rng, 0.0, 0.5, 0.3, 0.7), cloth, size=64, repeats=6),
        counter=_texture(rng, _colour(rng, 0.0, 0.5, 0.3, 0.8), ("speckle", "wood"), size=128),
        front=framed(_texture(rng, _colour(rng, 0.0, 0.6, 0.4, 0.95), ("plain", "wood"), size=64)),
        inside=_texture(rng, _colour(rng, 0.1, 0.4, 0.18, 0.35), ("plain", "wood")),
        metal=_texture(rng, _colour(rng, 0.0, 0.08, 0.65, 0.9), ("plain",)),
        sink=framed(_texture(rng, _colour(rng, 0.0, 0.1, 0.4, 0.55), ("plain",), size=64)),
        water=_texture(rng, np.array([190.0, 220, 240]), ("stripes",), contrast=0.12),
        jar=_texture(rng, _colour(rng, 0.2, 0.8, 0.45, 0.9), ("plain", "stripes"), repeats=2),
        lid=_texture(rng, _colour(rng, 0.3, 0.9, 0.4, 0.9), ("plain",)),
        mug=_texture(rng, _colour(rng, 0.1, 0.9, 0.5, 1.0), ("plain", "checks"), repeats=2),
        mug_inside=_texture(rng, np.array([60.0, 42, 30]), ("plain",)),
        board=_texture(rng, np.array([198.0, 152, 98]) * rng.uniform(0.75, 1.15), ("wood",)),
        food=_texture(rng, _colour(rng, 0.4, 0.8, 0.6, 0.95), ("speckle",)),
        pan=_texture(rng, _colour(rng, 0.0, 0.2, 0.12, 0.3), ("plain",)),
        stew=_texture(rng, _colour(rng, 0.6, 0.9, 0.45, 0.85), ("speckle",)),
        wood=_texture(rng, np.array([150.0, 105, 62]) * rng.uniform(0.7, 1.2), ("wood",)),
        plate=_texture(rng, _colour(rng, 0.0, 0.15, 0.88, 1.0), ("plain", "speckle")),
        sponge=_texture(rng, np.array([240.0, 205, 60]), ("speckle",)),
        sleeve=_texture(rng, _colour(rng, 0.2, 0.9, 0.2, 0.9), ("plain", "stripes"), repeats=4),
    )


def plain(colour_3: Array) -> Texture:
    """(1, 1, 3) of one colour, 0 to 255."""
    return np.clip(colour_3, 0, 255).astype(np.uint8)[None, None]


def shaded(texture: Texture, brightness: float) -> Texture:
    return np.asarray(np.clip(texture * brightness, 0, 255), dtype=np.uint8)


def framed(texture: Texture) -> Texture:
    """The texture with a darker border, so that flat things have an outline."""
    result, edge = texture.copy(), max(1, len(texture) // 20)
    for side in (result[:edge], result[-edge:], result[:, :edge], result[:, -edge:]):
        side[:] = side // 2
    return result


def _colour(
    rng: np.random.Generator, dull: float, vivid: float, dark: float, bright: float
) -> Array:
    hue, saturation, value = rng.random(), rng.uniform(dull, vivid), rng.uniform(dark, bright)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _texture(
    rng: np.random.Generator,
    colour_3: Array,
    patterns: tuple[str, ...],
    *,
    size: int = 32,
    repeats: int = 3,
    contrast: float = 0.25,
) -> Texture:
    """(size, size, 3) of one of the patterns; contrast is the pattern's, relative."""
    pattern = patterns[int(rng.integers(len(patterns)))]
    depth = contrast * rng.uniform(0.4, 1.0)
    row, column = np.mgrid[:size, :size] / size
    if pattern == "stripes":
        shade = (column * repeats % 1 < 0.5) * 1.0
    elif pattern == "checks":
        shade = ((column * repeats % 1 < 0.5) ^ (row * repeats % 1 < 0.5)) * 1.0
    elif pattern == "wood":
        wave = 0.04 * np.sin(2 * np.pi * (row * 1.5 + rng.random()))
        shade = 0.5 + 0.5 * np.sin(2 * np.pi * repeats * 2 * (column + wave))
    elif pattern == "speckle":
        cells = rng.random((16, 16))
        shade = np.kron(cells, np.ones((size // 16, size // 16)))
    else:
        shade = np.zeros((size, size))
    grain = rng.normal(0, 0.02, size=(size, size))
    brightness = 1 - depth * shade + grain
    return np.asarray(np.clip(colour_3 * brightness[..., None], 0, 255), dtype=np.uint8)
