"""What a store holds, as a record and as lines."""

from collections.abc import Iterable

from egoctl.pipeline.records import IMU_NONE, OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.outcomes import outcome_counts, reason_column, streams_in


def store_info(store: FeatureStore) -> dict[str, object]:
    """What a store is and how full it is, ready for JSON."""
    rows = store.rows()
    failed = [
        {"clip_id": row["clip_id"], "code": row[stream], "reason": row[reason_column(stream)]}
        for stream in streams_in(rows)
        for row in rows.iter_rows(named=True)
        if row[stream] not in (None, OK, IMU_NONE)
    ]
    header = store.header.to_dict()
    return {
        "url": store.url,
        **header,
        "arrays": {
            name: {"shape": list(shape), "dtype": dtype}
            for name, (shape, dtype) in store.array_specs().items()
        },
        "num_parts": len(store.parts()),
        "num_parts_left": len(store.parts_to_do()),
        "num_rows": len(rows),
        "outcomes": {stream: dict(counts) for stream, counts in outcome_counts(rows).items()},
        "failed": failed,
    }


def info_lines(store: FeatureStore) -> Iterable[str]:
    """`store_info` for people."""
    header, rows = store.header, store.rows()
    yield f"{store.url}: {header.kind} store, fingerprint {header.fingerprint[:16]}"
    if header.recipe.get("weights_are_random"):
        yield "WARNING: the teacher's weights are RANDOM. These targets mean nothing."
    for name, value in header.recipe.items():
        yield f"  {name}: {value}"
    if header.trained_on is not None:
        yield f"the teacher was {header.trained_on.sentence()}"
    for name, (shape, dtype) in store.array_specs().items():
        yield f"array {name}: {'x'.join(map(str, shape))} {dtype}"
    parts, left = len(store.parts()), len(store.parts_to_do())
    yield f"{parts - left} of {parts} parts of {header.part_rows} rows are done."
    for stream, counts in outcome_counts(rows).items():
        listed = ", ".join(f"{code} {count}" for code, count in counts.most_common())
        yield f"{stream} of {len(rows)} rows: {listed}"
