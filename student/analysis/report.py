"""An analysis as one HTML file: tables and the clips they speak of; no scripts, nothing fetched."""

# Q queries, M IMU windows of a query, k retrieved clips

from collections.abc import Sequence
from typing import Any

import jinja2
import polars as pl

from egoctl.pipeline.store import FeatureStore
from egoctl.student.analysis.class_gains import ClassGain
from egoctl.student.analysis.clip_pictures import (
    PLOT_HEIGHT,
    PLOT_WIDTH,
    ClipPicture,
    clip_pictures,
    plot_points,
)
from egoctl.student.analysis.result import Analysis
from egoctl.student.analysis.retrieval import NONE, Retrieval
from egoctl.student.analysis.template import REPORT
from egoctl.student.clips.clip_set import ClipSet

NUM_SHOWN_IMUS = 3
"""The frame's own and two others: more make the page heavy, not clearer."""
NUM_SHOWN_CLIPS = 3
NUM_SHOWN_CLASSES = 12
"""At either end."""


def report_html(
    analysis: Analysis,
    clips: ClipSet,
    table: pl.DataFrame,
    retrievals: Sequence[Retrieval],
    inputs: FeatureStore,
) -> str:
    """The page. clips: what the retrievals' indices are of; table: of clip_table.

    Raises:
        StoreError: if a frame cannot be decoded.
    """
    label_of = dict(zip(table["clip_id"], table["label"], strict=True))
    examples = _examples(retrievals, clips, label_of, at_most=analysis.config.num_examples)
    shown = [clip.clip_id for clip in (*analysis.best, *analysis.worst)]
    for example in examples:
        shown.append(example["clip_id"])
        for row in example["rows"]:
            shown += [row["imu"]] if row["imu"] else []
            shown += [found["clip_id"] for found in row["found"]]
    pictures = clip_pictures(inputs, shown)
    highest_accel = max((_highest(p.accel_W) for p in pictures.values()), default=0.0)
    highest_gyro = max((_highest(p.gyro_W) for p in pictures.values()), default=0.0)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(REPORT).render(
        a=analysis,
        config=analysis.config,
        run=analysis.run,
        other=analysis.other,
        runs=[analysis.run] + ([analysis.other] if analysis.other else []),
        examples=examples,
        pictures={
            clip_id: _drawn(picture, highest_accel, highest_gyro)
            for clip_id, picture in pictures.items()
        },
        highest_accel=highest_accel,
        highest_gyro=highest_gyro,
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
        shown_classes=_ends(analysis.classes),
    )


def _examples(
    retrievals: Sequence[Retrieval],
    clips: ClipSet,
    label_of: dict[str, str | None],
    *,
    at_most: int,
) -> list[dict[str, Any]]:
    """Queries as the template shows them, evenly from those that were drawn."""
    if not retrievals or not at_most:
        return []
    ids = [clip.clip_id for clip in clips.clips]
    exchange = retrievals[0].exchange
    num_queries = len(exchange.frame_Q)
    picked = sorted({number * num_queries // at_most for number in range(at_most)})
    examples = []
    for query in picked:
        rows = []
        for item in retrievals:
            num_imus = min(NUM_SHOWN_IMUS, exchange.donor_QM.shape[1])
            for place in range(num_imus if item.uses_imu else 1):
                imu = ids[int(exchange.donor_QM[query, place])]
                found = zip(
                    item.index_QMk[query, place].tolist(),
                    item.similarity_QMk[query, place].tolist(),
                    strict=True,
                )
                rows.append(
                    {
                        "method": item.method,
                        "imu": imu if item.uses_imu else None,
                        "is_own": place == 0,
                        "imu_label": label_of[imu],
                        "found": [
                            {
                                "clip_id": ids[index],
                                "label": label_of[ids[index]],
                                "similarity": similarity,
                            }
                            for index, similarity in found
                            if index != NONE
                        ][:NUM_SHOWN_CLIPS],
                    }
                )
        frame = ids[int(exchange.frame_Q[query])]
        examples.append({"clip_id": frame, "label": label_of[frame], "rows": rows})
    return examples


def _drawn(picture: ClipPicture, highest_accel: float, highest_gyro: float) -> dict[str, Any]:
    return {
        "frames": picture.frames,
        "accel": plot_points(picture.accel_W, highest=highest_accel),
        "gyro": plot_points(picture.gyro_W, highest=highest_gyro),
    }


def _highest(magnitude_W: Any) -> float:
    return float(magnitude_W.max()) if len(magnitude_W) else 0.0


def _ends(classes: tuple[ClassGain, ...]) -> tuple[ClassGain | None, ...]:
    """All of them, or the best and the worst with None between."""
    if len(classes) <= 2 * NUM_SHOWN_CLASSES:
        return classes
    return (*classes[:NUM_SHOWN_CLASSES], None, *classes[-NUM_SHOWN_CLASSES:])
