"""A manifest with fewer train segments, for studies of how few labelled ones are enough."""

import dataclasses
import math

from blake3 import blake3

from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import Segment


def labelled_part(manifest: Manifest, *, train_split: str, share: float) -> Manifest:
    """The manifest with that share of the labelled train segments, rounded up, of every class.

    Which ones stay depends on their ids alone, so a smaller share is part of a larger one. Train
    segments without a label go. Paths become absolute: it may be written anywhere.
    """
    of_class: dict[int, list[Segment]] = {}
    for segment in manifest.segments:
        if segment.split == train_split and segment.label is not None:
            of_class.setdefault(segment.label, []).append(segment)
    stay = {
        segment.segment_id
        for segments in of_class.values()
        for segment in sorted(segments, key=_order)[: math.ceil(share * len(segments))]
    }
    return dataclasses.replace(
        manifest,
        segments=tuple(
            _absolute(manifest, segment)
            for segment in manifest.segments
            if segment.split != train_split or segment.segment_id in stay
        ),
    )


def _order(segment: Segment) -> str:
    return blake3(segment.segment_id.encode()).hexdigest()


def _absolute(manifest: Manifest, segment: Segment) -> Segment:
    imu_path = segment.imu_path
    return dataclasses.replace(
        segment,
        video_path=manifest.media(segment.video_path).url,
        imu_path=None if imu_path is None else manifest.media(imu_path).url,
    )
