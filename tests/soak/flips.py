"""Flips one bit of one file of a store, many times, and asks `verify` each time."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.sharing.repair import repair
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore


@dataclass(kw_only=True)
class FlipCounts:
    """What became of the flips, by kind of file."""

    flipped: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    """Not found, and the content is the same to every reader."""
    missed: list[str] = field(default_factory=list)
    unrepaired: list[str] = field(default_factory=list)


def kind_of(name: str) -> str:
    """'arrays/feature/c/3/0' is a shard of feature, and so on."""
    head, _, rest = name.partition("/")
    if head == "arrays" and not name.endswith("zarr.json"):
        return f"shard of {rest.split('/')[0]}"
    return {"arrays": "zarr.json", "clips": "clips file or copy"}.get(head, head)


def content_of(url: str) -> dict[str, object]:
    """All that a reader can learn from a store."""
    store = FeatureStore.open(url)
    rows = store.rows()
    done = rows.filter(pl.col("outcome").is_not_null())["row"].to_numpy()
    arrays = {spec.name: store.read(spec.name, done).tolist() for spec in store.header.arrays}
    return {
        "header": store.header.to_dict(),
        "rows": rows.rows(),
        # As text: NaN is not equal to itself.
        "arrays": repr(arrays),
        "statistics": repr(
            {name: np.asarray(of.mean_D).tolist() for name, of in store.statistics().items()}
        ),
    }


def flip_bits(
    url: str, *, count: int, seed: int, redo: Callable[[], None], on_flip: Callable[[], object]
) -> FlipCounts:
    """Flip count random bits, one at a time, over the kinds of files in turn; redo fills parts.

    After each, the store is repaired, what was taken out of use is redone, and everything must be
    as before.
    """
    chosen = random.Random(seed)
    folder = Path(url)
    spare = folder.with_name(f"{folder.name}.spare")
    shutil.copytree(folder, spare)
    before = content_of(url)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    kinds = sorted({kind_of(name) for name in names})
    counts = FlipCounts()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = chosen.choice([name for name in names if kind_of(name) == kind])
        content = bytearray((folder / name).read_bytes())
        bit = chosen.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(content)
        counts.flipped[kind] += 1
        where = f"{name}, bit {bit}"
        found = verify(url)
        if found.faults:
            counts.found[kind] += 1
            repair(found)
            redo()
            if verify(url).faults or content_of(url) != before:
                counts.unrepaired.append(where)
        elif _same(url, before):
            counts.harmless[kind] += 1
        else:
            counts.missed.append(where)
        on_flip()
        if not found.faults or counts.unrepaired:
            shutil.rmtree(folder)
            shutil.copytree(spare, folder)
    shutil.rmtree(spare)
    return counts


def _same(url: str, before: dict[str, object]) -> bool:
    try:
        return content_of(url) == before
    except StoreError:
        return False
