"""How EPIC-KITCHENS is divided for training and evaluation: officially, and as by EgoDistill."""

from egoctl.pipeline.datasets.epic.annotations import EpicSegment, is_extension

SPLIT_RULES = ("official", "egodistill", "egodistill-clean")
EGODISTILL_TEST = ("P30", "P35", "P37")
"""EgoDistill (arXiv:2301.02217), experiments: these participants evaluate, the others train."""
TEACHER_TRAIN = "teacher-train"
"""Segments for fine-tuning a teacher alone: of other videos, without IMU."""

_WHO = ", ".join(EGODISTILL_TEST)
WARNINGS = {
    "official": (),
    "egodistill": (
        f"this evaluation set ({_WHO}) lies inside the official training split, on which the "
        "released EPIC-KITCHENS teachers were trained: a teacher's accuracy here is accuracy on "
        "its own training clips. --split egodistill-clean is for a teacher that never saw them.",
    ),
    "egodistill-clean": (
        f"released EPIC-KITCHENS teachers were trained on this evaluation set ({_WHO}). Fine-tune "
        f"a teacher on the splits train and {TEACHER_TRAIN}, which hold nobody of them, and "
        "extract with that one.",
    ),
}
"""Lines to print wherever numbers on these splits are shown."""


def split_of(segment: EpicSegment, rule: str, *, has_imu: bool) -> str | None:
    """The split a rule puts a segment into; None: it is in none.

    EgoDistill looks at videos with IMU alone, and those with labels are all of the official
    training split. In the clean variant what else that split has of other participants is
    teacher-train; videos without IMU of the three who evaluate are in no split at all.
    """
    if rule == "official":
        return segment.official_split
    if segment.official_split != "train":
        return None
    is_test = segment.participant_id in EGODISTILL_TEST
    if has_imu and is_extension(segment.video_id):
        return "test" if is_test else "train"
    if rule == "egodistill-clean" and not is_test:
        return TEACHER_TRAIN
    return None
