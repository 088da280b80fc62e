"""Activities from real head IMU: a student of IMU alone beside a random forest.

    python -m egoctl.tests.benchmarks.classyglass

Twelve people, three left out at a time; neither learner sees anything of those, nor does the
normalisation. All settings are fixed here and nothing is chosen by score: the last epoch counts.
"""

# B batch, N windows, W IMU samples, A IMU axes (6), C classes

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import AdamW

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.schedule import learning_rate
from egoctl.student.clips.epochs import batches_of, derived_seed, epoch_order
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.losses import student_loss
from egoctl.student.model.student import Student, build_student
from egoctl.student.model.student_config import ImuReadout, StudentConfig
from egoctl.tests.benchmarks.classyglass_windows import (
    FILE,
    Windows,
    accuracy_and_macro_f1,
    features,
    folds,
    read_windows,
)
from egoctl.tests.benchmarks.figures import Figure, shown, spread

NUM_EPOCHS = 8
BATCH_SIZE = 128
PEAK_RATE = 1e-3
NUM_TREES = 100
LABELS_ONLY = LossConfig(alpha=0.0, beta=0.0)

Learner = Callable[[Windows, Windows, int], NDArray[np.int64]]
"""(train, test, seed) to what it says of test."""


def student_says(
    train: Windows,
    test: Windows,
    seed: int,
    *,
    num_epochs: int = NUM_EPOCHS,
    readout: ImuReadout = "last",
) -> NDArray[np.int64]:
    """Of a student fitted to the labels of train."""
    student = fitted_student(train, seed=seed, num_epochs=num_epochs, readout=readout).eval()
    with torch.inference_mode():
        batches = torch.from_numpy(test.imu_NWA).split(256)
        logits = [student(imu_BWA=batch).logits_BC for batch in batches]
    said_N: NDArray[np.int64] = torch.cat(logits).argmax(dim=1).numpy()
    return said_N


def fitted_student(
    train: Windows, *, seed: int, num_epochs: int, readout: ImuReadout = "last"
) -> Student:
    """The student of `--method imuonly`, by the pieces of train-student.

    Read-out last costs a hundredth of train-student's default, the mean, and two cores have to do.
    """
    student = build_student(
        StudentConfig(
            method="imuonly",
            imu_readout=readout,
            imu_samples=train.imu_NWA.shape[1],
            num_classes=len(train.label_names),
        ),
        seed=seed,
    )
    assert student.imu is not None
    student.imu.mean_u.copy_(torch.from_numpy(train.imu_NWA.mean(axis=(0, 1))))
    student.imu.std_u.copy_(torch.from_numpy(train.imu_NWA.std(axis=(0, 1))))
    imu_NWA, label_N = torch.from_numpy(train.imu_NWA), torch.from_numpy(train.label_N)
    optimizer = AdamW(student.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    student.train()
    for epoch in range(1, num_epochs + 1):
        torch.manual_seed(derived_seed(seed, epoch))
        order = epoch_order(torch.arange(len(train)), "clips", seed=seed, epoch=epoch)
        batches = batches_of(order, batch_size=BATCH_SIZE, rank=0, num_ranks=1)
        for index, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    "onecycle",
                    PEAK_RATE,
                    step=(epoch - 1) * len(batches) + index,
                    steps_per_epoch=len(batches),
                    num_epochs=num_epochs,
                )
            output = student(imu_BWA=imu_NWA[batch])
            loss = student_loss(
                LABELS_ONLY,
                student_feature_BD=output.feature_BD,
                student_logits_BC=output.logits_BC,
                label_B=label_N[batch],
                teacher_feature_BD=None,
                teacher_logits_BC=None,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            optimizer.step()
    return student


def forest_says(train: Windows, test: Windows, seed: int) -> NDArray[np.int64]:
    """Of a random forest on a hundred or so features of each window."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(NUM_TREES, random_state=seed, n_jobs=1)
    forest.fit(features(train.measured_NSA), train.label_N)
    return np.asarray(forest.predict(features(test.measured_NSA)), dtype=np.int64)


def scores(windows: Windows, learner: Learner, *, seed: int) -> tuple[float, float, list[float]]:
    """Accuracy and macro-F1 over all people, each left out once; and accuracy per fold."""
    said, labels, per_fold = [], [], []
    for train, test in folds(windows):
        said.append(learner(train, test, seed))
        labels.append(test.label_N)
        per_fold.append(float((said[-1] == labels[-1]).mean()))
    return *accuracy_and_macro_f1(np.concatenate(said), np.concatenate(labels)), per_fold


def run(
    windows: Windows, learners: Sequence[tuple[str, Learner]], *, num_seeds: int
) -> list[Figure]:
    """Accuracy and macro-F1 of every learner, with and without gravity, and who is ahead."""
    inputs = {"without gravity": windows.without_gravity(), "with gravity": windows}
    figures: list[Figure] = []

    def add(name: str, unit: str, values: Sequence[float]) -> None:
        figure = Figure(benchmark="classyglass", name=name, unit=unit, values=tuple(values))
        print(f"{name:58} {shown_line(figure)} {unit}", flush=True)
        figures.append(figure)

    for told, seen in inputs.items():
        accuracies: list[list[float]] = []
        for name, learner in learners:
            start = time.perf_counter()
            found = [scores(seen, learner, seed=seed) for seed in range(num_seeds)]
            accuracies.append([accuracy for accuracy, _, _ in found])
            add(f"{name}, {told}: accuracy", "share", accuracies[-1])
            add(f"{name}, {told}: macro-F1", "share", [macro_f1 for _, macro_f1, _ in found])
            by_fold = np.mean([per_fold for _, _, per_fold in found], axis=0)
            add(f"{name}, {told}: accuracy by three people", "share", by_fold.tolist())
            seconds = time.perf_counter() - start
            print(f"{name}, {told}: {seconds:.0f} s", file=sys.stderr, flush=True)
        if len(accuracies) == 2:
            ahead = [first - second for first, second in zip(*accuracies, strict=True)]
            add(f"{learners[0][0]} - {learners[1][0]}, {told}", "difference of accuracy", ahead)
    return figures


def shown_line(figure: Figure) -> str:
    """Median and spread."""
    sign = "-" if figure.median < 0 else ""
    if min(figure.values) < 0:
        low, high = min(figure.values), max(figure.values)
        return f"{sign}{shown(abs(figure.median))} ({low:.3f} to {high:.3f})"
    return f"{shown(figure.median)} ({spread(figure)})"


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m egoctl.tests.benchmarks.classyglass",
        description="Activities from real head IMU: a student beside a random forest.",
    )
    parser.add_argument("--file", type=Path, default=FILE, help="classyglass1A_50hz.npz")
    parser.add_argument("--seeds", type=int, default=3, help="of both learners")
    parser.add_argument("--epochs", type=int, default=NUM_EPOCHS, help="of the student")
    parser.add_argument(
        "--readout", choices=get_args(ImuReadout), default="last", help="of its IMU"
    )
    parser.add_argument("--quick", action="store_true", help="few windows, to try the script")
    asked = parser.parse_args(arguments)
    if not asked.file.is_file():
        parser.error(f"{asked.file} is not there: pass --file, or set EGOCTL_TEST_DATA")
    learners: list[tuple[str, Learner]] = [
        (
            "student",
            lambda *given: student_says(*given, num_epochs=asked.epochs, readout=asked.readout),
        )
    ]
    try:
        import sklearn
    except ImportError:
        print("no random forest: it needs scikit-learn, as in egoctl[dev]", file=sys.stderr)
    else:
        learners.append(("random forest", forest_says))
        print(f"scikit-learn {sklearn.__version__}, {NUM_TREES} trees")
    keep_freed_memory(torch.device("cpu"))
    windows = read_windows(asked.file, max_per_recording=4 if asked.quick else None)
    commonest = np.bincount(windows.label_N).max() / len(windows)
    print(
        f"{len(windows)} windows of {len(np.unique(windows.person_N))} people, "
        f"{len(windows.label_names)} activities; the commonest is {commonest:.3f} of them"
    )
    print(
        f"student: {asked.epochs} epochs, read-out {asked.readout}, "
        f"{torch.get_num_threads()} threads; median over {asked.seeds} seeds (smallest to largest)"
    )
    run(windows, learners, num_seeds=asked.seeds)


if __name__ == "__main__":
    main(sys.argv[1:])
