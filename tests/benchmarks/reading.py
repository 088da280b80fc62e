"""How fast training's frames come, beside nothing but decoding them: a loop over the same JPEGs.

Workers are started, and files are in the page cache, before the clock starts: what is compared is
how many frames a core decodes, not how long a process takes to start.
"""

# N clips

import os
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from egoctl.pipeline.extraction.plan import StoreConfig, inputs_arrays, inputs_view
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.frames import FrameLoader
from egoctl.student.clips.jpegs import keep_jpegs
from egoctl.student.settings.train_config import CacheFrames
from egoctl.tests.benchmarks.figures import Figure, Sample, Setup, alternate, rates
from egoctl.tests.benchmarks.filled_store import new_store, numbered_clips, write_all
from egoctl.tests.benchmarks.footage import jpeg_frames

AIM = ">= 0.90"
STORES = StoreConfig(frames_per_clip=1)
NUM_CLIPS, QUICK_NUM_CLIPS = 8192, 128
"""Of the store: 16 parts."""
NUM_READ, QUICK_NUM_READ = 4096, 64
"""Of them, in every repeat, in random order."""
NUM_READ_FROM_STORE = 128
BATCH = 64
NUM_PICTURES = 64
"""Distinct ones; clips take turns with them."""
PLACES: dict[CacheFrames, str] = {
    "ram": "in memory",
    "disk": "in a file",
    "none": "left in the store",
}


def run(setup: Setup) -> list[Figure]:
    """The loader with no worker and with one, for each place that frames are kept in."""
    num_clips = QUICK_NUM_CLIPS if setup.is_quick else NUM_CLIPS
    num_read = QUICK_NUM_READ if setup.is_quick else NUM_READ
    pictures = jpeg_frames(NUM_PICTURES, STORES)
    jpegs = [pictures[index % NUM_PICTURES] for index in range(num_clips)]
    store = _store(setup, jpegs)
    order = torch.randperm(num_clips, generator=torch.Generator().manual_seed(0))[:num_read]
    batches = order.split(BATCH)
    bare = "a plain loop that decodes them"
    sides = {bare: partial(_decoded, [jpegs[index] for index in order.tolist()])}
    compared: dict[str, str] = {}
    rows = np.arange(num_clips)
    with patch.dict(os.environ, EGOCTL_CACHE=str(setup.folder / "cache")):
        for place, told in PLACES.items():
            kept = keep_jpegs(
                store, rows, np.zeros_like(rows)[:, None], cache_frames=place, digest="benchmark"
            )
            # It is slow, and so needs fewer frames to be timed.
            some = batches if place != "none" else batches[: NUM_READ_FROM_STORE // BATCH]
            for num_workers in (0, 1):
                loader = FrameLoader(
                    kept, max_batch=BATCH, num_workers=num_workers, device=torch.device("cpu")
                )
                name = f"{told}, {'1 worker' if num_workers else 'no worker'}"
                sides[name] = partial(_loaded, loader, some)
                # The first round starts the workers and makes the memory theirs.
                sides[name]()
                compared[name] = told
        found = alternate(sides, repeats=setup.repeats)
    figures = [
        Figure(
            benchmark="reading",
            name=f"frames {name}: speed / speed of {bare} on one core",
            unit="ratio",
            values=_rate_ratios(found[name], found[bare]),
            aim=AIM if told != PLACES["none"] else None,
        )
        for name, told in compared.items()
    ]
    return figures + [
        Figure(
            benchmark="reading",
            name=name if name == bare else f"frames {name}",
            unit="frames/s",
            values=rates(samples),
        )
        for name, samples in found.items()
    ]


def _decoded(jpegs: Sequence[bytes]) -> float:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, "RGB")
    return len(jpegs)


def _loaded(loader: FrameLoader, batches: Sequence[Tensor]) -> float:
    return sum(len(frames_BFHW3) for frames_BFHW3 in loader.batches(batches))


def _rate_ratios(above: Sequence[Sample], below: Sequence[Sample]) -> tuple[float, ...]:
    """Per round; not all sides read equally many frames."""
    return tuple(a.rate / b.rate for a, b in zip(above, below, strict=True))


def _store(setup: Setup, jpegs: Sequence[bytes]) -> FeatureStore:
    clips = list(numbered_clips(len(jpegs), window_s=WINDOW_S))
    # Frames alone: the other arrays of inputs stores are not looked at.
    arrays = [
        spec for spec in inputs_arrays(inputs_view(STORES, WINDOW_S)) if spec.name == "frames"
    ]
    store = new_store(
        setup.folder / "inputs.store",
        kind="inputs",
        part_rows=STORES.part_rows,
        arrays=arrays,
        clips=clips,
    )
    write_all(store, {"frames": np.array(jpegs, dtype=object)[:, None]})
    return store
