"""Nearest clips: whether student and teacher agree on them, and what the IMU changes."""

# N clips of the gallery, Q queries, q queries at a time, D feature width, k neighbours
# X hidden segments of a query, M IMU windows of a query (its own first), C classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.student.model.losses import NO_LABEL

CHUNK_VALUES = 1 << 25
"""Similarities held at a time: 128 MiB, however large the gallery."""
NONE = -1
"""In place of a clip or segment where there is none."""


def nearest(
    query_QD: Tensor,
    gallery_ND: Tensor,
    *,
    k: int,
    segment_N: Tensor,
    hidden_QX: Tensor,
) -> tuple[Tensor, Tensor]:
    """(Q, k) cosine similarities and indices of the nearest gallery clips, the nearest first.

    Clips of a query's hidden segments are passed over. Where fewer than k are left the index is
    NONE and the similarity -inf.
    """
    gallery_ND = F.normalize(gallery_ND, dim=1)
    num_clips = len(gallery_ND)
    similarity_Qk = torch.full((len(query_QD), k), -torch.inf)
    index_Qk = torch.full((len(query_QD), k), NONE)
    num_at_once = max(1, CHUNK_VALUES // max(1, num_clips))
    for start in range(0, len(query_QD), num_at_once):
        here = slice(start, start + num_at_once)
        similarity_qN = F.normalize(query_QD[here], dim=1) @ gallery_ND.T
        for hidden_q in hidden_QX[here].T:
            similarity_qN[segment_N[None, :] == hidden_q[:, None]] = -torch.inf
        best_qk, found_qk = similarity_qN.topk(min(k, num_clips), dim=1)
        similarity_Qk[here, : best_qk.shape[1]] = best_qk
        index_Qk[here, : best_qk.shape[1]] = found_qk.masked_fill(best_qk.isinf(), NONE)
    return similarity_Qk, index_Qk


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourRecall:
    """How many of the teacher's k nearest clips are among the student's k nearest."""

    k: int
    recall: float | None
    """Mean share over the queries; None: none has more than k clips to choose from."""
    chance: float | None
    """What k clips picked at random would reach."""
    num_queries: int


def neighbour_recall(
    student_ND: Tensor, teacher_NE: Tensor, *, segment_N: Tensor, query_Q: Tensor, ks: Sequence[int]
) -> tuple[NeighbourRecall, ...]:
    """Recall for every k over the queries query_Q; each searches the clips of other segments.

    A query that has no more than k of those is left out: it could not miss.
    """
    hidden_Q1 = segment_N[query_Q, None]
    found = {
        name: nearest(values[query_Q], values, k=max(ks), segment_N=segment_N, hidden_QX=hidden_Q1)[
            1
        ]
        for name, values in (("student", student_ND), ("teacher", teacher_NE))
    }
    num_of_segment = torch.bincount(segment_N)
    choice_Q = len(segment_N) - num_of_segment[segment_N[query_Q]]
    results = []
    for k in ks:
        counts_Q = choice_Q > k
        student_qk = found["student"][counts_Q, :k]
        teacher_qk = found["teacher"][counts_Q, :k]
        hit_qk = (teacher_qk[:, :, None] == student_qk[:, None, :]).any(dim=2)
        is_any = bool(counts_Q.any())
        results.append(
            NeighbourRecall(
                k=k,
                recall=float(hit_qk.double().mean()) if is_any else None,
                chance=float((k / choice_Q[counts_Q].double()).mean()) if is_any else None,
                num_queries=int(counts_Q.sum()),
            )
        )
    return tuple(results)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """Queries: a frame each, with its own IMU and with that of clips of other segments."""

    frame_Q: Tensor
    """The clip that gives the frame."""
    donor_QM: Tensor
    """The clips that give the IMU; column 0 is frame_Q itself."""

    def hidden_QX(self, segment_N: Tensor) -> Tensor:
        """The segments of the frame and of all its IMUs: none of these is to be retrieved.

        The same for every IMU of a query, so that what differs is the IMU's doing.
        """
        return segment_N[self.donor_QM]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """What a run retrieved for every frame and IMU of an exchange; indices are of clips."""

    run: str
    method: str
    uses_imu: bool
    """Otherwise there is one answer per frame, repeated for all IMUs."""
    exchange: Exchange
    similarity_QMk: Tensor
    index_QMk: Tensor


def random_clips(num_clips: int, *, at_most: int, seed: int) -> Tensor:
    """Indices of at_most clips, or of all, in order."""
    if num_clips <= at_most:
        return torch.arange(num_clips)
    picked = np.random.default_rng(seed).choice(num_clips, at_most, replace=False)
    return torch.from_numpy(np.sort(picked))


def draw_exchange(
    segment_N: Tensor, *, frame_Q: Tensor, num_donors: int, seed: int
) -> Exchange | None:
    """Donors of different segments, drawn at random; fewer than asked for if there are fewer.

    None where all clips are of one segment.
    """
    rng = np.random.default_rng(seed)
    segments = segment_N.numpy()
    order = np.argsort(segments, kind="stable")
    present, first, count = np.unique(segments[order], return_index=True, return_counts=True)
    num_donors = min(num_donors, len(present) - 1)
    if num_donors < 1:
        return None
    rows = []
    for clip in frame_Q.tolist():
        own = int(np.searchsorted(present, segments[clip]))
        others = rng.choice(len(present) - 1, num_donors, replace=False)
        others += others >= own
        rows.append([clip, *order[first[others] + rng.integers(count[others])].tolist()])
    return Exchange(frame_Q=frame_Q, donor_QM=torch.tensor(rows, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeMetrics:
    """What changes in the k clips retrieved for a frame when the IMU beside it is another's.

    Shares of 1; None where nothing could be counted.
    """

    k: int
    num_frames: int
    num_imus: int
    """Foreign ones of each frame."""
    top1_changed: float
    """Share of the foreign IMUs with another nearest clip than the frame's own IMU has."""
    topk_changed: float
    """Share of the k clips that are not among those of the frame's own IMU."""
    num_label_pairs: int
    """Frames and foreign IMUs of segments with different labels; the rest is over these."""
    frame_label: float | None
    """Share of the retrieved clips that have the label of the frame's segment ..."""
    frame_label_chance: float | None
    """... and the share that all clips to choose from have."""
    imu_label: float | None
    """The same, of the label of the IMU's segment."""
    imu_label_chance: float | None


def exchange_metrics(
    index_QMk: Tensor, exchange: Exchange, *, segment_N: Tensor, label_N: Tensor
) -> ExchangeMetrics:
    """From the clips that were retrieved for every query and IMU, in the exchange's order."""
    num_frames, num_imus, k = index_QMk.shape
    own_Qk, other_QMk = index_QMk[:, 0], index_QMk[:, 1:]
    there_QMk = other_QMk != NONE
    kept_QMk = (other_QMk[..., None] == own_Qk[:, None, None, :]).any(dim=3) & there_QMk
    frame_QM = label_N[exchange.frame_Q][:, None].expand(-1, num_imus - 1)
    imu_QM = label_N[exchange.donor_QM[:, 1:]]
    is_counted_QM = (frame_QM != NO_LABEL) & (imu_QM != NO_LABEL) & (frame_QM != imu_QM)
    found_QMk = label_N[other_QMk.clamp(min=0)].masked_fill(~there_QMk, NO_LABEL)
    counted_Mk = there_QMk[is_counted_QM]
    shares = {}
    for name, wanted_QM in (("frame", frame_QM), ("imu", imu_QM)):
        share = chance = None
        if counted_Mk.any():
            has_QMk = found_QMk == wanted_QM[..., None]
            share = float(has_QMk[is_counted_QM].sum() / counted_Mk.sum())
            chance_QM = _label_share(wanted_QM, exchange, segment_N=segment_N, label_N=label_N)
            chance = float(chance_QM[is_counted_QM].mean())
        shares[name] = (share, chance)
    return ExchangeMetrics(
        k=k,
        num_frames=num_frames,
        num_imus=num_imus - 1,
        top1_changed=float((other_QMk[..., 0] != own_Qk[:, None, 0]).double().mean()),
        topk_changed=1 - float(kept_QMk.sum() / there_QMk.sum().clamp(min=1)),
        num_label_pairs=int(is_counted_QM.sum()),
        frame_label=shares["frame"][0],
        frame_label_chance=shares["frame"][1],
        imu_label=shares["imu"][0],
        imu_label_chance=shares["imu"][1],
    )


def _label_share(
    label_QM: Tensor, exchange: Exchange, *, segment_N: Tensor, label_N: Tensor
) -> Tensor:
    """(Q, M) the share of the clips a query may retrieve that have this label."""
    hidden_QX = exchange.hidden_QX(segment_N)
    num_of_segment = torch.bincount(segment_N).double()
    label_of_segment = torch.full((len(num_of_segment),), NO_LABEL)
    label_of_segment[segment_N] = label_N
    # One place more, for "no label", which is counted here but never looked up.
    num_of_label = torch.bincount(label_N - NO_LABEL).double()
    hidden_QMX = label_of_segment[hidden_QX][:, None, :] == label_QM[..., None]
    num_hidden_QM = (num_of_segment[hidden_QX][:, None, :] * hidden_QMX).sum(dim=2)
    choice_Q = len(label_N) - num_of_segment[hidden_QX].sum(dim=1)
    return (num_of_label[label_QM - NO_LABEL] - num_hidden_QM) / choice_Q[:, None].clamp(min=1)
