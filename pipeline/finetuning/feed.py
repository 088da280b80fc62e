"""Clips of a fine-tuning step: read from videos again every epoch, or kept in memory."""

# B batch, T frames, H height, W width, 3 channels RGB

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from egoctl.pipeline.finetuning.clips import (
    Example,
    Frames,
    Wish,
    centred,
    chunks,
    drawn,
    read_steps,
    whole,
)
from egoctl.pipeline.finetuning.config import FinetuneConfig
from egoctl.pipeline.finetuning.draws import Draw, draw_of
from egoctl.pipeline.finetuning.trainee import Fit, Item
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.reading.clip_job import TeacherView
from egoctl.pipeline.records import RowOutcome

CLIPS_AT_ONCE = 4
"""Batch size of the part that is computed once."""
MAX_RUNS = 2
"""Frames of a segment that a stem is kept of, in multiples of what the network sees at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepClips:
    """Clips of a step that one process could read."""

    items: Sequence[Item]
    labels: Sequence[int]
    weight: float = 0.0
    """Weight of each clip's loss in what is minimised; 0: these clips count nothing."""


class Unread:
    """The segments that could not be read, each with its first reason."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.reasons = dict(known)

    def add(self, example: Example, outcome: RowOutcome) -> None:
        reason = f"{outcome.code}: {outcome.reason}"
        self.reasons.setdefault(example.segment.segment_id, reason)


class Feed(Protocol):
    """A source of one process's clips."""

    def train(self, epoch: int, steps: Sequence[Sequence[int]]) -> Iterator[StepClips]:
        """The clips of these steps; a step is the numbers of its examples."""
        ...

    def held_out(self) -> Iterator[StepClips]:
        """The held-out clips, as extraction would see them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedPlan:
    """Segments to learn from and to be judged by, and how their clips are cut."""

    config: FinetuneConfig
    view: TeacherView
    window_s: float
    sides_px: tuple[int, int]
    train: Sequence[Example]
    held_out: Sequence[Example]
    """This process's part of the held-out segments."""

    def draw(self, epoch: int, number: int) -> Draw:
        """How example `number` looks in an epoch."""
        return draw_of(
            self.config.augment,
            self.sides_px,
            seed=self.config.seed,
            epoch=epoch,
            clip_id=self.train[number].segment.segment_id,
        )

    def centred(self, example: Example) -> Wish:
        """The clip that extraction would see of the segment."""
        return centred(example, self.view, window_s=self.window_s)


class FrameFeed:
    """Decodes every clip again in every epoch, each time another window and crop of it."""

    def __init__(self, plan: FeedPlan, unread: Unread) -> None:
        self._plan = plan
        self._unread = unread

    def train(self, epoch: int, steps: Sequence[Sequence[int]]) -> Iterator[StepClips]:
        plan = self._plan
        wishes = ([self._drawn(epoch, number) for number in step] for step in steps)
        read = read_steps(wishes, workers=plan.config.workers)
        for step, found in zip(steps, read, strict=True):
            yield self._read([plan.train[number] for number in step], found)

    def held_out(self) -> Iterator[StepClips]:
        plan, size = self._plan, self._plan.config.pass_size
        steps = chunks(plan.held_out, size)
        wishes = ([plan.centred(example) for example in step] for step in steps)
        read = read_steps(wishes, workers=plan.config.workers)
        for examples, found in zip(steps, read, strict=True):
            yield self._read(examples, found)

    def _drawn(self, epoch: int, number: int) -> Wish:
        plan = self._plan
        return drawn(
            plan.train[number],
            plan.view,
            window_s=plan.window_s,
            draw=plan.draw(epoch, number),
            random_crop=plan.config.augment.random_crop,
        )

    def _read(self, examples: Sequence[Example], found: Sequence[Frames | RowOutcome]) -> StepClips:
        items: list[Item] = []
        labels = []
        for example, frames in zip(examples, found, strict=True):
            if isinstance(frames, RowOutcome):
                self._unread.add(example, frames)
            else:
                items.append((torch.from_numpy(frames),))
                labels.append(example.label)
        return StepClips(items=items, labels=labels)


class CachedFeed:
    """Decodes every clip once, and keeps what the frozen part of the network makes of it."""

    def __init__(
        self,
        plan: FeedPlan,
        fit: Fit,
        unread: Unread,
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._plan, self._fit, self._unread, self._device = plan, fit, unread, device
        train = [plan.centred(example) for example in plan.train]
        if fit.sees_runs:
            view = _long_view(plan)
            train = [whole(example, view) for example in plan.train]
        held_out = [plan.centred(example) for example in plan.held_out]
        with torch.no_grad(), autocast():
            self._train = self._computed(train, plan.train)
            self._held_out = self._computed(held_out, plan.held_out)

    def train(self, epoch: int, steps: Sequence[Sequence[int]]) -> Iterator[StepClips]:
        for step in steps:
            found = [(number, self._train[number]) for number in step]
            yield StepClips(
                items=[
                    self._fit.vary(item, self._plan.draw(epoch, number))
                    for number, item in found
                    if item is not None
                ],
                labels=[self._plan.train[number].label for number, item in found if item],
            )

    def held_out(self) -> Iterator[StepClips]:
        found = [
            (item, example.label)
            for item, example in zip(self._held_out, self._plan.held_out, strict=True)
            if item is not None
        ]
        for piece in chunks(found, self._plan.config.pass_size):
            yield StepClips(items=[item for item, _ in piece], labels=[label for _, label in piece])

    def _computed(self, wishes: Sequence[Wish], examples: Sequence[Example]) -> list[Item | None]:
        """Output of the front for every wish; None: it could not be read."""
        assert self._fit.front is not None
        items: list[Item | None] = []
        read = read_steps(chunks(wishes, CLIPS_AT_ONCE), workers=self._plan.config.workers)
        with Progress(len(wishes), title="the frozen part, once", unit="clip") as progress:
            for piece, found in zip(chunks(examples, CLIPS_AT_ONCE), read, strict=True):
                frames = [one for one in found if not isinstance(one, RowOutcome)]
                made: Iterator[Item] = iter(())
                if frames:
                    parts = self._fit.front(torch.from_numpy(np.stack(frames)).to(self._device))
                    made = zip(*(part.cpu().unbind() for part in parts), strict=True)
                for example, one in zip(piece, found, strict=True):
                    if isinstance(one, RowOutcome):
                        self._unread.add(example, one)
                        items.append(None)
                    else:
                        items.append(next(made))
                progress.advance(len(piece))
        return items


def _long_view(plan: FeedPlan) -> TeacherView:
    """A view of as many frames as the shortest segment holds, for steps to see runs of them."""
    view = plan.view
    shortest_s = min(one.segment.stop_s - one.segment.start_s for one in plan.train)
    held = int(shortest_s / view.stride_s + 1e-6)
    num_frames = min(max(view.num_frames, held), MAX_RUNS * view.num_frames)
    return TeacherView(num_frames=num_frames, stride_s=view.stride_s, frame=view.frame)
