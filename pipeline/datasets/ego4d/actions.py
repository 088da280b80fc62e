"""Ego4D's Hands + Objects annotations: from fho_main.json to timed actions with a verb.

An action is the span from its pre-frame to its post-frame, as in EgoDistill (arXiv:2301.02217,
supplement). Frames count in the canonical video from 0; here, and nowhere later, they become
seconds.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.datasets.ego4d.files import read_json
from egoctl.pipeline.errors import ManifestError

CANONICAL_FPS = 30.0
"""Rate of every canonical video, by Ego4D's documentation; used if its metadata lack fps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dAction:
    """One usable action of fho_main.json."""

    uid: str
    video_uid: str
    verb: str
    """structured_verb."""
    start_s: float
    """When the pre-frame is shown."""
    stop_s: float
    """When the post-frame leaves the screen."""
    narration: str | None


def read_actions(fho_main: Path) -> tuple[list[Ego4dAction], Counter[str]]:
    """The usable actions in the order of the file, and how many were left out for which reason.

    The file is read whole: it takes five times its size in memory for as long as this runs.

    Raises:
        ManifestError: if it is no fho_main.json.
    """
    actions: list[Ego4dAction] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    content = read_json(fho_main)
    try:
        for video, raw in _narrated(content):
            found = _action(video, raw)
            if isinstance(found, Ego4dAction) and found.uid in seen:
                found = "stands in the file already"
            if isinstance(found, str):
                left_out[found] += 1
            else:
                seen.add(found.uid)
                actions.append(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{fho_main}: wanted videos > annotated_intervals > narrated_actions as in Ego4D's "
            f"fho_main.json ({error!r}). Give that file."
        ) from error
    return actions, left_out


def _narrated(content: Any) -> Iterator[tuple[Any, Any]]:
    for video in content["videos"]:
        for interval in video["annotated_intervals"]:
            for raw in interval["narrated_actions"] or ():
                yield video, raw


def _action(video: Any, raw: Any) -> Ego4dAction | str:
    """The action, or why it is left out."""
    if raw.get("is_rejected"):
        return "rejected by the annotator"
    if raw.get("is_invalid_annotation"):
        return "invalid annotation"
    # Only an explicit no: rejected actions apart, the field is not always filled.
    if raw.get("is_valid_action") is False:
        return "no valid action"
    if not raw.get("structured_verb"):
        return "no structured_verb"
    frames = raw.get("critical_frames") or {}
    pre, post = frames.get("pre_frame"), frames.get("post_frame")
    if pre is None or post is None:
        return "no pre_frame or post_frame"
    metadata = video.get("video_metadata") or {}
    num_frames = metadata.get("num_frames")
    if not 0 <= pre < post:
        return "post_frame not after pre_frame"
    if num_frames is not None and post >= num_frames:
        return "post_frame after the end of the video"
    fps = metadata.get("fps") or CANONICAL_FPS
    uid = video["video_uid"]
    return Ego4dAction(
        uid=raw.get("uid") or f"{uid}:{pre}-{post}",
        video_uid=uid,
        verb=raw["structured_verb"],
        start_s=round(pre / fps, 6),
        stop_s=round((post + 1) / fps, 6),
        narration=raw.get("narration_text"),
    )
