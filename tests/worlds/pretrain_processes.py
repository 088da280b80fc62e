"""A script for tests: two epochs of pretraining on NUM processes, the weights written to OUT."""

import sys
from pathlib import Path

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import SGD, Optimizer

from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import LoopConfig
from egoctl.student.model.student import build_student
from egoctl.student.pretraining.net import build_pretrain_net
from egoctl.student.pretraining.pretrain_method import PretrainMethod
from egoctl.student.settings.pretrain_config import PretrainConfig
from egoctl.tests.worlds.pretrain_world import STUDENT, moving_heads, run_folder


class PlainSteps(PretrainMethod):
    """Not AdamW: it would make differences of the order of rounding as large as a step."""

    def optimizer(self, config: LoopConfig) -> Optimizer:
        return SGD(self.module.parameters())


def main(num_processes: int, out: str) -> None:
    config = PretrainConfig(
        manifest="", inputs="", run="", losses="nce", student=STUDENT, batch_size=8,
        learning_rate=0.1, num_epochs=2,
    )  # fmt: skip
    net = build_pretrain_net(build_student(STUDENT, seed=0), uses_nce=True, uses_l1=False, seed=0)
    # BatchNorm sees the clips of one process, dropout draws differ: neither is what is tested.
    for index, layer in enumerate(net.imu.cnn):
        if isinstance(layer, nn.BatchNorm1d | nn.Dropout):
            net.imu.cnn[index] = nn.Identity()
    fabric = Fabric(accelerator="cpu", devices=num_processes)
    fabric.launch()
    folder = run_folder(Path(out).with_suffix(".run"), is_writer=fabric.is_global_zero)
    method = PlainSteps(fabric, config, net, moving_heads(20, seed=0, is_told=True), None)
    last = EpochLoop(fabric, folder, LoopConfig.of(config), method).run()
    if fabric.is_global_zero:
        assert last is not None
        weights = dict(net.state_dict()) | {"loss": torch.tensor(last.loss)}
        safetensors.torch.save_file(weights, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
