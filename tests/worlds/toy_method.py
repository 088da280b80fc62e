"""A method of some forty lines: points of two kinds are told apart, with dropout on the way.

As a script it trains: python -m egoctl.tests.worlds.toy_method RUN STEP; at that step, counted
from 1 over the whole run, it prints a line and waits to be killed.
"""

# B points of a batch

import dataclasses
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import EpochRow, EpochSteps, LoopConfig, Method
from egoctl.pipeline.runs.run_folder import opened_run_folder

CONFIG = LoopConfig(
    num_epochs=3, learning_rate=0.05, weight_decay=0.0, schedule="onecycle", seed=3,
    save_every_steps=1, ema_decay=0.5,
)  # fmt: skip
STEPS = 5
"""Of every epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyRow(EpochRow):
    val_top1: float | None = None


class Toy(Method[Tensor, ToyRow]):
    num_sums = 2
    blown_up = "The toy has blown up."

    def __init__(self, point_N2: Tensor, label_N: Tensor) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Linear(8, 2))
        self.point_N2, self.label_N = point_N2, label_N

    def epoch(self, epoch: int, *, steps_done: int) -> EpochSteps[Tensor]:
        order = torch.randperm(len(self.label_N), generator=torch.Generator().manual_seed(epoch))
        steps = [[batch] for batch in order.chunk(STEPS)]
        return EpochSteps(num_steps=STEPS, steps=steps[steps_done:])

    def loss(self, model: nn.Module, part: Tensor) -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(model(self.point_N2[part]), self.label_N[part])
        return loss, torch.stack([loss.detach() * len(part), loss.new_tensor(len(part))])

    def metrics(self, epoch: int, rate: float, sums: Sequence[float], seconds: float) -> ToyRow:
        return ToyRow(epoch=epoch, learning_rate=rate, loss=sums[0] / sums[1])

    def validated(self, row: ToyRow) -> ToyRow:
        is_right = self.module.eval()(self.point_N2).argmax(dim=1) == self.label_N
        return dataclasses.replace(row, val_top1=float(is_right.float().mean()))

    def line(self, row: ToyRow) -> str:
        return f"loss {row.loss:.4f}"


def points() -> tuple[Tensor, Tensor]:
    """Forty points: those whose coordinates add up to more than 0 are of kind 1."""
    point_N2 = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    return point_N2, (point_N2.sum(dim=1) > 0).long()


def train_toy(run: Path, config: LoopConfig = CONFIG) -> EpochLoop[Tensor, ToyRow]:
    """The loop, when all is done."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    with opened_run_folder(str(run), is_writer=True) as folder:
        folder.claim({"toy": dataclasses.asdict(config)}, may_differ=frozenset())
        loop = EpochLoop(fabric, folder, config, Toy(*points()))
        loop.run()
    return loop


def main() -> None:
    real, taken = Toy.loss, []

    def loss(self: Toy, model: nn.Module, part: Tensor) -> tuple[Tensor, Tensor]:
        taken.append(1)
        if len(taken) == int(sys.argv[2]):
            print("waiting", flush=True)
            signal.pause()
        return real(self, model, part)

    Toy.loss = loss  # type: ignore[method-assign]
    torch.set_num_threads(1)
    train_toy(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
