"""The loop over epochs and steps of every training, from its last checkpoint on.

A method (see method.py) supplies what is trained, the batches, the loss and the metrics. The loop
seeds torch before every epoch, sets the learning rate of every step, adds up the gradients of a
step's parts, and writes down where it is: after every epoch, within one when asked to. An epoch
ends with its line in metrics.jsonl, then the checkpoint `best` if it is that, then `last`, which is
what a later process believes and goes on from. So a run that was killed and went on ends with the
same weights (on a CPU, bit by bit).
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Generic, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import (
    RunCheckpoint,
    RunState,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from egoctl.pipeline.runs.method import LoopConfig, Method, Part, Row, derived_seed
from egoctl.pipeline.runs.partial_epoch import PartialEpoch
from egoctl.pipeline.runs.run_folder import RunFolder
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.pipeline.runs.stop_request import StopRequest
from egoctl.pipeline.runs.weight_average import WeightAverage
from egoctl.pipeline.schedule import learning_rate

STEPS_BETWEEN_AGREEMENTS = 16
"""Several processes ask each other only this often whether one is to stop: asking waits."""


class EpochLoop(Generic[Part, Row]):
    """A run of a method on this process's device."""

    def __init__(
        self,
        fabric: Fabric,
        folder: RunFolder,
        config: LoopConfig,
        method: Method[Part, Row],
        *,
        older: RunCheckpoint | None = None,
    ) -> None:
        """older: what an earlier version saved in another form; used where there is no `last`.

        Raises:
            EgoctlError: if the last checkpoint is damaged.
        """
        self._fabric, self._folder, self._config, self._method = fabric, folder, config, method
        self._module = method.module
        self._optimizer = method.optimizer(config)
        self.state = RunState()
        self._partial: PartialEpoch | None = None
        self._best_score: float | None = None
        found = find_checkpoint(folder.path / CHECKPOINTS / "last")
        loaded = older
        if found is not None:
            loaded = load_checkpoint(found, where=folder.run.name_of(found))
        if loaded is not None:
            self._module.load_state_dict(loaded.weights)
            self.state, self._partial = loaded.state, loaded.partial
            method.take_extra(loaded.extra)
            folder.say(f"going on after {_place(self.state, self._partial)}")
            if folder.is_writer and self.state.best_epoch:
                self._best_score = method.score(folder.metrics_of(self.state.best_epoch))
        model = self._module
        if config.compile:
            model = cast(nn.Module, torch.compile(model))
        self._model, self._fabric_optimizer = fabric.setup(model, self._optimizer)
        if loaded is not None:
            self._optimizer.load_state_dict(loaded.optimizer)
        self._average: WeightAverage | None = None
        if config.ema_decay is not None:
            self._average = WeightAverage(self._module, decay=config.ema_decay)
            if loaded is not None and loaded.average is not None:
                self._average.load(loaded.average)

    def run(self) -> Row | None:
        """Do what is left; the last epoch's line, None if there was none.

        Raises:
            EgoctlError: if the loss or the weights are no longer finite.
            KeyboardInterrupt: if it was asked to stop; everything done is saved.
        """
        self._folder.start_metrics(self.state.epochs_done)
        epochs = range(self.state.epochs_done + 1, self._config.num_epochs + 1)
        if epochs:
            steps_done = 0 if self._partial is None else self._partial.steps_done
            self._method.begin(epochs, steps_done=steps_done)
        last: Row | None = None
        with StopRequest() as stop:
            for epoch in epochs:
                if self._patience_is_over():
                    self._folder.say(f"stopped early: no better epoch than {self.state.best_epoch}")
                    break
                row = self._validated(self._train_epoch(epoch, stop))
                extra = self._method.extra()
                if self._fabric.is_global_zero:
                    self.state = self._finish_epoch(row, extra)
                # Also keeps the others waiting until the checkpoint is written.
                self.state, last = self._fabric.broadcast((self.state, row))
                if epoch != epochs[-1] and self._is_stop_agreed(stop):
                    raise KeyboardInterrupt
        return last

    def _train_epoch(self, epoch: int, stop: StopRequest) -> Row:
        start_s = time.perf_counter()
        fabric, config, partial = self._fabric, self._config, self._partial
        torch.manual_seed(derived_seed(config.seed, epoch, fabric.global_rank))
        steps_done = 0 if partial is None else partial.steps_done
        plan = self._method.epoch(epoch, steps_done=steps_done)
        self._model.train()
        # Summed on the device, read once an epoch; MPS has no float64.
        dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
        sums = torch.zeros(self._method.num_sums, dtype=dtype)
        if partial is not None:
            sums = self._sums_before(partial)
            start_s -= partial.seconds
            self._partial = None
        sums = sums.to(fabric.device)
        rate = 0.0
        for number, parts in enumerate(plan.steps, start=steps_done + 1):
            past_steps = (epoch - 1) * plan.num_steps + number - 1
            rate = learning_rate(
                config.schedule,
                config.learning_rate,
                step=past_steps,
                steps_per_epoch=plan.num_steps,
                num_epochs=config.num_epochs,
            )
            if parts:
                sums += self._step(parts, rate).to(sums)
            if number == plan.num_steps:
                continue
            every = config.save_every_steps
            is_asked = self._is_stop_agreed(stop, number)
            if is_asked or (every is not None and (past_steps + 1) % every == 0):
                seconds = time.perf_counter() - start_s
                self._save_partial(epoch, number, plan.num_steps, seconds, sums)
            if is_asked:
                raise KeyboardInterrupt
        summed = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(summed, Tensor)
        seconds = time.perf_counter() - start_s
        row = self._method.metrics(epoch, rate, summed.tolist(), seconds)
        self._refuse_not_finite(row.loss, epoch)
        return row

    def _sums_before(self, partial: PartialEpoch) -> Tensor:
        """This process's sums of the steps done; torch then draws what would have come next."""
        rank = self._fabric.global_rank
        if self._method.seeds_every_step:
            return partial.sums_RM.sum(dim=0) * (rank == 0)
        partial.restore_random(self._fabric)
        return partial.sums_RM[rank]

    def _step(self, parts: Sequence[Part], rate: float) -> Tensor:
        """Take a step; what it adds to the sums of the epoch."""
        fabric = self._fabric
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._fabric_optimizer.zero_grad(set_to_none=True)
        found = []
        for number, part in enumerate(parts, start=1):
            is_waiting = fabric.world_size > 1 and number < len(parts)
            with fabric.no_backward_sync(self._model) if is_waiting else nullcontext():
                loss, sums = self._method.loss(self._model, part)
                fabric.backward(loss)
            found.append(sums)
        added = self._method.step_sums(found)
        self._fabric_optimizer.step()
        if self._average is not None:
            self._average.update(self._module)
        return added

    def _refuse_not_finite(self, loss: float, epoch: int) -> None:
        # The weights too: the last step can spoil them after a loss that was still finite.
        # What is frozen cannot have changed.
        is_finite = all(
            bool(weight.isfinite().all())
            for weight in self._module.parameters()
            if weight.requires_grad
        )
        if not math.isfinite(loss) or not is_finite:
            raise EgoctlError(
                f"epoch {epoch}: loss {loss:g}, weights {'finite' if is_finite else 'not finite'}. "
                f"{self._method.blown_up}"
            )

    def _validated(self, row: Row) -> Row:
        average = self._average
        with nullcontext() if average is None else average.put_into(self._module):
            return self._method.validated(row)

    def _finish_epoch(self, row: Row, extra: dict[str, Any]) -> RunState:
        """Write metrics, then checkpoints; `last` comes last, as it is what a resume believes."""
        before, values = self.state, dataclasses.asdict(row)
        score = self._method.score(values)
        if score is None:
            is_best = row.epoch == self._config.num_epochs and self._best_score is None
        else:
            is_best = self._best_score is None or score > self._best_score
        if is_best:
            self._best_score = score
        state = RunState(
            epochs_done=row.epoch,
            best_epoch=row.epoch if is_best else before.best_epoch,
            best_top1=values.get("val_top1") if is_best else before.best_top1,
        )
        self._folder.add_metrics(values)
        for name in ("best", "last") if is_best else ("last",):
            self._save(name, state, extra)
        self._folder.publish()
        self._folder.say(f"epoch {row.epoch}/{self._config.num_epochs}  {self._method.line(row)}")
        return state

    def _save_partial(
        self, epoch: int, steps_done: int, num_steps: int, seconds: float, sums: Tensor
    ) -> None:
        partial = PartialEpoch.gathered(
            self._fabric, epoch=epoch, steps_done=steps_done, seconds=seconds, sums_M=sums
        )
        self._refuse_not_finite(float(partial.sums_RM[:, 0].sum()), epoch)
        extra = self._method.extra()
        if self._fabric.is_global_zero:
            self._save("last", self.state, extra, partial)
            self._folder.publish()
            self._folder.say(f"saved after step {steps_done} of {num_steps} of epoch {epoch}")
        self._fabric.barrier()

    def _save(
        self,
        name: str,
        state: RunState,
        extra: dict[str, Any],
        partial: PartialEpoch | None = None,
    ) -> None:
        average = None
        if self._average is not None:
            average = {key: value.cpu() for key, value in self._average.weights.items()}
        checkpoint = RunCheckpoint(
            weights={key: value.cpu() for key, value in self._module.state_dict().items()},
            optimizer=self._optimizer.state_dict(),
            state=state,
            average=average,
            partial=partial,
            extra=extra,
        )
        save_checkpoint(self._folder.path / CHECKPOINTS / name, checkpoint)

    def _patience_is_over(self) -> bool:
        patience, done = self._config.early_stopping, self.state
        is_judged = patience is not None and done.best_epoch > 0
        return is_judged and done.epochs_done - done.best_epoch >= cast(int, patience)

    def _is_stop_agreed(self, stop: StopRequest, number: int = 0) -> bool:
        """Whether any process is asked to stop; all of them give the same answer."""
        if self._fabric.world_size == 1:
            return stop.is_made
        if number % STEPS_BETWEEN_AGREEMENTS:
            return False
        asked = torch.tensor(float(stop.is_made), device=self._fabric.device)
        found = self._fabric.all_reduce(asked, reduce_op="sum")
        assert isinstance(found, Tensor)
        return bool(found > 0)


def _place(state: RunState, partial: PartialEpoch | None) -> str:
    if partial is None:
        return f"epoch {state.epochs_done}"
    return f"step {partial.steps_done} of epoch {partial.epoch}"
