"""Batches through the teacher: their order, their size where memory ends, the check of modes."""

# B batch, C channels, T frames, H height, W width, D feature width, N clips

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherTargets
from egoctl.pipeline.teachers import batches as teacher_batches
from egoctl.pipeline.teachers.batches import Agreement, TeacherBatches, agreement
from egoctl.pipeline.teachers.protocol import targets
from egoctl.tests.worlds.extract_world import FEATURE_DIM, MeanTeacher

CPU = torch.device("cpu")
Frames = NDArray[np.uint8]


def clips(count: int, *, first: int = 0) -> list[Frames]:
    """Clips that differ in all frames; MeanTeacher wants four of 40 x 40 pixels."""
    return [
        np.random.default_rng(first + number).integers(0, 255, (4, 40, 40, 3), dtype=np.uint8)
        for number in range(count)
    ]


def batches_of(teacher: MeanTeacher, *, batch_size: int = 2, **more: object) -> TeacherBatches:
    settings = {"device": CPU, "precision": "fp32", **more}
    return TeacherBatches(teacher, batch_size=batch_size, **settings)  # type: ignore[arg-type]


def computed(batches: TeacherBatches, frames: Sequence[Frames]) -> NDArray[np.floating]:
    """(N, D): the features of one batch, delivered."""
    found: list[TeacherTargets] = []
    batches.submit(frames, found.append)
    batches.finish()
    (only,) = found
    return only.feature_ND


def wanted(frames: Sequence[Frames]) -> NDArray[np.floating]:
    """(N, D): each clip by itself."""
    one_by_one = [targets(MeanTeacher(), torch.from_numpy(clip[None])) for clip in frames]
    return np.concatenate([found.feature_ND for found in one_by_one])


# --- order ---


def test_without_flights_a_batch_is_delivered_when_submit_returns() -> None:
    frames = clips(2)

    np.testing.assert_allclose(computed(batches_of(MeanTeacher()), frames), wanted(frames))


def test_with_one_in_flight_a_batch_is_delivered_once_the_next_is_launched() -> None:
    said: list[str] = []
    batches = batches_of(MeanTeacher(), num_in_flight=1)

    def told(what: str) -> Callable[[object], None]:
        return lambda found: said.append(what)

    batches.submit(clips(2), told("first"))
    assert said == []
    batches.then(lambda: said.append("the part of first is written"))
    batches.submit(clips(1, first=2), told("second"))
    assert said == ["first", "the part of first is written"]
    batches.finish()
    assert said == ["first", "the part of first is written", "second"]
    batches.then(lambda: said.append("nothing is in flight"))
    assert said[-1] == "nothing is in flight"


def test_frames_in_flight_are_not_overwritten_by_those_of_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: list[int] = []
    compute = teacher_batches.network_output

    def recorded(teacher: MeanTeacher, frames_BTHW3: Tensor, **more: object) -> object:
        places.append(frames_BTHW3.data_ptr())
        return compute(teacher, frames_BTHW3, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_batches, "network_output", recorded)
    for num_in_flight in (0, 1):
        batches = batches_of(MeanTeacher(), num_in_flight=num_in_flight)
        for _ in range(4):
            batches.submit(clips(2), lambda found: None)

    first, second = places[4], places[5]
    assert first != second
    assert places[4:] == [first, second, first, second]
    assert len(set(places[:4])) == 1  # nothing is in flight: one buffer is enough


# --- memory ---


class SmallDevice(MeanTeacher):
    """Has room for so many clips at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        self.sizes.append(len(video_BCTHW))
        if len(video_BCTHW) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().feature(video_BCTHW)


@pytest.mark.parametrize("num_in_flight", [0, 1])
def test_a_batch_that_does_not_fit_is_halved_and_so_are_all_later_ones(num_in_flight: int) -> None:
    teacher = SmallDevice(room=2)
    batches = batches_of(teacher, batch_size=7, num_in_flight=num_in_flight)
    frames = clips(7)

    np.testing.assert_allclose(computed(batches, frames), wanted(frames))

    assert (batches.batch_size, batches.num_halvings) == (1, 2)
    assert teacher.sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(computed(batches, frames[:2]), wanted(frames[:2]))
    assert teacher.sizes[9:] == [1, 1]


def test_one_clip_that_does_not_fit_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(EgoctlError, match="one clip of teacher means does not fit.*--device cpu"):
        batches_of(SmallDevice(room=0)).submit(clips(2), lambda found: None)


def test_memory_is_told_by_its_words_where_the_device_has_no_type_for_it() -> None:
    class Mps(SmallDevice):
        def feature(self, video_BCTHW: Tensor) -> Tensor:
            if len(video_BCTHW) > 1:
                raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
            return super().feature(video_BCTHW)

    frames = clips(2)
    np.testing.assert_allclose(computed(batches_of(Mps(room=2)), frames), wanted(frames))


def test_every_other_error_of_the_network_comes_out_as_it_is() -> None:
    class Broken(MeanTeacher):
        def feature(self, video_BCTHW: Tensor) -> Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        batches_of(Broken()).submit(clips(2), lambda found: None)


# --- the check of faster modes ---


class LinearTeacher(MeanTeacher):
    """Its feature goes through a matrix product, which autocast computes in bf16.

    The product is the identity on feature + offset. bf16 keeps 8 bits, so with an offset of 30
    the feature comes back in steps of an eighth.
    """

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        feature_BD = super().feature(video_BCTHW) + self.offset
        return (feature_BD @ torch.eye(FEATURE_DIM)).float() - self.offset


def test_plain_float32_is_computed_once_and_not_compared() -> None:
    teacher = MeanTeacher()
    batches = batches_of(teacher)

    computed(batches, clips(2))

    assert (teacher.num_clips_seen, batches.agreement) == (2, None)


def test_bf16_that_agrees_with_float32_goes_on_and_is_compared_once() -> None:
    teacher = LinearTeacher(offset=0.0)
    batches = batches_of(teacher, precision="bf16")

    computed(batches, clips(2))
    computed(batches, clips(2, first=2))

    assert teacher.num_clips_seen == 2 * 2 + 2
    assert batches.agreement is not None
    assert 0.9999 < batches.agreement.cosine < 1
    assert (batches.agreement.num_clips, batches.agreement.num_same_class) == (2, 2)


def test_bf16_that_differs_from_float32_is_refused_before_anything_is_delivered() -> None:
    batches = batches_of(LinearTeacher(offset=30.0), precision="bf16")
    found: list[TeacherTargets] = []

    with pytest.raises(
        EgoctlError,
        match="in bf16, features of teacher means agree .* a cosine of 0.[0-9]{6}; 0.9999 is.*"
        "--precision fp32.*--force-precision",
    ):
        batches.submit(clips(2), found.append)

    assert found == []


def test_bf16_that_differs_is_taken_where_it_is_forced_and_the_cosine_is_kept() -> None:
    batches = batches_of(LinearTeacher(offset=30.0), precision="bf16", is_forced=True)

    assert len(computed(batches, clips(2))) == 2

    assert batches.agreement is not None
    assert batches.agreement.cosine < 0.9999


def test_a_batch_without_one_finite_feature_leaves_the_check_to_the_next() -> None:
    class FirstIsBroken(LinearTeacher):
        def feature(self, video_BCTHW: Tensor) -> Tensor:
            is_first = self.num_clips_seen < 4  # in bf16 and in float32
            feature_BD = super().feature(video_BCTHW)
            return feature_BD * torch.nan if is_first else feature_BD

    batches = batches_of(FirstIsBroken(offset=0.0), precision="bf16")

    assert np.isnan(computed(batches, clips(2))).all()
    assert batches.agreement is None
    computed(batches, clips(2, first=2))
    assert batches.agreement is not None


def target(*feature: float, best: int = 0) -> tuple[list[float], list[float]]:
    return list(feature), [1.0 if number == best else 0.0 for number in range(3)]


def stacked(*of_clips: tuple[list[float], list[float]]) -> TeacherTargets:
    features, logits = zip(*of_clips, strict=True)
    return TeacherTargets(
        feature_ND=np.array(features, np.float32), logits_NC=np.array(logits, np.float32)
    )


def test_the_worst_clip_tells_the_agreement() -> None:
    found = stacked(target(1, 0), target(3, 4, best=2), target(0, 0))

    same = stacked(target(2, 0), target(6, 8, best=1), target(0, 0))
    assert agreement(found, same) == Agreement(cosine=1.0, num_clips=3, num_same_class=2)
    turned = stacked(target(1, 0), target(4, 3, best=2), target(0, 0))
    assert agreement(found, turned) == Agreement(cosine=24 / 25, num_clips=3, num_same_class=3)


@pytest.mark.parametrize("found", [target(np.nan, 1), target(np.inf, 1), target(0, 0)])
def test_no_number_or_nothing_where_float32_has_a_feature_is_no_agreement(
    found: tuple[list[float], list[float]],
) -> None:
    assert agreement(stacked(found), stacked(target(0, 1))).cosine == -1


def test_clips_without_a_finite_feature_in_float32_are_left_out() -> None:
    found = stacked(target(np.nan, 1), target(1, 0))

    assert agreement(found, stacked(target(np.nan, 2), target(1, 0))) == Agreement(
        cosine=1.0, num_clips=1, num_same_class=1
    )


# --- torch.compile ---


def test_a_compiled_network_sees_one_size_of_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compile_(feature: Callable[[Tensor], Tensor], *, dynamic: bool) -> object:
        assert not dynamic

        def compiled(video_BCTHW: Tensor) -> Tensor:
            sizes.append(len(video_BCTHW))
            return feature(video_BCTHW)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    batches = batches_of(MeanTeacher(), batch_size=4, is_compiled=True)

    for frames in (clips(4), clips(1, first=4), clips(3, first=5)):
        np.testing.assert_allclose(computed(batches, frames), wanted(frames))

    assert sizes == [4, 4, 4]
    assert batches.agreement is not None  # compared as bf16 is


def test_a_network_that_cannot_be_compiled_ends_the_run_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoCompilerError(RuntimeError):
        __module__ = "torch._inductor.exc"

    def compile_(feature: object, *, dynamic: bool) -> object:
        def compiled(video_BCTHW: Tensor) -> Tensor:
            raise NoCompilerError("Failed to find C++ compiler.\nSet TORCHDYNAMO_VERBOSE=1 ...")

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)

    with pytest.raises(EgoctlError, match=r"here \(Failed to find C\+\+ compiler.\). Leave out"):
        batches_of(MeanTeacher(), is_compiled=True).submit(clips(2), lambda found: None)
