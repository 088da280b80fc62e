"""`egoctl pretrain-imu`: options to a pretraining run."""

from egoctl.pipeline.commands.options import (
    EndpointOption,
    JsonOption,
    ManifestArg,
    as_text,
    echo,
    stoppable,
)
from egoctl.pipeline.commands.record_options import options_of
from egoctl.student.commands.options import StoreOption
from egoctl.student.settings.config_file import TAKEN_FROM_DATA
from egoctl.student.settings.pretrain_config import PretrainConfig

OF_LABELS = ("method", "freeze_image_encoder", "imu_last_form")
"""What of a student plays no part before it learns labels."""


@options_of(
    PretrainConfig,
    asked={"manifest": ManifestArg, "teacher": StoreOption},
    left_out=(*TAKEN_FROM_DATA, *OF_LABELS),
)
def pretrain_imu(
    config: PretrainConfig, endpoint: EndpointOption = None, as_json: JsonOption = False
) -> None:
    """Pretrain a student's IMU encoder and fusion, without labels. No teacher is loaded.

    Writes RUN/pretrained.safetensors for 'train-student --pretrain RUN'. Run it again to go on
    after an interruption; the result is the same.

    Example: egoctl pretrain-imu clips.parquet --store mvit.store --inputs inputs.store
    --run runs/imu --splits train,unlabelled
    """
    from egoctl.student.pretraining.pretrain import pretrain

    with stoppable("Stopped. The last finished epoch is saved; run the same command to go on."):
        result = pretrain(config)
    echo([as_text(result)] if as_json else result.lines())
