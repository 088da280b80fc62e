"""A tiny world for tests of fine-tuning: moving colours to tell apart, and a teacher that can.

As a script it is egoctl with this teacher:
python -m egoctl.tests.worlds.finetune_world finetune-teacher MANIFEST --teacher tiny ...
"""

# B batch, C classes, T frames, H height, W width, D feature width

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from egoctl import cli
from egoctl.pipeline.finetuning.config import Augment, FinetuneConfig
from egoctl.pipeline.finetuning.finetune import finetune
from egoctl.pipeline.finetuning.report import FinetuneReport
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment, TeacherSpec
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.teachers.checkpoints import StateDict
from egoctl.pipeline.teachers.protocol import TeacherFacts
from egoctl.pipeline.teachers.weights import WeightsInfo, net_with_weights
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms

CLASSES = ("red", "green", "blue")
WINDOW_S = 0.8


class TinyNet(nn.Module):
    """Two blocks and a classifier, with the parts that fine-tuning must be careful with.

    A plain one has none of those that see a clip's neighbours in the batch, or draw numbers.
    """

    def __init__(self, num_classes: int, *, is_plain: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(num_in, 12, (1, 3, 3), stride=(1, 2, 2)),
                nn.GroupNorm(1, 12) if is_plain else nn.BatchNorm3d(12),
                nn.LeakyReLU(),
                nn.Dropout(0.0 if is_plain else 0.1),
            )
            for num_in in (3, 12)
        )
        self.unused = nn.Linear(2, 2)
        self.classifier = nn.Linear(12, num_classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        for block in self.blocks:
            video_BCTHW = block(video_BCTHW)
        logits_BC: Tensor = self.classifier(video_BCTHW.mean(dim=(2, 3, 4)))
        return logits_BC


class TinyTeacher:
    """A TrainableTeacher of a TinyNet."""

    def __init__(self, net: TinyNet, weights: WeightsInfo) -> None:
        self.spec = tiny_spec("tiny")
        self.weights = weights
        self.head = net.classifier
        net.set_submodule("classifier", nn.Identity())
        self.body: nn.Module = net.eval().requires_grad_(False)
        self.head.requires_grad_(False)

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        feature_BD: Tensor = self.body(video_BCTHW)
        return feature_BD

    def logits(self, feature_BD: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(feature_BD)
        return logits_BC

    def state(self) -> StateDict:
        of_head = {f"classifier.{key}": value for key, value in self.head.state_dict().items()}
        return self.body.state_dict() | of_head


class StemmedTinyTeacher(TinyTeacher):
    """A StemmedTeacher whose stem is the frames themselves."""

    def stem(self, video_BCTHW: Tensor) -> tuple[Tensor, ...]:
        return (video_BCTHW.transpose(1, 2),)

    def feature_from_stem(self, *stem: Tensor) -> Tensor:
        return self.feature(stem[0].transpose(1, 2))

    def mirrored(self, *stem: Tensor) -> tuple[Tensor, ...]:
        return (stem[0].flip(-1),)


def tiny_spec(name: str) -> TeacherSpec:
    return TeacherSpec(
        name=name, num_frames=4, stride_s=0.2, short_side_px=24, crop_px=20, mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5), channel_order="rgb", tap="classifier", feature_dim=12, num_classes=7,
    )  # fmt: skip


def load_tiny(name: str, *, weights: str, device: torch.device) -> TinyTeacher:
    net, info = net_with_weights(
        name,
        weights,
        build=partial(TinyNet, is_plain=name == "tiny_plain"),
        head_key="classifier.weight",
        num_classes=7,
        default=None,
    )
    kind = StemmedTinyTeacher if name == "tiny_stem" else TinyTeacher
    return kind(net.to(device), info)


TINY = lineup.Source(
    names=("tiny", "tiny_plain", "tiny_stem"),
    spec=tiny_spec,
    load=load_tiny,
    facts=lambda name: TeacherFacts(code_licence="", weights_licence="", weights_from=""),
)


def make_manifest(folder: Path, *, num_train: int = 12, num_val: int = 6) -> Manifest:
    """Segments of 1.2 s, whose frames are mostly red, green or blue; written to clips.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    segments = []
    for number in range(num_train + num_val):
        rng = np.random.default_rng(number)
        label = number % 3
        picture = rng.integers(0, 60, (32, 48, 3)).astype(np.uint8)
        picture[..., label] += 180
        name = f"video{number:02d}"
        draw_video(folder / f"{name}.mp4", even_times_ms(36), pictures=[picture] * 36)
        segments.append(
            Segment(
                segment_id=f"segment{number:02d}", video_id=name, video_path=f"{name}.mp4",
                imu_path=None, participant_id="P01", start_s=0.0, stop_s=1.2, label=label,
                split="train" if number < num_train else "val",
            )
        )  # fmt: skip
    manifest = Manifest(
        segments=tuple(segments), class_names=CLASSES, dataset_name="colours", window_s=WINDOW_S,
        stride_s=None, root=folder,
    )  # fmt: skip
    write_manifest(manifest, folder / "clips.parquet")
    return manifest


def config_in(folder: Path, run: str, **changes: Any) -> FinetuneConfig:
    """A small run on the manifest of the folder."""
    settings: dict[str, Any] = {
        "manifest": str(folder / "clips.parquet"), "teacher": "tiny", "weights": "random:0",
        "run": str(folder / run), "num_epochs": 2, "learning_rate": 1e-2, "batch_size": 4,
        "augment": Augment(flip=0.5), "device": "cpu", "workers": 1,
    }  # fmt: skip
    return FinetuneConfig(**(settings | changes))


def fitted(config: FinetuneConfig) -> tuple[FinetuneReport, StateDict]:
    """What finetune reports, and the weights that it wrote."""
    report = finetune(config)
    assert report is not None
    return report, safetensors.torch.load_file(report.weights)


def metrics(config: FinetuneConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, less what no two runs share."""
    lines = (Path(config.run) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "clips_per_s"} for line in lines]


def same_bits(one: StateDict, two: StateDict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def main() -> None:
    """The command line, where the only teachers are the tiny ones."""
    lineup.SOURCES = (TINY,)  # type: ignore[assignment]
    cli.main()


def run_in(words: list[str], out: Path) -> None:
    """`main` in a process that multiprocessing started; what it says goes to the file out."""
    with out.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["egoctl", *words]
        main()


if __name__ == "__main__":
    main()
