"""What the pipeline did and holds, as records and as lines for people. Imports no torch."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from egoctl.pipeline.outcomes import OUTCOME_STREAMS, reason_column
from egoctl.pipeline.receipt import IMU_NONE, OK
from egoctl.pipeline.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One code's failed clips: how many, and an example for people."""

    code: str
    count: int
    example_clip: str
    example_reason: str


@dataclass(kw_only=True)
class ExtractReport:
    """What a run did; filled while it goes."""

    num_clips: int
    """Clips of the manifest."""
    num_done_before: int
    num_foreign_parts: int
    """Unfinished parts of another manifest, left as they are."""
    num_padded: int
    num_read: int = 0
    num_parts: int = 0
    batch_size: int | None = None
    failures: list[Failure] = field(default_factory=list)
    """Of every clip of the manifest, whichever run stored it."""
    frames_decoded: int = 0
    frames_spanned: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """wall; read (in its own thread); teacher, write and wait add up to about wall."""

    @property
    def num_failed(self) -> int:
        return sum(failure.count for failure in self.failures)


def extract_lines(report: ExtractReport) -> Iterable[str]:
    """What an extraction did, where its time went, and every kind of failure."""
    seconds = report.seconds
    if report.num_read:
        rate = report.num_read / max(seconds["wall"], 1e-9)
        yield (
            f"{report.num_read} clips in {report.num_parts} parts, {seconds['wall']:.1f} s, "
            f"{rate:.2f} clips/s. Teacher {seconds['teacher']:.1f} s, waiting for frames "
            f"{seconds['wait']:.1f} s, writing {seconds['write']:.1f} s; reading took "
            f"{seconds['read']:.1f} s at the same time."
        )
        if report.frames_spanned:
            yield (
                f"{report.frames_decoded} frames decoded for {report.frames_spanned} that the "
                f"clips span ({report.frames_decoded / report.frames_spanned:.3f})."
            )
    if report.num_done_before:
        yield f"{report.num_done_before} of {report.num_clips} clips were stored already."
    if report.num_padded:
        yield f"{report.num_padded} clips are shorter than the window: edge frames were held."
    if report.num_foreign_parts:
        yield (
            f"{report.num_foreign_parts} unfinished parts belong to another manifest; "
            "they were left as they are."
        )
    if not report.failures:
        yield f"All {report.num_clips} clips of the manifest are stored."
        return
    yield f"{report.num_failed} failures among {report.num_clips} clips:"
    for failure in report.failures:
        yield (
            f"  {failure.code}: {failure.count}, such as {failure.example_clip}: "
            f"{failure.example_reason}"
        )
    yield "The other clips are stored. 'egoctl store info' lists every failure with --json."


def store_info(store: FeatureStore) -> dict[str, object]:
    """What a store is and how full it is, ready for JSON."""
    rows = store.rows()
    streams = [name for name in OUTCOME_STREAMS if name in rows.columns]
    failed = [
        {"clip_id": row["clip_id"], "code": row[stream], "reason": row[reason_column(stream)]}
        for stream in streams
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
        "outcomes": {
            stream: dict(Counter(code or "not done" for code in rows[stream])) for stream in streams
        },
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
    for name, (shape, dtype) in store.array_specs().items():
        yield f"array {name}: {'x'.join(map(str, shape))} {dtype}"
    parts, left = len(store.parts()), len(store.parts_to_do())
    yield f"{parts - left} of {parts} parts of {header.part_rows} rows are done."
    for stream in OUTCOME_STREAMS:
        if stream in rows.columns:
            counts = Counter(code or "not done" for code in rows[stream])
            listed = ", ".join(f"{code} {count}" for code, count in counts.most_common())
            yield f"{stream} of {len(rows)} rows: {listed}"
