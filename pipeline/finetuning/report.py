"""Printed lines of a fine-tuning run: before its first step, and when it is done."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from egoctl.pipeline.some_names import some_names
from egoctl.pipeline.teachers.weights import WeightsInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneReport:
    """Summary of a run."""

    run: str
    weights: str
    """The file to pass to extract-teacher."""
    teacher: str
    epochs_done: int
    best_epoch: int
    best_top1: float | None
    """Top-1 on the val split; None without one: the weights are then the last epoch's."""
    num_segments: int
    num_held_out: int
    num_classes: int
    unread: Mapping[str, str]
    """Segments that could not be read, in any epoch, with the reason."""

    @property
    def is_clean(self) -> bool:
        return not self.unread

    def lines(self) -> list[str]:
        """For people."""
        of_val = "" if self.best_top1 is None else f", top-1 {self.best_top1:.3f} of the val split"
        lines = [
            f"{self.weights}: {self.teacher} after epoch {self.best_epoch} of {self.epochs_done}"
            f"{of_val}; fitted to {self.num_segments} segments of {self.num_classes} classes."
        ]
        if self.unread:
            total = self.num_segments + self.num_held_out
            lines.append(
                f"{len(self.unread)} of {total} segments could not be read, always or at times; "
                "their batches went on without them:"
            )
            lines += [f"  {name}: {reason}" for name, reason in sorted(self.unread.items())]
        return lines


def caveats(
    weights: WeightsInfo, class_names: Sequence[str], labels: Collection[int]
) -> Iterator[str]:
    """Warnings about the weights that a run begins with, and the labels that it learns from."""
    if weights.misfits:
        yield f"weights loaded in part: {weights.misfits}"
    if weights.trained_on is None and not weights.is_random:
        yield (
            "the weights do not record what footage they were fitted to before; "
            "those of this run will record this run alone"
        )
    unknown = [name for label, name in enumerate(class_names) if label not in labels]
    if unknown:
        yield (
            f"{len(unknown)} of {len(class_names)} classes have no segment to learn from: "
            f"{some_names(map(repr, unknown))}"
        )
