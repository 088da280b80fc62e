"""Fit a teacher to the labels of a manifest.

Every step's randomness comes from the seed, the epoch and the step, so a run that was killed and
went on ends with the same weights (on a CPU, bit by bit).
"""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric
from tqdm import tqdm

from egoctl.pipeline.devices import fabric_on, pick_device, resolved_precision
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote, local_path
from egoctl.pipeline.finetuning.clips import examples_of, train_examples
from egoctl.pipeline.finetuning.config import FinetuneConfig, learning_rate
from egoctl.pipeline.finetuning.draws import step_seed, steps_of
from egoctl.pipeline.finetuning.feed import CachedFeed, Feed, FeedPlan, FrameFeed, Unread
from egoctl.pipeline.finetuning.report import FinetuneReport, caveats
from egoctl.pipeline.finetuning.run_folder import Checkpoint, FinetuneFolder, RunState, Sums
from egoctl.pipeline.finetuning.steps import Stepper
from egoctl.pipeline.finetuning.trainee import as_trainable, checkpoint_blocks, fit_of, set_classes
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.precision import FABRIC_PRECISION
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.reading.clip_job import teacher_view
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.trained_on import TrainedOn


def finetune(config: FinetuneConfig) -> FinetuneReport | None:
    """Fit, or go on with, the run at config.run; None in processes other than the first.

    Raises:
        EgoctlError: for a manifest, weights, run folder or device that do not fit the config, or
            if the loss is no longer finite.
    """
    precision = resolved_precision(config.precision, pick_device(config.device))
    fabric = fabric_on(
        device=config.device,
        num_devices=config.num_devices,
        precision=FABRIC_PRECISION[precision],
    )
    fabric.launch()
    return _Run(fabric, config, precision).run()


class _Run:
    """The parts of a run, so that its steps need not hand them on one by one."""

    def __init__(self, fabric: Fabric, config: FinetuneConfig, precision: str) -> None:
        self.fabric, self.config = fabric, config
        self.is_first = fabric.is_global_zero
        if is_remote(config.run):
            raise EgoctlError(f"--run {config.run}: give a folder on this machine.")
        self.folder = FinetuneFolder(Path(local_path(config.run)))
        self.manifest = read_manifest(config.manifest)
        self.train = train_examples(self.manifest, config.train_split)
        self.held_out = examples_of(self.manifest, config.val_split)
        self.teacher = as_trainable(
            load_teacher(config.teacher, weights=config.weights, device=fabric.device)
        )
        self.sides_px = config.augment.sides_px(self.teacher.spec.crop_px)
        self.identity = {
            **config.identity(),
            "precision": precision,
            "short_sides_px": self.sides_px,
            "teacher": self.teacher.spec.name,
            "weights_sha256": self.teacher.weights.sha256,
            "manifest_fingerprint": self.manifest.fingerprint(),
        }
        self.folder.check(self.identity)
        is_new_head = set_classes(self.teacher, self.manifest.class_names, seed=config.seed)
        self.fit = fit_of(self.teacher, head_only=config.head_only)
        if self.fit.front is not None and fabric.world_size > 1:
            raise EgoctlError(
                "what is frozen here is computed once and kept in one process's memory; "
                "pass --devices 1."
            )
        self._describe(is_new_head)
        self.stepper = Stepper(fabric, config, self.teacher.spec, self.fit.trainee)

    def run(self) -> FinetuneReport | None:
        found = self.folder.saved()
        state = RunState()
        if found is not None:
            state = found.state
            self.fit.trainee.load_state_dict(found.trainee)
            self.stepper.optimizer.load_state_dict(found.optimizer)
            self._say(f"going on after epoch {state.epochs_done}, step {state.steps_done}")
        # Nobody may write before all have read.
        self.fabric.barrier()
        if self.is_first:
            self.folder.begin(self.identity, state)
        if state.epochs_done < self.config.num_epochs:
            unread = Unread(state.unread)
            feed = self._feed(unread)
            for epoch in range(state.epochs_done + 1, self.config.num_epochs + 1):
                state = self._epoch(feed, unread, state, epoch)
        if not self.is_first:
            return None
        self.folder.finish()
        return self._report(state)

    def _epoch(self, feed: Feed, unread: Unread, state: RunState, epoch: int) -> RunState:
        config, fabric = self.config, self.fabric
        steps = self._steps(epoch)
        sums, rate, begun = state.sums, 0.0, state.sums.clips
        start_s = time.perf_counter()
        self.fit.trainee.train()
        with self._progress(len(steps), epoch) as progress:
            shares = feed.train(epoch, steps[state.steps_done :])
            for number, share in enumerate(shares, start=state.steps_done):
                rate = learning_rate(
                    config, step=(epoch - 1) * len(steps) + number, steps_per_epoch=len(steps)
                )
                seed = step_seed(config.seed, epoch, number, fabric.global_rank)
                sums += self.stepper.step(share, rate=rate, seed=seed)
                if progress is not None:
                    progress.reach(number + 1, len(steps))
                if (number + 1) % config.save_every == 0 and number + 1 < len(steps):
                    state = replace(state, steps_done=number + 1, sums=sums)
                    self._save(replace(state, unread=self._all_unread(unread)))
        if sums.clips == 0:
            segment_id, reason = next(iter(self._all_unread(unread).items()))
            raise EgoctlError(
                f"no segment of split {config.train_split!r} could be read; {segment_id!r}: "
                f"{reason}. See 'egoctl manifest check'."
            )
        clips_per_s = (sums.clips - begun) / (time.perf_counter() - start_s)
        top1 = self.stepper.top1(feed.held_out()) if self.held_out else None
        state = replace(self._judged(state, epoch, top1), unread=self._all_unread(unread))
        if self.is_first:
            self._finish_epoch(state, sums, rate, top1, clips_per_s)
        self.fabric.barrier()
        return state

    def _judged(self, state: RunState, epoch: int, top1: float | None) -> RunState:
        if top1 is None:
            is_best = epoch == self.config.num_epochs and state.best_top1 is None
        else:
            is_best = state.best_top1 is None or top1 > state.best_top1
        return RunState(
            epochs_done=epoch,
            best_epoch=epoch if is_best else state.best_epoch,
            best_top1=top1 if is_best else state.best_top1,
        )

    def _finish_epoch(
        self, state: RunState, sums: Sums, rate: float, top1: float | None, clips_per_s: float
    ) -> None:
        """Metrics, then weights, then the checkpoint, which is what a rerun believes."""
        clips = max(sums.clips, 1.0)
        row = {
            "epoch": state.epochs_done,
            "learning_rate": rate,
            "loss": sums.loss / clips,
            "train_top1": sums.right / clips,
            "val_top1": top1,
            "clips": sums.clips,
            "clips_per_s": clips_per_s,
        }
        self.folder.add_metrics(row)
        if state.best_epoch == state.epochs_done:
            self.folder.save_best(self._write_weights)
        self._save(state)
        self._say(
            f"epoch {state.epochs_done}/{self.config.num_epochs}  loss {row['loss']:.4f}  "
            f"train top-1 {row['train_top1']:.4f}  val top-1 "
            f"{'-' if top1 is None else f'{top1:.4f}'}  {clips_per_s:.1f} clips/s"
        )

    def _write_weights(self, file: Path) -> None:
        now = TrainedOn.of_segments(
            (example.segment for example in self.train), dataset=self.manifest.dataset_name
        )
        save_checkpoint(
            file,
            self.teacher.state(),
            class_names=self.manifest.class_names,
            trained_on=now.joined(self.teacher.weights.trained_on),
        )

    def _save(self, state: RunState) -> None:
        if self.is_first:
            self.folder.save(
                Checkpoint(
                    trainee={k: v.cpu() for k, v in self.fit.trainee.state_dict().items()},
                    optimizer=self.stepper.optimizer.state_dict(),
                    state=state,
                )
            )

    def _feed(self, unread: Unread) -> Feed:
        plan = FeedPlan(
            config=self.config,
            view=teacher_view(self.teacher.spec, self.manifest.window_s),
            window_s=self.manifest.window_s,
            sides_px=self.sides_px,
            train=self.train,
            held_out=self.held_out[self.fabric.global_rank :: self.fabric.world_size],
        )
        if self.fit.front is None:
            return FrameFeed(plan, unread)
        return CachedFeed(
            plan, self.fit, unread, device=self.fabric.device, autocast=self.fabric.autocast
        )

    def _steps(self, epoch: int) -> list[Sequence[int]]:
        return steps_of(
            len(self.train),
            self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.fabric.global_rank,
            num_ranks=self.fabric.world_size,
        )

    def _all_unread(self, unread: Unread) -> dict[str, str]:
        """Those of all processes; each must ask."""
        found: dict[str, str] = {}
        for rank in range(self.fabric.world_size):
            found |= self.fabric.broadcast(unread.reasons, src=rank)
        return found

    def _describe(self, is_new_head: bool) -> None:
        config, trainee = self.config, self.fit.trainee
        count = sum(parameter.numel() for parameter in trainee.parameters())
        head = "a new head" if is_new_head else "its own head"
        self._say(
            f"{self.teacher.spec.name} with {head} of {len(self.manifest.class_names)} classes: "
            f"{count:,} parameters to train, {len(self.train)} segments, {len(self.held_out)} "
            f"held out, in {self.identity['precision']} on {self.fabric.device}"
        )
        labels = {example.label for example in self.train}
        for line in caveats(self.teacher.weights, self.manifest.class_names, labels):
            self._say(line)
        if config.checkpoint_gradients:
            num_blocks = 0 if config.head_only else checkpoint_blocks(self.teacher.body)
            self._say(
                f"{num_blocks} blocks are computed again in the backward pass"
                if num_blocks
                else "gradient checkpointing: not available, nothing trained is made of blocks"
            )

    def _progress(self, num_steps: int, epoch: int) -> AbstractContextManager[Progress | None]:
        if not self.is_first:
            return nullcontext()
        title = f"epoch {epoch}/{self.config.num_epochs}"
        return Progress(num_steps, title=title, unit="step")

    def _say(self, text: str) -> None:
        if self.is_first:
            tqdm.write(text, file=sys.stderr)

    def _report(self, state: RunState) -> FinetuneReport:
        return FinetuneReport(
            run=str(self.folder.path),
            weights=str(self.folder.weights),
            teacher=self.teacher.spec.name,
            epochs_done=state.epochs_done,
            best_epoch=state.best_epoch,
            best_top1=state.best_top1,
            num_segments=len(self.train),
            num_held_out=len(self.held_out),
            num_classes=len(self.manifest.class_names),
            unread=state.unread,
        )
