"""A trained run on one split, for analyses that need more of it than evaluation does."""

# N clips, S segments, P pairs of a frame and an IMU window, p pairs at a time
# F frames, I image feature width, D feature width, C classes

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.run_place import RunPlace
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.frames import rows_on
from egoctl.student.clips.image_features import features_for
from egoctl.student.evaluation.evaluate import student_of
from egoctl.student.evaluation.predict import BATCH, predict
from egoctl.student.model.student import Student
from egoctl.student.runs.run_data import Places, open_run_data
from egoctl.student.runs.run_record import read_run


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysedRun:
    """A student and its predictions; image features are kept, so that more can be computed."""

    url: str
    class_names: tuple[str, ...]
    learns_from: str | None
    """Fingerprint of the teacher store with the features it was trained to match, if any."""
    inputs: FeatureStore
    student: Student
    device: torch.device
    clips: ClipSet
    """With image features, without JPEGs."""
    feature_ND: Tensor
    """In the teacher's units."""
    probability_NC: Tensor

    @property
    def method(self) -> str:
        return self.student.config.method

    def at(self, index: Tensor) -> "AnalysedRun":
        """The same run with these clips alone, in this order."""
        clips = self.clips
        return dataclasses.replace(
            self,
            clips=dataclasses.replace(
                clips,
                clips=tuple(clips.clips[at] for at in index.tolist()),
                segment_N=clips.segment_N[index],
                label_N=clips.label_N[index],
                has_target_N=clips.has_target_N[index],
                is_common_N=clips.is_common_N[index],
                feature_ND=_rows(clips.feature_ND, index),
                logits_NC=_rows(clips.logits_NC, index),
                imu_NWA=_rows(clips.imu_NWA, index),
                image_feature_NFI=_rows(clips.image_feature_NFI, index),
            ),
            feature_ND=self.feature_ND[index],
            probability_NC=self.probability_NC[index],
        )

    def features_of(self, frame_P: Tensor, imu_P: Tensor) -> Tensor:
        """(P, D) the student's z, in the teacher's units, for frames and IMU of these clips."""
        features = []
        with torch.inference_mode():
            for frame_p, imu_p in zip(
                torch.split(frame_P, BATCH), torch.split(imu_P, BATCH), strict=True
            ):
                output = self.student(
                    image_feature_BNI=rows_on(self.device, self.clips.image_feature_NFI, frame_p),
                    imu_BWA=rows_on(self.device, self.clips.imu_NWA, imu_p),
                )
                features.append(self.student.in_teacher_units(output.feature_BD).float().cpu())
        return torch.cat(features).clone()


def analysed_run(run: RunPlace, split: str, *, places: Places, device: torch.device) -> AnalysedRun:
    """The best checkpoint of the run, with its predictions for every usable clip of the split.

    Raises:
        EgoctlError: if there is no such run or split, or nothing in it can be used.
        StoreMismatchError: if manifest or stores are not those that the run was trained on.
    """
    record = read_run(run)
    keep_freed_memory(device)
    student = student_of(run, record.student).to(device)
    found = open_run_data(run, record, split, places=places)
    clips = found.clips
    image_feature_NFI = None
    if student.image is not None:
        assert clips.jpegs is not None, "a student that sees frames reads them"
        image_feature_NFI = features_for(
            found.config,
            student.image,
            clips.jpegs,
            device=device,
            is_frozen=student.config.freeze_image_encoder,
        )
    # Frames are decoded once; those that pictures show are read from the store again.
    clips = dataclasses.replace(clips, jpegs=None, image_feature_NFI=image_feature_NFI)
    predictions = predict(student, clips, loader=None, imu_NWA=clips.imu_NWA, device=device)
    return AnalysedRun(
        url=run.url,
        class_names=record.class_names,
        learns_from=record.teacher_fingerprint if record.train.effective_loss.beta else None,
        inputs=found.sources.inputs,
        student=student,
        device=device,
        clips=clips,
        feature_ND=predictions.feature_ND,
        probability_NC=predictions.probability_NC,
    )


def in_common(run: AnalysedRun, other: AnalysedRun) -> tuple[AnalysedRun, AnalysedRun]:
    """Both with the clips that both can use, in the run's order.

    Raises:
        EgoctlError: if classes or labels differ, or they share no clip.
    """
    if run.class_names != other.class_names:
        raise EgoctlError(
            f"{run.url} and {other.url} were trained on other classes than each other. "
            "Compare runs of one manifest."
        )
    place_of = {clip.clip_id: index for index, clip in enumerate(other.clips.clips)}
    pairs = [
        (index, place_of[clip.clip_id])
        for index, clip in enumerate(run.clips.clips)
        if clip.clip_id in place_of
    ]
    if not pairs:
        raise EgoctlError(f"{run.url} and {other.url} can use no clip of the split in common.")
    mine, theirs = (torch.tensor(column) for column in zip(*pairs, strict=True))
    if not torch.equal(run.clips.label_N[mine], other.clips.label_N[theirs]):
        raise EgoctlError(
            f"{run.url} and {other.url} were trained from manifests that label the same clips "
            "differently. Give --manifest, which then holds for both."
        )
    return run.at(mine), other.at(theirs)


def _rows(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index]
