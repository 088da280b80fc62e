"""Every loss against a slow version of itself in numpy, and on numbers done by hand."""

import math

import numpy as np
import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.losses import feature_l1, label_cross_entropy, logit_kl, student_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_softmax(logits: np.ndarray, tau: float) -> np.ndarray:
    powers = [math.exp(value / tau) for value in logits]
    return np.array([power / sum(powers) for power in powers])


def slow_kl(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        q, p = slow_softmax(s_row, tau), slow_softmax(t_row, tau)
        total += sum(p[c] * (math.log(p[c]) - math.log(q[c])) for c in range(len(p)))
    return total / len(student)


def test_l1_of_a_drawn_example_is_summed_over_dimensions_and_averaged_over_clips():
    student = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.0, 4.0, 3.0], [1.0, -1.0, 5.0]])

    assert feature_l1(student, teacher, reduction="norm").item() == 5.0  # (3 + 7) / 2
    assert feature_l1(student, teacher, reduction="mean").item() == pytest.approx(5 / 3)


def test_l1_equals_the_slow_version():
    student, teacher = drawn(5, 7), drawn(5, 7, seed=1)

    slow = sum(abs(float(student[n, d] - teacher[n, d])) for n in range(5) for d in range(7)) / 5

    assert feature_l1(student, teacher, reduction="norm").item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0, 10.0])
def test_kd_equals_the_slow_version(tau):
    student, teacher = 3 * drawn(6, 5), 3 * drawn(6, 5, seed=1)

    slow = slow_kl(student.double().numpy(), teacher.double().numpy(), tau)

    assert logit_kl(student, teacher, tau=tau).item() == pytest.approx(slow, rel=1e-4)


def test_kd_is_scaled_by_tau_squared_only_when_asked():
    student, teacher = drawn(6, 5), drawn(6, 5, seed=1)

    plain = logit_kl(student, teacher, tau=4.0)
    scaled = logit_kl(student, teacher, tau=4.0, tau_squared=True)

    assert scaled.item() == pytest.approx(16 * plain.item())


def test_kd_is_zero_between_equal_distributions_and_not_symmetric():
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])

    assert logit_kl(one, one + 5, tau=1.0).item() == pytest.approx(0, abs=1e-6)
    assert logit_kl(one, other, tau=1.0).item() != pytest.approx(logit_kl(other, one, tau=1.0))


def test_cross_entropy_skips_clips_without_a_label():
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, math.log(3)]])
    labels = torch.tensor([0, -1, 1])

    # -log 1/2 and -log 3/4, averaged over the two labelled clips
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert label_cross_entropy(logits, labels).item() == pytest.approx(expected)


def test_cross_entropy_of_a_batch_without_labels_is_zero_and_has_zero_gradient():
    logits = drawn(3, 4).requires_grad_()

    loss = label_cross_entropy(logits, torch.tensor([-1, -1, -1]))
    loss.backward()

    assert loss.item() == 0
    assert not logits.grad.any()


def parts_of(config: LossConfig):
    return student_loss(
        config,
        student_feature_BD=drawn(4, 6),
        student_logits_BC=drawn(4, 3, seed=1),
        label_B=torch.tensor([0, 2, -1, 1]),
        teacher_feature_BD=drawn(4, 6, seed=2),
        teacher_logits_BC=drawn(4, 3, seed=3),
    )


def test_the_total_is_alpha_kd_plus_the_rest_gt_plus_beta_l1():
    parts = parts_of(LossConfig(alpha=0.95, beta=2.0, tau=10.0))

    expected = 0.95 * parts.kd + 0.05 * parts.gt + 2 * parts.l1
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert min(parts.kd, parts.gt, parts.l1) > 0


def test_the_defaults_are_the_papers():
    config = LossConfig()

    assert (config.alpha, config.beta, config.tau) == (0.95, 1.0, 1.0)
    assert (config.kd_tau_squared, config.l1_reduction) == (False, "norm")


def test_parts_without_weight_need_no_target():
    parts = student_loss(
        LossConfig(alpha=0.0, beta=0.0),
        student_feature_BD=drawn(2, 6),
        student_logits_BC=drawn(2, 3),
        label_B=torch.tensor([0, 1]),
        teacher_feature_BD=None,
        teacher_logits_BC=None,
    )

    assert parts.total == parts.gt > 0
    assert parts.kd == parts.l1 == 0


@pytest.mark.parametrize(
    ("config", "missing"),
    [(LossConfig(beta=0.0), "teacher_logits"), (LossConfig(alpha=0.0), "teacher_feature")],
    ids=["kd", "l1"],
)
def test_a_part_with_weight_refuses_to_go_without_its_target(config, missing):
    with pytest.raises(ValueError, match=missing):
        student_loss(
            config,
            student_feature_BD=drawn(2, 6),
            student_logits_BC=drawn(2, 3),
            label_B=torch.tensor([0, 1]),
            teacher_feature_BD=None,
            teacher_logits_BC=None,
        )


def test_shapes_that_differ_are_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 1\)"):
        feature_l1(drawn(2, 3), drawn(2, 1), reduction="norm")
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        logit_kl(drawn(2, 3), drawn(1, 3), tau=1.0)


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 1.5), ("beta", -1.0), ("tau", 0.0), ("l1_reduction", "sum")]
)
def test_an_impossible_loss_is_refused_by_name(field, value):
    with pytest.raises(EgoctlError, match=field):
        LossConfig(**{field: value})


# --- in float64, against plain loops, and against differences ---


def slow_total(config: LossConfig, z, s, y, t_z, t) -> float:
    num_clips, num_dims = z.shape
    kd = slow_kl(s, t, config.tau) * (config.tau**2 if config.kd_tau_squared else 1)
    labelled = [row for row in range(num_clips) if y[row] >= 0]
    gt = sum(-math.log(slow_softmax(s[row], 1.0)[y[row]]) for row in labelled) / len(labelled)
    l1 = sum(abs(t_z[n, d] - z[n, d]) for n in range(num_clips) for d in range(num_dims))
    l1 /= num_clips * (num_dims if config.l1_reduction == "mean" else 1)
    return float(config.alpha * kd + (1 - config.alpha) * gt + config.beta * l1)


CONFIGS = [
    LossConfig(),
    LossConfig(tau=10.0),
    LossConfig(alpha=0.3, beta=0.5, tau=4.0, kd_tau_squared=True),
    LossConfig(alpha=0.5, beta=2.0, l1_reduction="mean"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_whole_loss_equals_plain_loops_to_the_last_digits_of_float64(config):
    z, t_z = drawn(5, 7).double(), drawn(5, 7, seed=1).double()
    s, t = 3 * drawn(5, 4, seed=2).double(), 3 * drawn(5, 4, seed=3).double()
    labels = torch.tensor([0, 3, -1, 2, -1])

    parts = student_loss(
        config,
        student_feature_BD=z,
        student_logits_BC=s,
        label_B=labels,
        teacher_feature_BD=t_z,
        teacher_logits_BC=t,
    )

    slow = slow_total(config, z.numpy(), s.numpy(), labels.tolist(), t_z.numpy(), t.numpy())
    assert parts.total.dtype == torch.float64
    assert parts.total.item() == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_are_those_of_finite_differences(config):
    z = drawn(4, 3).double().requires_grad_()
    s = drawn(4, 5, seed=1).double().requires_grad_()
    # Far from z in every dimension: L1 has no derivative where they meet.
    t_z, t = z.detach() + torch.tensor([1.0, -1.0, 2.0]).double(), drawn(4, 5, seed=2).double()

    def total(feature, logits):
        return student_loss(
            config,
            student_feature_BD=feature,
            student_logits_BC=logits,
            label_B=torch.tensor([0, -1, 4, 2]),
            teacher_feature_BD=t_z,
            teacher_logits_BC=t,
        ).total

    assert torch.autograd.gradcheck(total, (z, s))


def test_half_precision_is_summed_in_float32():
    student, teacher = drawn(4, 6).bfloat16(), drawn(4, 6, seed=1).bfloat16()

    assert feature_l1(student, teacher, reduction="norm").dtype == torch.float32
    assert logit_kl(student, teacher, tau=1.0).dtype == torch.float32
    assert label_cross_entropy(student, torch.tensor([0, 1, 2, 3])).dtype == torch.float32
