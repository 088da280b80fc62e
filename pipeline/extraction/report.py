"""What an extraction did, as records and as lines for people."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from egoctl.pipeline.teachers.batches import Agreement

_COUNTS = (
    "num_read", "num_parts", "num_lost_parts", "num_reused", "seconds_saved", "frames_decoded",
    "frames_spanned",
)  # fmt: skip
"""What the reports of several processes add up."""
_SHARES = ("setup", "wait", "copy", "teacher", "write")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One code's failed clips: how many, and an example for people."""

    code: str
    count: int
    example_clip: str
    example_reason: str


@dataclass(kw_only=True)
class TeacherReport:
    """What one teacher of a run did, in all processes together."""

    teacher: str
    store: str
    num_parts: int = 0
    """Parts of its store that it computed."""
    batch_size: int | None = None
    """At the end of the run."""
    num_halvings: int = 0
    """How often the device's memory was too small and batches were halved."""
    agreement: Agreement | None = None
    """None: the run was in plain float32, or computed nothing."""
    copy_s: float = 0.0
    teacher_s: float = 0.0

    def add(self, other: "TeacherReport") -> None:
        """Count in what the same teacher did in another process."""
        for name in ("num_parts", "num_halvings", "copy_s", "teacher_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.batch_size = min(filter(None, (self.batch_size, other.batch_size)), default=None)
        self.agreement = self.agreement or other.agreement


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
    """At the end of the run; None where there are several teachers, as is agreement."""
    num_lost_parts: int = 0
    """Computed here, but written by another process: this one had slept past its lease."""
    num_reused: int = 0
    """Targets that were copied from other stores."""
    seconds_saved: float = 0.0
    """What the teacher had taken for these where they were computed."""
    num_halvings: int = 0
    """How often the device's memory was too small and batches were halved."""
    agreement: Agreement | None = None
    """None: the run was in plain float32, or computed nothing."""
    num_decoders: int = 0
    """Threads that read, at the end of the run."""
    teachers: dict[str, TeacherReport] = field(default_factory=dict)
    """By name of the store: teacher, or where there are several, its URL."""
    failures: list[Failure] = field(default_factory=list)
    """Failures among all clips of the manifest, whichever run stored them."""
    frames_decoded: int = 0
    frames_spanned: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*_SHARES, "other", "wall"), 0.0)
    )
    """setup (hashing videos, making stores, finding the batch size), wait (for frames), copy (to
    the device), teacher, write, other: they add up to wall."""
    decoder_seconds: dict[str, float] = field(default_factory=dict)
    """All decoders' threads added up: decode, resize, jpeg, imu; blocked (on a full queue)."""

    def end(self, wall_s: float) -> None:
        """The run took so long in all; what was not measured becomes other."""
        measured_s = sum(self.seconds[name] for name in _SHARES)
        self.seconds |= {"wall": wall_s, "other": max(wall_s - measured_s, 0.0)}

    def add(self, other: "ExtractReport") -> None:
        """Count in what another process did; failures are the stores', and so the same for all."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, theirs in other.teachers.items():
            if name in self.teachers:
                self.teachers[name].add(theirs)
            else:
                self.teachers[name] = replace(theirs)
        self.num_decoders = max(self.num_decoders, other.num_decoders)

    @property
    def num_failed(self) -> int:
        return sum(failure.count for failure in self.failures)


def extract_lines(report: ExtractReport) -> Iterable[str]:
    """What an extraction did, where its time went, and every kind of failure."""
    if report.num_read:
        yield from _speed_lines(report)
    if report.num_done_before:
        yield f"{report.num_done_before} of {report.num_clips} clips were stored already."
    if report.num_padded:
        yield f"{report.num_padded} clips are shorter than the window: edge frames were held."
    if report.num_foreign_parts:
        yield (
            f"{report.num_foreign_parts} unfinished parts belong to another manifest; "
            "they were left as they are."
        )
    if report.num_lost_parts:
        yield (
            f"{report.num_lost_parts} parts were taken over by others, as this process was not "
            "heard of for longer than its lease; theirs are stored."
        )
    if report.num_reused:
        yield (
            f"{report.num_reused} clips' targets were copied from other stores, which saved "
            f"{report.seconds_saved:.1f} s of the teacher's time (as measured there)."
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


def _speed_lines(report: ExtractReport) -> Iterable[str]:
    seconds = report.seconds
    rate = report.num_read / max(seconds["wall"], 1e-9)
    yield (
        f"{report.num_read} clips in {report.num_parts} parts, {seconds['wall']:.1f} s, "
        f"{rate:.2f} clips/s: setup {seconds['setup']:.1f} s, waiting for frames "
        f"{seconds['wait']:.1f} s, copying {seconds['copy']:.1f} s, teacher "
        f"{seconds['teacher']:.1f} s, writing {seconds['write']:.1f} s, other "
        f"{seconds['other']:.1f} s."
    )
    busy = report.decoder_seconds
    yield (
        f"{report.num_decoders} decoders at the same time: decoding {busy['decode']:.1f} s, "
        f"resizing {busy['resize']:.1f} s, JPEG {busy['jpeg']:.1f} s, IMU {busy['imu']:.1f} s, "
        f"held up by a full queue {busy['blocked']:.1f} s."
    )
    yield bottleneck_line(report)
    if report.frames_spanned:
        yield (
            f"{report.frames_decoded} frames decoded for {report.frames_spanned} that the "
            f"clips span ({report.frames_decoded / report.frames_spanned:.3f})."
        )
    if len(report.teachers) > 1:
        for one in report.teachers.values():
            yield (
                f"{one.teacher} into {one.store}: {one.num_parts} parts, copying {one.copy_s:.1f} "
                f"s, teacher {one.teacher_s:.1f} s, batches of {one.batch_size}."
            )
            yield from (f"{one.teacher}: {line}" for line in _mode_lines(one))
    else:
        yield from _mode_lines(report)


def _mode_lines(report: ExtractReport | TeacherReport) -> Iterable[str]:
    """How a teacher's results compare with plain float32, and whether its batches fitted."""
    if report.agreement is not None:
        found = report.agreement
        named = f"; {found.num_same_class} name the same class"
        yield (
            f"Against plain float32, features of the first {found.num_clips} clips have a cosine "
            f"of {found.cosine:.6f} or more{'' if found.num_same_class is None else named}."
        )
    if report.num_halvings:
        yield (
            f"The device ran out of memory: batches were halved to {report.batch_size} clips. "
            f"Pass --batch-size {report.batch_size} next time."
        )


def bottleneck_line(report: ExtractReport) -> str:
    """What took most of the wall time, and what would make it less."""
    seconds = report.seconds
    took_s = {
        "decoding": seconds["wait"],
        "teacher": seconds["teacher"] + seconds["copy"],
        "writing": seconds["write"],
        "setup": seconds["setup"],
    }
    name = max(took_s, key=lambda kind: took_s[kind])
    share = f"{took_s[name] / max(seconds['wall'], 1e-9):.0%} of the wall time"
    match name:
        case "decoding":
            return (
                f"Bottleneck: decoding ({share} was spent waiting for frames). More --decoders, "
                "more cores, or smaller videos (short side 256 to 320 pixels, a keyframe every "
                "second) help."
            )
        case "teacher":
            return (
                f"Bottleneck: the teacher ({share}). A faster GPU, --precision bf16, --compile or "
                "more workers help."
            )
        case "writing":
            return (
                f"Bottleneck: writing ({share}). A store on a faster or nearer disk helps, and "
                "copying it once it is complete."
            )
        case _:
            return (
                f"Bottleneck: setup ({share}: hashing videos, making stores, finding the batch "
                "size). It is done once: the more clips a run has, the less it matters."
            )
