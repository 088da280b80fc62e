"""Which of a teacher's logits are the manifest's classes, and in what order."""

# C classes of the manifest

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from egoctl.pipeline.some_names import some_names
from egoctl.pipeline.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherColumns:
    """The columns, or why there are none."""

    columns_C: tuple[int, ...] | None
    """Numbers of the stored logits, in the order of the manifest's classes. A softmax over them
    alone is how the teacher would choose if it had to name one of these."""
    num_logits: int
    reason: str = ""
    """Why there are none, for a message."""

    @property
    def are_all(self) -> bool:
        """Whether the logits are the manifest's classes just as they are stored."""
        return self.columns_C == tuple(range(self.num_logits))

    def line(self) -> str:
        """Which they are, for a log; neighbours as a range."""
        runs: list[list[int]] = []
        for column in self.columns_C or ():
            if runs and column == runs[-1][1] + 1:
                runs[-1][1] = column
            else:
                runs.append([column, column])
        columns = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
        return (
            f"{len(self.columns_C or ())} of the teacher's {self.num_logits} logits are the "
            f"manifest's classes: columns {columns}"
        )


def columns_in(teacher: FeatureStore, class_names: tuple[str, ...]) -> TeacherColumns:
    """The columns of a store's logits that are these classes."""
    if "logits" not in (specs := teacher.array_specs()):
        return TeacherColumns(columns_C=None, num_logits=0, reason="the teacher has no classes")
    num_logits = specs["logits"][0][1]
    return teacher_columns(
        class_names,
        teacher_names=teacher.header.class_names,
        head_sizes=teacher.header.recipe.get("head_sizes", [num_logits]),
        num_logits=num_logits,
    )


def teacher_columns(
    class_names: tuple[str, ...],
    *,
    teacher_names: tuple[str, ...] | None,
    head_sizes: object,
    num_logits: int,
) -> TeacherColumns:
    """The columns of one head, as logits of two heads do not compete with each other.

    Where the teacher's names are known, the head must have every class once, by its name or by
    one with the head's in front ("verb:cut" is "cut"). Where not, it must be the only head with
    as many classes. head_sizes is as a store has it, which may be a stranger's.
    """

    def none(reason: str) -> TeacherColumns:
        return TeacherColumns(columns_C=None, num_logits=num_logits, reason=reason)

    if not (
        isinstance(head_sizes, list)
        and all(type(size) is int and size > 0 for size in head_sizes)
        and sum(head_sizes) == num_logits
    ):
        return none(f"the teacher's head_sizes do not add up to its {num_logits} logits")
    if teacher_names is not None and len(teacher_names) != num_logits:
        return none(f"the teacher names {len(teacher_names)} classes and has {num_logits} logits")
    if not class_names:
        return none("the manifest has no classes")
    heads = [range(start, stop) for start, stop in pairwise(accumulate(head_sizes, initial=0))]
    if teacher_names is None:
        fitting = [tuple(head) for head in heads if len(head) == len(class_names)]
    else:
        found = (_columns_of(class_names, teacher_names, head) for head in heads)
        fitting = [columns_C for columns_C in found if columns_C is not None]
    if len(fitting) == 1:
        return TeacherColumns(columns_C=fitting[0], num_logits=num_logits)
    if teacher_names is None:
        return none(_why_no_head_has_the_size(len(class_names), head_sizes))
    return none(_why_no_head_has_the_names(class_names, teacher_names, num_fitting=len(fitting)))


def class_difference(
    left_names: Sequence[str], right_names: Sequence[str], *, left: str, right: str
) -> str:
    """How two lists of classes differ, for a message: counts, and at most three names of each."""
    found = []
    if len(left_names) != len(right_names):
        found.append(f"{left} has {len(left_names)} classes, {right} {len(right_names)}")
    for here, there, owner in ((left_names, right_names, left), (right_names, left_names, right)):
        known = set(there)
        if alone := [name for name in here if name not in known]:
            found.append(f"only {owner} has {some_names(map(repr, alone))}")
    return "; ".join(found) or "the same names in another order"


def _columns_of(
    class_names: tuple[str, ...], teacher_names: tuple[str, ...], head: range
) -> tuple[int, ...] | None:
    """Where the head has each class; None unless it has all of them once."""
    if teacher_names[head.start : head.stop] == class_names:
        return tuple(head)
    by_name: dict[str, list[int]] = {}
    by_plain_name: dict[str, list[int]] = {}
    for column in head:
        by_name.setdefault(teacher_names[column], []).append(column)
        by_plain_name.setdefault(_plain(teacher_names[column]), []).append(column)
    found = [by_name.get(name) or by_plain_name.get(name, []) for name in class_names]
    columns_C = tuple(columns[0] for columns in found if len(columns) == 1)
    is_whole = len(columns_C) == len(class_names) == len(set(columns_C))
    return columns_C if is_whole else None


def _plain(name: str) -> str:
    """Without the head's name in front."""
    return name.partition(":")[2] or name


def _why_no_head_has_the_size(num_classes: int, head_sizes: list[int]) -> str:
    counts = " and ".join(map(str, head_sizes))
    if num_classes in head_sizes:
        return (
            f"the teacher has {head_sizes.count(num_classes)} heads of {num_classes} classes "
            f"({counts}) and no names of them, so it cannot be told which is meant"
        )
    return f"the manifest has {num_classes} classes, the teacher {counts}"


def _why_no_head_has_the_names(
    class_names: tuple[str, ...], teacher_names: tuple[str, ...], *, num_fitting: int
) -> str:
    if num_fitting:
        return (
            f"{num_fitting} heads of the teacher have all of these classes; write them with the "
            "head's name in front, as the store does"
        )
    wanted = set(class_names)
    if twice := [name for name, count in Counter(class_names).items() if count > 1]:
        return f"the manifest has {some_names(map(repr, twice))} more than once"
    # The head's name is taken off where that gives one of the manifest's.
    known = [
        name if name in wanted or _plain(name) not in wanted else _plain(name)
        for name in teacher_names
    ]
    if not wanted <= set(known):
        return class_difference(class_names, known, left="the manifest", right="the teacher")
    counts = Counter(known)
    if unclear := [name for name in class_names if counts[name] > 1]:
        return f"the teacher has {some_names(map(repr, unclear))} more than once"
    return "the teacher has these classes in different heads"
