"""The loss that ties IMU to frames, against a slow and obvious version of itself."""

import math

import pytest
import torch

from egoctl.student.model.losses import nce_loss


def features(num: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64)


def slow_nce(predicted, candidates, temperature, first):
    """Equation 7, one number at a time."""

    def similarity(query, key):
        dot = sum(float(a) * float(b) for a, b in zip(query, key, strict=True))
        lengths = math.sqrt(sum(float(a) ** 2 for a in query) * sum(float(b) ** 2 for b in key))
        return math.exp(dot / lengths / temperature)

    total = 0.0
    for i, query in enumerate(predicted):
        own = similarity(query, candidates[first + i])
        total -= math.log(own / sum(similarity(query, key) for key in candidates))
    return total / len(predicted)


@pytest.mark.parametrize(("num_candidates", "first"), [(5, 0), (15, 0), (15, 5), (15, 10)])
def test_the_loss_is_the_papers_double_loop(num_candidates, first):
    predicted, candidates = features(5, 7, seed=0), features(num_candidates, 7, seed=1)

    found = nce_loss(predicted, candidates, temperature=0.1, first=first)

    assert found.loss.item() == pytest.approx(slow_nce(predicted, candidates, 0.1, first), rel=1e-9)


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch():
    predicted, imu = features(6, 4, seed=2), features(6, 4, seed=3)

    whole = nce_loss(predicted, imu, temperature=0.1)
    shares = [nce_loss(predicted[at : at + 3], imu, temperature=0.1, first=at) for at in (0, 3)]

    assert sum(share.loss.item() for share in shares) / 2 == pytest.approx(whole.loss.item())
    assert sum(int(share.num_right) for share in shares) == int(whole.num_right)


def test_two_opposite_pairs_have_a_loss_that_can_be_written_down():
    pairs = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])

    found = nce_loss(pairs, pairs, temperature=0.1)

    # Own cosine 1, the other's -1: -log(e^10 / (e^10 + e^-10)).
    assert found.loss.item() == pytest.approx(math.log1p(math.exp(-20)), abs=1e-7)
    assert int(found.num_right) == 2


def test_who_finds_another_ones_imu_is_not_right():
    predicted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
    imu = torch.tensor([[0.9, 0.1], [-1.0, 0.0], [0.0, 1.0]])

    assert int(nce_loss(predicted, imu, temperature=0.1).num_right) == 1


def test_gradients_are_those_of_the_loss_in_both_arguments():
    predicted = features(3, 4, seed=4).requires_grad_()
    imu = features(5, 4, seed=5).requires_grad_()

    assert torch.autograd.gradcheck(
        lambda query, key: nce_loss(query, key, temperature=0.1, first=1).loss, (predicted, imu)
    )


def test_half_precision_is_not_divided_by_the_temperature():
    predicted, imu = features(8, 16, seed=6), features(8, 16, seed=7)
    half = (predicted.bfloat16(), imu.bfloat16())

    found = nce_loss(*half, temperature=0.1)

    assert found.loss.dtype == torch.float32
    exact = nce_loss(half[0].double(), half[1].double(), temperature=0.1)
    assert found.loss.item() == pytest.approx(exact.loss.item(), abs=1e-5)


def test_a_feature_of_zeros_has_a_loss():
    assert nce_loss(torch.zeros(2, 3), torch.ones(2, 3), temperature=0.1).loss.item() == (
        pytest.approx(math.log(2))
    )


def test_a_batch_of_one_has_no_negatives():
    with pytest.raises(ValueError, match="need 2 candidates or more.*got 1 for 1"):
        nce_loss(torch.ones(1, 3), torch.ones(1, 3), temperature=0.1)


@pytest.mark.parametrize("first", [-1, 2])
def test_a_query_without_a_candidate_of_its_own_is_refused(first):
    with pytest.raises(ValueError, match="one for each query"):
        nce_loss(torch.ones(2, 3), torch.ones(3, 3), temperature=0.1, first=first)
