"""What of a store is wanted: some arrays, rows, or the clips of a split."""

import re
import sys
from dataclasses import dataclass, replace

import polars as pl

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.header import StoreHeader


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What of a store is wanted; parts are copied whole, so it may be a little more."""

    arrays: tuple[str, ...] | None = None
    """None: all."""
    rows: tuple[int, int] | None = None
    """[first, stop); None: all."""
    clip_ids: frozenset[str] | None = None
    """None: all."""

    @classmethod
    def of(
        cls, *, arrays: str | None, rows: str | None, split: str | None, manifest: str | None
    ) -> "Selection":
        """What --arrays a,b --rows A:B --split NAME --manifest FILE mean together.

        Raises:
            EgoctlError: if one of them cannot be read.
        """
        span = None
        if rows is not None:
            found = re.fullmatch(r"(\d*):(\d*)", rows)
            if not found:
                raise EgoctlError(f"--rows must be like 0:1000, 1000: or :1000, got {rows!r}.")
            span = (int(found[1] or 0), int(found[2] or sys.maxsize))
        if split is not None and manifest is None:
            raise EgoctlError("--split needs --manifest, the file with the splits.")
        return cls(
            arrays=None if arrays is None else tuple(arrays.split(",")),
            rows=span,
            clip_ids=None if manifest is None else _clips_of(manifest, split),
        )

    def header(self, header: StoreHeader, url: str) -> StoreHeader:
        """The header of a copy: that of the store with only these arrays.

        Raises:
            StoreError: if the store at url does not have them.
        """
        if self.arrays is None:
            return header
        names = [spec.name for spec in header.arrays]
        if unknown := sorted(set(self.arrays) - set(names)):
            raise StoreError(f"{url} has no array {unknown[0]!r}; it has {', '.join(names)}.")
        return replace(header, arrays=tuple(s for s in header.arrays if s.name in self.arrays))

    def parts(self, store: FeatureStore) -> list[Part]:
        """The parts that hold a wanted row; of a clip that has several rows the last one counts."""
        clips = store.clips()
        if self.clip_ids is not None:
            wanted = pl.Series(list(self.clip_ids), dtype=pl.String)
            clips = clips.unique("clip_id", keep="last").filter(pl.col("clip_id").is_in(wanted))
        if self.rows is not None:
            clips = clips.filter(pl.col("row").is_between(*self.rows, closed="left"))
        numbers = set(clips["part"])
        return [part for part in store.parts() if part.number in numbers]


def _clips_of(manifest_url: str, split: str | None) -> frozenset[str]:
    manifest = read_manifest(manifest_url)
    segments = manifest.segments if split is None else manifest.split(split)
    wanted = {segment.segment_id for segment in segments}
    return frozenset(clip.clip_id for clip in manifest.clips() if clip.segment_id in wanted)
