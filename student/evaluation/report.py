"""Results of an evaluation as lines for people."""

from collections.abc import Iterator, Mapping

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
    yield f"  {'':<26} {'student':>8} {'teacher':>8}"
    of_teacher = ""
    if metrics.teacher_top1 is not None and metrics.num_teacher_scored != metrics.num_scored:
        of_teacher = f" (teacher: {metrics.num_teacher_scored} segments)"
    for name, student, teacher in (
        ("top-1 (mean over clips)", metrics.top1, metrics.teacher_top1),
        ("top-5", metrics.top5, metrics.teacher_top5),
    ):
        yield f"  {name:<26} {_share(student)} {_share(teacher)}{of_teacher}"
    yield f"  {'top-1, centre clip only':<26} {_share(metrics.centre_clip_top1)}"
    yield (
        f"  {'top-1, common clips':<26} {_share(metrics.common_top1)} "
        f"({metrics.num_common} segments that every method can score)"
    )
    yield f"  {'agreement with teacher':<26} {_share(metrics.agreement)}"
    if metrics.feature_l1 is not None and metrics.feature_cosine is not None:
        yield (
            f"  feature against the teacher's, {metrics.num_target_clips} clips: "
            f"L1 {metrics.feature_l1:.3f}, cosine {metrics.feature_cosine:.4f}"
        )
    yield from _memory_lines(metrics)
    if metrics.per_class:
        yield f"  {'class':<26} {'student':>8} {'teacher':>8} {'segments':>9}"
    for row in metrics.per_class:
        yield (
            f"  {row.name[:26]:<26} {_share(row.top1)} {_share(row.teacher_top1)} "
            f"{row.num_segments:>9}"
        )


def _memory_lines(metrics: Metrics) -> Iterator[str]:
    memory = metrics.teacher_memory
    if memory is None:
        if metrics.num_target_clips:
            yield "  What the teacher was fitted to is unknown: its store does not tell."
        return
    of = f"{memory.num_scored} segments"
    if not memory.num_seen:
        yield f"  The teacher was fitted to none of these {of}, as far as video ids tell."
        return
    percent = f"{100 * memory.num_seen / memory.num_scored:.1f} %"
    yield (
        f"  The teacher was fitted to {memory.num_seen} of these {of} ({percent}): its accuracy "
        "there, and what students learn of it, is partly memory."
    )
    for name, num, student, teacher in (
        ("seen", memory.num_seen, memory.top1_seen, memory.teacher_top1_seen),
        (
            "unseen",
            memory.num_scored - memory.num_seen,
            memory.top1_unseen,
            memory.teacher_top1_unseen,
        ),
    ):
        title = f"top-1, {name} by teacher"
        yield f"  {title:<26} {_share(student)} {_share(teacher)} {num:>9}"


def left_out_lines(what: str, counts: Mapping[str, int]) -> Iterator[str]:
    """How many were left out, by reason; no line if none."""
    if counts:
        listed = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        yield f"Left out, {what}: {listed}."


def _share(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.4f}"
