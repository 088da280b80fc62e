"""A student's shape as a record, apart from its networks: options and files are made of it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.setting_checks import refuse_below, refuse_unknown

MethodName = Literal[
    "egodistill", "visonly-distill", "imuonly-distill", "visimu", "visonly", "imuonly"
]
FrameSelection = Literal["uniform", "random", "first", "last", "center"]
ImuReadout = Literal["mean", "last", "flatten"]
ImuLastForm = Literal["exact", "full"]
OWN_ENCODERS = ("resnet18", "efficientnet_lite0")
NAMED_LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method looks at, and whether the teacher takes part in its loss."""

    uses_image: bool
    uses_imu: bool
    distills: bool


METHODS: Mapping[str, Method] = {
    "egodistill": Method(uses_image=True, uses_imu=True, distills=True),
    "visonly-distill": Method(uses_image=True, uses_imu=False, distills=True),
    "imuonly-distill": Method(uses_image=False, uses_imu=True, distills=True),
    "visimu": Method(uses_image=True, uses_imu=True, distills=False),
    "visonly": Method(uses_image=True, uses_imu=False, distills=False),
    "imuonly": Method(uses_image=False, uses_imu=True, distills=False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """A student's shape. Defaults are the paper's, for a MotionFormer of EPIC-Kitchens verbs."""

    method: MethodName = "egodistill"
    """What the student sees and learns from."""
    image_encoder: str = "resnet18"
    """resnet18, efficientnet_lite0, torchvision:NAME or timm:NAME."""
    image_weights: str = "default"
    """default, random or a file.

    The default is trained on ImageNet; a file holds a state_dict."""
    freeze_image_encoder: bool = False
    """Compute its features once.

    Frozen, they are computed once per run and standardised per dimension."""
    num_frames: int = 1
    """Frames the student sees (1 to 4).

    More than one go through a GRU."""
    frame_selection: FrameSelection = "uniform"
    """Which of the K stored frames. uniform, the default: the paper's times; 1 needs odd K,
    2 K = 2, 6, 10, 3 K = 3, 9, 15, 4 K = 4, 12, 20. random: anew every epoch. first, last, center:
    neighbours among them."""
    imu_out: int = 512
    """Width of the IMU encoder's feature."""
    imu_readout: ImuReadout = "mean"
    """mean, last or flatten."""
    imu_last_form: ImuLastForm = "exact"
    """Form of the read-out last in training: exact (fast), or full (BatchNorm sees all steps).

    See ImuEncoder."""
    imu_samples: int = 422
    """Samples of a clip's IMU."""
    fusion_hidden: int = 1024
    """Width of the fusion's inner layer."""
    teacher_dim: int = 768
    """Width of the teacher's feature."""
    num_classes: int = 97
    """Classes of the labels."""

    def __post_init__(self) -> None:
        refuse_unknown("method", self.method, get_args(MethodName))
        refuse_unknown("frame_selection", self.frame_selection, get_args(FrameSelection))
        refuse_unknown("imu_readout", self.imu_readout, get_args(ImuReadout))
        refuse_unknown("imu_last_form", self.imu_last_form, get_args(ImuLastForm))
        check_encoder_name(self.image_encoder)
        for field in dataclasses.fields(self):
            if field.type is int:
                refuse_below(field.name, getattr(self, field.name), least=1)

    @property
    def parts(self) -> Method:
        """What this method looks at."""
        return METHODS[self.method]


def check_encoder_name(name: str) -> None:
    """Raises EgoctlError: if the name is of no known form. Libraries are not asked yet."""
    library, colon, network = name.partition(":")
    if name not in OWN_ENCODERS and not (colon and network and library in NAMED_LIBRARIES):
        raise EgoctlError(
            f"image_encoder {name!r} is not known; choose {', '.join(OWN_ENCODERS)}, "
            "torchvision:NAME or timm:NAME (timm:mobilenetv3_small_100)."
        )
