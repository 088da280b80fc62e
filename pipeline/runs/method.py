"""The parts of a training that differ from method to method: batches, loss, metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from egoctl.pipeline.schedule import ScheduleName


def derived_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of its own for every (seed, epoch, process)."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Length of a run, its learning rate, and how often it is saved."""

    num_epochs: int
    learning_rate: float
    weight_decay: float
    schedule: ScheduleName
    seed: int
    save_every_steps: int | None = None
    """Counted over the whole run. A run that is asked to stop saves in any case."""
    early_stopping: int | None = None
    """End after so many epochs in a row without a better score."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then validated; None: no average."""
    compile: bool = False

    @classmethod
    def of(cls, config: object) -> "LoopConfig":
        """Taken from the config's fields of the same names; what it lacks has its default here."""
        names = [one.name for one in fields(cls) if hasattr(config, one.name)]
        return cls(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One line of metrics.jsonl; a method adds its own numbers behind these."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """Rate of the epoch's last step."""
    loss: float


Part = TypeVar("Part")
"""Clips that go through the network at once: all that one process has of a step, or some."""
Row = TypeVar("Row", bound=EpochRow)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochSteps(Generic[Part]):
    """The steps of an epoch for one process."""

    num_steps: int
    """Number in the whole epoch."""
    steps: Iterable[Sequence[Part]]
    """Those still to do, each as its parts, whose gradients add up. A step that has no parts in any
    process changes nothing."""


def shown(value: float | None) -> str:
    """A number for an epoch's line; '-' where there is none."""
    return "-" if value is None else f"{value:.4f}"


class Method(ABC, Generic[Part, Row]):
    """A way of training. Its hooks are called in every process, in the same order.

    Whatever is random must follow from the config's seed and the epoch, or be drawn from torch's
    generators, which are seeded before every epoch and restored within one.
    """

    module: nn.Module
    """What checkpoints hold; its parameters that require gradients are trained."""
    num_sums: int
    """How many numbers `loss` adds up; the first is the loss."""
    blown_up: str
    """End of the message when loss or weights are no longer finite: what happened, what to do."""
    seeds_every_step = False
    """Whether `epoch` seeds torch for every step itself. A run may then go on within an epoch on
    another number of processes."""

    def optimizer(self, config: LoopConfig) -> Optimizer:
        """AdamW on what requires gradients; the loop sets the rate of every step."""
        trained = [weight for weight in self.module.parameters() if weight.requires_grad]
        return AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)

    def begin(self, epochs: range, *, steps_done: int) -> None:
        """Called once before the first of the epochs left, if any; steps_done: of that one."""

    @abstractmethod
    def epoch(self, epoch: int, *, steps_done: int) -> EpochSteps[Part]:
        """The steps of an epoch, but for the first steps_done; torch has just been seeded."""

    @abstractmethod
    def loss(self, model: nn.Module, part: Part) -> tuple[Tensor, Tensor]:
        """What to minimise, and (num_sums,) what the part adds to the epoch's sums.

        model: the module as it is to be called. Gradients are averaged over the processes.
        """

    def step_sums(self, sums: Sequence[Tensor]) -> Tensor:
        """Sum over a step's parts, before the weights move."""
        return torch.stack(list(sums)).sum(dim=0)

    @abstractmethod
    def metrics(self, epoch: int, rate: float, sums: Sequence[float], seconds: float) -> Row:
        """The epoch's line, given its sums over all steps and processes."""

    def validated(self, row: Row) -> Row:
        """The line with what is measured on held-out clips; the first process's counts."""
        return row

    def score(self, row: Mapping[str, Any]) -> float | None:
        """By what epochs are compared, larger is better; None: the last epoch is the best.

        It is top-1 on the val split, unless a method has another number.
        """
        return row.get("val_top1")

    @abstractmethod
    def line(self, row: Row) -> str:
        """The epoch's line for people."""

    def extra(self) -> dict[str, Any]:
        """Values to keep in state.json."""
        return {}

    def take_extra(self, extra: Mapping[str, Any]) -> None:
        """Go on with what `extra` gave."""
