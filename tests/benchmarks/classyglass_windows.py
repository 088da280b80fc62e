"""Windows of ClassyGlass, a data set of head-worn IMU with activities, as our students see IMU.

129 recordings of 12 people and 11 activities (MU-Smart/ClassyGlass, CC BY 4.0), resampled to
50 Hz. Every recording is cut into windows of two seconds that do not overlap. For a student each
goes the way of any egoctl clip: the recording becomes an ImuTrack in m/s^2 and rad/s, and a
window of it 396 samples at 198 Hz, linear between those measured. So the encoder's dilated
kernel spans the same time as on other data; 422 samples would be 2.13 s. Above 25 Hz there is
nothing in them.
"""

# N windows, W IMU samples of a student, S measured samples of a window, K features

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.imu.recording import ImuResampler
from egoctl.pipeline.records import Clip, ImuTrack
from egoctl.pipeline.sampling import imu_times, num_imu_samples
from egoctl.tests.worlds.places import DATA

FILE = DATA / "classyglass" / "classyglass1A_50hz.npz"
MEASURED_HZ = 50.0
STUDENT_HZ = 198.0
WINDOW_S = 2.0
PEOPLE_OUT = 3
STANDARD_GRAVITY = 9.80665

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """N windows, each twice: as measured, and as a student sees it."""

    imu_NWA: FloatArray
    """At 198 Hz, m/s^2 and rad/s."""
    measured_NSA: FloatArray
    """The same at 50 Hz."""
    label_N: NDArray[np.int64]
    person_N: NDArray[np.int64]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label_N)

    def of(self, chosen_N: NDArray[np.bool_]) -> "Windows":
        """Some of them."""
        return replace(
            self,
            imu_NWA=self.imu_NWA[chosen_N],
            measured_NSA=self.measured_NSA[chosen_N],
            label_N=self.label_N[chosen_N],
            person_N=self.person_N[chosen_N],
        )

    def without_gravity(self) -> "Windows":
        """Less each window's mean per axis, as egoctl gives IMU to students."""
        return replace(
            self,
            imu_NWA=self.imu_NWA - self.imu_NWA.mean(axis=1, keepdims=True),
            measured_NSA=self.measured_NSA - self.measured_NSA.mean(axis=1, keepdims=True),
        )


def read_windows(file: Path, *, max_per_recording: int | None = None) -> Windows:
    """The windows of a file, gravity included, in the order of its recordings."""
    with np.load(file) as found:
        x_nA = found["x"].astype(np.float64)
        offsets, labels, people = found["offset"], found["label"], found["subject"]
        names = tuple(str(name) for name in found["labels"])
    x_nA *= np.array(3 * [STANDARD_GRAVITY] + 3 * [np.pi / 180])
    seen, measured, kept_labels, kept_people = [], [], [], []
    for (start, stop), label, person in zip(pairwise(offsets), labels, people, strict=True):
        values = x_nA[start:stop]
        for imu_WA, measured_SA in _cut(values, f"{file.name}[{start}]", max_per_recording):
            seen.append(imu_WA)
            measured.append(measured_SA)
            kept_labels.append(int(label))
            kept_people.append(int(person))
    return Windows(
        imu_NWA=np.stack(seen).astype(np.float32),
        measured_NSA=np.stack(measured).astype(np.float32),
        label_N=np.array(kept_labels, dtype=np.int64),
        person_N=np.array(kept_people, dtype=np.int64),
        label_names=names,
    )


def _cut(
    values_nA: NDArray[np.float64], source: str, most: int | None
) -> list[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    time_s = np.arange(len(values_nA)) / MEASURED_HZ
    resampler = ImuResampler(
        ImuTrack(
            accel_time_s=time_s, accel_N3=values_nA[:, :3],
            gyro_time_s=time_s, gyro_M3=values_nA[:, 3:], source=source,
        )
    )  # fmt: skip
    size = round(WINDOW_S * MEASURED_HZ)
    num_samples = num_imu_samples(WINDOW_S, STUDENT_HZ)
    found: list[tuple[NDArray[np.floating], NDArray[np.floating]]] = []
    for at in range(min(len(values_nA) // size, most or len(values_nA))):
        start_s, stop_s = at * WINDOW_S, (at + 1) * WINDOW_S
        clip = Clip(
            clip_id=str(at), segment_id=source, video_id=source, start_s=start_s, stop_s=stop_s
        )
        times_s = imu_times(clip, num_samples, STUDENT_HZ)
        window = resampler.window(times_s, span_s=(start_s, stop_s))
        measured_SA = values_nA[at * size : (at + 1) * size]
        found.append((window.samples_W6 + window.mean_6, measured_SA))
    return found


def folds(windows: Windows) -> list[tuple[Windows, Windows]]:
    """(train, test) by person: three people are left out at a time, each once."""
    people = np.unique(windows.person_N)
    groups = [people[at : at + PEOPLE_OUT] for at in range(0, len(people), PEOPLE_OUT)]
    is_out = [np.isin(windows.person_N, group) for group in groups]
    return [(windows.of(~out_N), windows.of(out_N)) for out_N in is_out]


def features(measured_NSA: FloatArray) -> FloatArray:
    """(N, K) what a forest is given of each axis and of the length of both vectors.

    Mean, deviation, extremes, quartiles, mean step, and the share of power in five bands.
    """
    sensors = (measured_NSA[..., :3], measured_NSA[..., 3:])
    lengths_NS2 = np.stack([np.linalg.norm(each, axis=2) for each in sensors], axis=2)
    signals = np.concatenate([measured_NSA, lengths_NS2], axis=2)
    centred = signals - signals.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, axis=1)) ** 2
    hertz = np.fft.rfftfreq(signals.shape[1], 1 / MEASURED_HZ)
    total = power.sum(axis=1) + 1e-9
    edges = ((0.4, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 26.0))
    bands = [power[:, (hertz >= low) & (hertz < high)].sum(axis=1) / total for low, high in edges]
    parts = [
        signals.mean(axis=1), signals.std(axis=1), signals.min(axis=1), signals.max(axis=1),
        *np.quantile(signals, (0.25, 0.5, 0.75), axis=1),
        np.abs(np.diff(signals, axis=1)).mean(axis=1), *bands,
    ]  # fmt: skip
    return np.concatenate(parts, axis=1).astype(np.float32)


def accuracy_and_macro_f1(
    said_N: NDArray[np.int64], label_N: NDArray[np.int64]
) -> tuple[float, float]:
    """The share that is right, and F1 averaged over the classes that occur, alike."""
    scores = []
    for label in np.unique(label_N):
        both = int(((said_N == label) & (label_N == label)).sum())
        scores.append(2 * both / (int((said_N == label).sum()) + int((label_N == label).sum())))
    return float((said_N == label_N).mean()), float(np.mean(scores))
