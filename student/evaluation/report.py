"""Results of an evaluation as lines for people."""

from collections.abc import Iterator, Mapping

from egoctl.pipeline.text_table import text_table
from egoctl.student.evaluation.metrics import Metrics


def metrics_lines(metrics: Metrics) -> Iterator[str]:
    """What an evaluation found: accuracy, the teacher beside it, every class."""
    imu = "" if metrics.imu == "own" else f", IMU: {metrics.imu}"
    yield (
        f"{metrics.method} on split {metrics.split!r}{imu}: {metrics.num_scored} of "
        f"{metrics.num_segments} segments scored, {metrics.num_clips} clips."
    )
    yield from left_out_lines("segments", metrics.left_out)
    yield from left_out_lines("clips", metrics.clips_left_out)
    of_teacher = ""
    if metrics.teacher_top1 is not None and metrics.num_teacher_scored != metrics.num_scored:
        of_teacher = f"(teacher: {metrics.num_teacher_scored} segments)"
    top1, top5 = (metrics.top1, metrics.teacher_top1), (metrics.top5, metrics.teacher_top5)
    common = f"({metrics.num_common} segments that every method can score)"
    yield from _table(
        ("", "student", "teacher"),
        ("top-1 (mean over clips)", *map(_share, top1), of_teacher),
        ("top-5", *map(_share, top5), of_teacher),
        ("top-1, centre clip only", _share(metrics.centre_clip_top1)),
    )
    # No teacher's number here: the note follows at once.
    yield from _table(("top-1, common clips", _share(metrics.common_top1), common), align="<><")
    yield from _table(("agreement with teacher", _share(metrics.agreement)))
    if metrics.feature_l1 is not None and metrics.feature_cosine is not None:
        yield (
            f"  feature against the teacher's, {metrics.num_target_clips} clips: "
            f"L1 {metrics.feature_l1:.3f}, cosine {metrics.feature_cosine:.4f}"
        )
    yield from _memory_lines(metrics)
    if metrics.per_class:
        yield from _table(
            ("class", "student", "teacher", "segments"),
            *(
                (c.name[:26], _share(c.top1), _share(c.teacher_top1), str(c.num_segments))
                for c in metrics.per_class
            ),
            align="<>",
        )


def _memory_lines(metrics: Metrics) -> Iterator[str]:
    memory = metrics.teacher_memory
    if memory is None:
        if metrics.num_target_clips:
            yield "  What the teacher was fitted to is unknown: its store does not record it."
        return
    of = f"{memory.num_scored} segments"
    if not memory.num_seen:
        yield f"  The teacher was fitted to none of these {of}, as far as video ids show."
        return
    percent = f"{100 * memory.num_seen / memory.num_scored:.1f} %"
    yield (
        f"  The teacher was fitted to {memory.num_seen} of these {of} ({percent}): its accuracy "
        "there, and what students learn of it, is partly memory."
    )
    seen = (memory.top1_seen, memory.teacher_top1_seen)
    unseen = (memory.top1_unseen, memory.teacher_top1_unseen)
    num_unseen = memory.num_scored - memory.num_seen
    yield from _table(
        ("top-1, seen by teacher", *map(_share, seen), str(memory.num_seen)),
        ("top-1, unseen by teacher", *map(_share, unseen), str(num_unseen)),
        align="<>",
    )


def left_out_lines(what: str, counts: Mapping[str, int]) -> Iterator[str]:
    """How many were left out, by reason; no line if none."""
    if counts:
        listed = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        yield f"Left out, {what}: {listed}."


def _table(*rows: tuple[str, ...], align: str = "<>><") -> list[str]:
    # Printed in pieces, with sentences between them: the columns are as wide everywhere.
    return text_table(rows, align, least=(26, 8, 8, 9), indent=2, gap=1)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
