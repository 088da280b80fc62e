"""What MotionFormer costs, counted: the published figures, and what the exact shortcuts save."""

import pytest
import torch

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.cost import measured_cost
from egoctl.pipeline.teachers.networks.motionformer import MotionFormer, MotionFormerConfig
from egoctl.pipeline.teachers.networks.motionformer_teacher import MotionFormerTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo


def teacher_of(form: str) -> MotionFormerTeacher:
    """The EPIC network with the verb head alone, as the paper counts it; weights as they come."""
    config = MotionFormerConfig(form=form, head_sizes=(97,))  # type: ignore[arg-type]
    spec = TeacherSpec(
        name="motionformer", num_frames=16, stride_s=4 / 30, short_side_px=224, crop_px=224,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channel_order="bgr", tap="pre_logits",
        feature_dim=768, num_classes=97,
    )  # fmt: skip
    weights = WeightsInfo(source="random:0", sha256="", is_random=True, class_names=None)
    return MotionFormerTeacher(spec, weights, MotionFormer(config))


@pytest.mark.parametrize(
    ("form", "gflops"), [("plain", 369.51), ("shortcut", 204.19), ("lean", 189.19)]
)
def test_one_view_costs(form: str, gflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counts do not depend on values, and drawing 109 million of them takes seconds.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)

    found = measured_cost(teacher_of(form))

    assert found.num_parameters == 108_911_713
    assert found.gflops == pytest.approx(gflops, abs=0.005)
