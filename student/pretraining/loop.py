"""The epochs of a pretraining run: what is measured, saved and gone on with."""

import dataclasses
import json
import time
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch.optim import AdamW, Optimizer

from egoctl.pipeline.runs.checkpoint import (
    Checkpoint,
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from egoctl.pipeline.runs.run_folder import METRICS_FILE, RunFolder
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.student.pretraining.data import EncodedClips
from egoctl.student.pretraining.epoch import held_out, train_epoch
from egoctl.student.pretraining.net import PretrainNet
from egoctl.student.settings.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMetrics:
    """One line of metrics.jsonl. Losses are means over clips."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    loss: float
    nce: float | None
    """In nats; None where it takes no part, like the others."""
    l1: float | None
    retrieval_top1: float | None
    """Share of clips that find their own IMU in the batch; by chance 1 in batch_size."""
    val_loss: float | None
    """This and the next three: in eval mode; None without a val split."""
    val_nce: float | None
    val_l1: float | None
    val_retrieval_top1: float | None
    clips_per_s: float


def run_epochs(
    folder: RunFolder,
    fabric: Fabric,
    config: PretrainConfig,
    net: PretrainNet,
    encoded: EncodedClips,
    val: EncodedClips | None,
) -> tuple[Progress, PretrainMetrics | None]:
    """Go on after the last checkpoint; the last epoch's metrics, None if none was left to do.

    val: of the process that writes, if there is a val split.

    Raises:
        EgoctlError: if the checkpoint is damaged, or loss or weights are no longer finite.
    """
    optimizer = AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    progress = Progress(epochs_done=0, best_epoch=0, best_top1=None)
    found = find_checkpoint(folder.path / CHECKPOINTS / "last")
    loaded = None if found is None else load_checkpoint(found, where=folder.run.name_of(found))
    if loaded is not None:
        net.load_state_dict(loaded.weights)
        progress = loaded.progress
        folder.say(f"going on after epoch {progress.epochs_done}")
    model, fabric_optimizer = fabric.setup(net, optimizer)
    if loaded is not None:
        optimizer.load_state_dict(loaded.optimizer)
    folder.start_metrics(progress.epochs_done)

    last: PretrainMetrics | None = None
    for epoch in range(progress.epochs_done + 1, config.num_epochs + 1):
        start_s = time.perf_counter()
        means, rate = train_epoch(fabric, config, net, model, fabric_optimizer, encoded, epoch)
        seconds = time.perf_counter() - start_s
        if fabric.is_global_zero:
            held = None if val is None else held_out(config, net, val, fabric.device)
            last = PretrainMetrics(
                epoch=epoch,
                learning_rate=rate,
                loss=means.loss,
                nce=means.nce,
                l1=means.l1,
                retrieval_top1=means.retrieval_top1,
                val_loss=None if held is None else held.loss,
                val_nce=None if held is None else held.nce,
                val_l1=None if held is None else held.l1,
                val_retrieval_top1=None if held is None else held.retrieval_top1,
                clips_per_s=means.num_clips / seconds,
            )
            progress = _finish_epoch(folder, config, net, optimizer, progress, last)
        # Also keeps the others waiting until the checkpoint is written.
        progress, last = fabric.broadcast((progress, last))
    return progress, last


def _finish_epoch(
    folder: RunFolder,
    config: PretrainConfig,
    net: PretrainNet,
    optimizer: Optimizer,
    before: Progress,
    metrics: PretrainMetrics,
) -> Progress:
    """Write metrics, then the checkpoints; `last` comes last, as it is what a resume believes."""
    best_loss = _val_loss_of(folder, before.best_epoch)
    if metrics.val_loss is None:
        is_best = metrics.epoch == config.num_epochs
    else:
        is_best = best_loss is None or metrics.val_loss < best_loss
    progress = Progress(
        epochs_done=metrics.epoch,
        best_epoch=metrics.epoch if is_best else before.best_epoch,
        best_top1=None,
    )
    folder.add_metrics(dataclasses.asdict(metrics))
    checkpoint = Checkpoint(
        weights={name: value.cpu() for name, value in net.state_dict().items()},
        optimizer=optimizer.state_dict(),
        progress=progress,
    )
    for name in ("best", "last") if is_best else ("last",):
        save_checkpoint(folder.path / CHECKPOINTS / name, checkpoint)
    folder.publish()
    folder.say(
        f"epoch {metrics.epoch}/{config.num_epochs}  nce {_shown(metrics.nce)}"
        f"  l1 {_shown(metrics.l1)}  retrieval top-1 {_shown(metrics.retrieval_top1)}"
        f"  val loss {_shown(metrics.val_loss)}  val top-1 {_shown(metrics.val_retrieval_top1)}"
        f"  {metrics.clips_per_s:.0f} clips/s"
    )
    return progress


def _val_loss_of(folder: RunFolder, epoch: int) -> float | None:
    """As metrics.jsonl has it, which holds a line for every epoch done."""
    if epoch == 0:
        return None
    lines = (folder.path / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    found: float | None = json.loads(lines[epoch - 1])["val_loss"]
    return found


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
