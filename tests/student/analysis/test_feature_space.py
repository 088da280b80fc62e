"""Distances between student's and teacher's features, and linear CKA beside its definition."""

import numpy as np
import pytest
import torch

from egoctl.student.analysis import feature_space
from egoctl.student.analysis.feature_space import dimension_table, feature_metrics, linear_cka


def random_features(num_clips=40, width=6, seed=0):
    values = np.random.default_rng(seed).normal(1, 2, (num_clips, width))
    return torch.from_numpy(values.astype(np.float32))


def slow_cka(left_ND, right_NE):
    """By its definition: HSIC of the two N x N Gram matrices, each centred."""
    num = len(left_ND)
    centre = np.eye(num) - np.ones((num, num)) / num
    left, right = (
        centre @ (values @ values.T) @ centre for values in (left_ND.numpy(), right_NE.numpy())
    )
    return np.trace(left @ right) / np.sqrt(np.trace(left @ left) * np.trace(right @ right))


def test_cka_is_that_of_the_gram_matrices(monkeypatch):
    left = random_features(width=6)
    right = torch.cat([left[:, :3] * 2, random_features(width=5, seed=1)], dim=1)
    monkeypatch.setattr(feature_space, "CHUNK_CLIPS", 7)

    assert linear_cka(left, right) == pytest.approx(slow_cka(left, right), rel=1e-5)


def test_cka_sees_neither_rotation_nor_scale_nor_shift():
    left = random_features()
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))

    turned = (left.double() @ torch.from_numpy(rotation) * 3 + 5).float()

    assert linear_cka(left, turned) == pytest.approx(1, abs=1e-6)


def test_cka_of_a_constant_cannot_be_told():
    assert linear_cka(torch.full((40, 6), 0.3), random_features()) is None


def test_distances_are_those_of_the_slow_way():
    student, teacher = random_features(5), random_features(5, seed=1)

    metrics = feature_metrics(student, teacher, is_in_teacher_units=True)

    l1 = [
        sum(abs(s - t).item() for s, t in zip(a, b, strict=True)) for a, b in both(student, teacher)
    ]
    cosine = [(a @ b / a.norm() / b.norm()).item() for a, b in both(student, teacher)]
    assert metrics.num_clips == 5
    assert metrics.l1_norm == pytest.approx(np.mean(l1), rel=1e-5)
    assert metrics.l1_per_dimension == pytest.approx(np.mean(l1) / 6, rel=1e-5)
    assert metrics.cosine == pytest.approx(np.mean(cosine), rel=1e-5)


def both(student, teacher):
    return zip(student, teacher, strict=True)


def test_a_constant_sets_what_a_good_cosine_is():
    # All of the teacher's features point the same way, so a student that says nothing does well.
    teacher = torch.tensor([[10.0, 1.0], [10.0, -1.0]])

    metrics = feature_metrics(teacher, teacher, is_in_teacher_units=True)

    assert (metrics.cosine, metrics.l1_norm) == (pytest.approx(1), 0)
    assert metrics.constant_cosine == pytest.approx(10 / np.sqrt(101))
    assert metrics.constant_l1_norm == 1


def test_a_student_that_was_not_trained_to_be_near_has_no_distance():
    student, teacher = random_features(width=3), random_features()

    metrics = feature_metrics(student, teacher, is_in_teacher_units=False)

    assert (metrics.l1_norm, metrics.l1_per_dimension, metrics.cosine) == (None, None, None)
    assert metrics.cka == pytest.approx(slow_cka(student, teacher), rel=1e-5)


def test_every_dimension_has_its_error_and_correlation():
    teacher = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]])
    student = torch.tensor([[2.0, 4.0, 4.0], [6.0, 6.0, 2.0]])

    table = dimension_table(student, teacher)

    assert table["mean_absolute_error"].to_list() == [2.0, 1.0, 2.0]
    assert table["teacher_std"].to_list() == [1.0, 0.0, 1.0]
    assert table["correlation"].to_list() == [pytest.approx(1), None, pytest.approx(-1)]
