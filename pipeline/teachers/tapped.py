"""A library's classifier, cut in two at its last layer: feature before, logits after."""

# B batch, C channels or classes, T frames, H height, W width, D feature width

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import DefaultWeights, StateDict
from egoctl.pipeline.teachers.weights import Rename, WeightsInfo, net_with_weights

Pack = Callable[[Tensor], Tensor | list[Tensor]]
"""From (B, C, T, H, W) to what the network's forward takes."""


class TappedTeacher:
    """A Teacher from a network whose last layer, spec.tap, is linear in the feature.

    An Identity takes that layer's place, so the network's output becomes the layer's input.
    Where a network averages over positions after the layer, it now averages the features,
    and a linear layer gives the same logits either way.
    """

    def __init__(
        self, spec: TeacherSpec, weights: WeightsInfo, net: nn.Module, *, pack: Pack | None = None
    ) -> None:
        projection = net.get_submodule(spec.tap)
        # S3D's is a 1x1x1 convolution: the same matrix with three more axes.
        assert isinstance(projection, nn.Linear | nn.Conv3d)
        assert projection.weight[0].numel() == spec.feature_dim
        net.set_submodule(spec.tap, nn.Identity())
        self.spec = spec
        self.weights = weights
        self.body = net.eval().requires_grad_(False)
        self.head = projection.eval().requires_grad_(False)
        self._pack = pack

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D): the input of the last layer, averaged over positions where it has several."""
        packed = video_BCTHW if self._pack is None else self._pack(video_BCTHW)
        feature_BD = self.body(packed)
        assert isinstance(feature_BD, Tensor)
        assert feature_BD.shape == (len(video_BCTHW), self.spec.feature_dim)
        return feature_BD

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, C), without a softmax."""
        return F.linear(feature_BD, self.head.weight.flatten(1), self.head.bias)

    def state(self) -> StateDict:
        """All weights, named as the library names them."""
        of_head = {f"{self.spec.tap}.{key}": value for key, value in self.head.state_dict().items()}
        return self.body.state_dict() | of_head


def load_tapped(
    spec: TeacherSpec,
    *,
    weights: str,
    device: torch.device,
    build: Callable[[int], nn.Module],
    default: DefaultWeights,
    pack: Pack | None = None,
    rename: Rename | None = None,
) -> TappedTeacher:
    """The teacher of spec on the device; its classes are those of the weights.

    Raises:
        EgoctlError: if the weights cannot be had or do not fit.
    """
    net, info = net_with_weights(
        spec.name,
        weights,
        build=build,
        head_key=f"{spec.tap}.weight",
        num_classes=spec.num_classes,
        default=default,
        rename=rename,
    )
    projection = net.get_submodule(spec.tap)
    assert isinstance(projection, nn.Linear | nn.Conv3d)
    spec = replace(spec, num_classes=len(projection.weight))
    return TappedTeacher(spec, info, net.to(device), pack=pack)
