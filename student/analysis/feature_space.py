"""How near a student's feature space is to its teacher's: distances, and the form of the space."""

# N clips, n clips at a time, D student feature width, E teacher feature width

import math
from dataclasses import dataclass

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_CLIPS = 8192
"""Taken to float64 at a time: all of a large split would be several GB."""
NO_VARIANCE = 1e-12
"""Share of the squared size of a feature below which its variance is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureMetrics:
    """A student's z against the teacher's feature of the same clips, in the teacher's units."""

    num_clips: int
    l1_norm: float | None
    """Mean over clips of the L1 norm of the difference; None: it was not trained to be near."""
    l1_per_dimension: float | None
    """The same, divided by the feature's width."""
    cosine: float | None
    constant_l1_norm: float
    """What the teacher's own mean feature, given for every clip, would score ..."""
    constant_cosine: float
    """... so that a large cosine is not taken for a good one."""
    cka: float | None
    """Linear CKA; None where a side does not vary."""


def feature_metrics(
    student_ND: Tensor, teacher_NE: Tensor, *, is_in_teacher_units: bool
) -> FeatureMetrics:
    """All metrics over at least one clip; distances need is_in_teacher_units, and so D == E."""
    l1_norm = cosine = None
    if is_in_teacher_units:
        l1_norm = float(l1_norms(student_ND, teacher_NE).double().mean())
        cosine = float(F.cosine_similarity(student_ND, teacher_NE, dim=1).double().mean())
    mean_1E = teacher_NE.double().mean(dim=0, keepdim=True).float()
    return FeatureMetrics(
        num_clips=len(teacher_NE),
        l1_norm=l1_norm,
        l1_per_dimension=None if l1_norm is None else l1_norm / teacher_NE.shape[1],
        cosine=cosine,
        constant_l1_norm=float(l1_norms(mean_1E, teacher_NE).double().mean()),
        constant_cosine=float(F.cosine_similarity(mean_1E, teacher_NE, dim=1).double().mean()),
        cka=linear_cka(student_ND, teacher_NE),
    )


def l1_norms(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """(N,) the L1 norm of each clip's difference."""
    return (student_ND - teacher_ND).abs().sum(dim=1)


def linear_cka(left_ND: Tensor, right_NE: Tensor) -> float | None:
    """Linear CKA of features of the same clips, 0 to 1; None where a side does not vary.

    In the form that needs memory for D * E values, not for N * N (Kornblith et al. 2019,
    arXiv:1905.00414, sec. 3). It is biased upwards where N is not far above D.
    """
    left_1D = left_ND.double().mean(dim=0)
    right_1E = right_NE.double().mean(dim=0)
    cross_DE = torch.zeros(len(left_1D), len(right_1E), dtype=torch.float64)
    left_DD = torch.zeros(len(left_1D), len(left_1D), dtype=torch.float64)
    right_EE = torch.zeros(len(right_1E), len(right_1E), dtype=torch.float64)
    for left_nD, right_nE in zip(
        torch.split(left_ND, CHUNK_CLIPS), torch.split(right_NE, CHUNK_CLIPS), strict=True
    ):
        left_centred_nD = left_nD.double() - left_1D
        right_centred_nE = right_nE.double() - right_1E
        cross_DE += left_centred_nD.T @ right_centred_nE
        left_DD += left_centred_nD.T @ left_centred_nD
        right_EE += right_centred_nE.T @ right_centred_nE
    for values, covariance in ((left_ND, left_DD), (right_NE, right_EE)):
        size = float(values.norm(dtype=torch.float64)) ** 2
        if float(covariance.trace()) <= NO_VARIANCE * size:
            return None
    # Rounding may reach past 1.
    return min(1.0, float(cross_DE.norm() ** 2 / (left_DD.norm() * right_EE.norm())))


def dimension_table(student_ND: Tensor, teacher_ND: Tensor) -> pl.DataFrame:
    """Per dimension: the mean absolute error, the teacher's spread, and their correlation.

    correlation is null where student or teacher does not vary.
    """
    rows = []
    for index in range(teacher_ND.shape[1]):
        student_N, teacher_N = student_ND[:, index].double(), teacher_ND[:, index].double()
        student_std = float(student_N.std(correction=0))
        teacher_std = float(teacher_N.std(correction=0))
        both = float(((student_N - student_N.mean()) * (teacher_N - teacher_N.mean())).mean())
        varies = min(
            student_std / max(1e-300, float(student_N.abs().max())),
            teacher_std / max(1e-300, float(teacher_N.abs().max())),
        ) > math.sqrt(NO_VARIANCE)
        rows.append(
            {
                "dimension": index,
                "mean_absolute_error": float((student_N - teacher_N).abs().mean()),
                "teacher_std": teacher_std,
                "correlation": both / (student_std * teacher_std) if varies else None,
            }
        )
    schema = {
        "dimension": pl.Int64,
        "mean_absolute_error": pl.Float64,
        "teacher_std": pl.Float64,
        "correlation": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema)
