"""The order of an epoch's clips, its batches, and the learning rate of every step."""

import pytest
import torch

from egoctl.pipeline.schedule import learning_rate
from egoctl.student.clips.epochs import batches_of, epoch_order


def test_an_epoch_over_clips_is_a_permutation_that_depends_on_seed_and_epoch():
    segments = torch.arange(50) // 2

    one = epoch_order(segments, "clips", seed=1, epoch=1)

    assert sorted(one.tolist()) == list(range(50))
    assert torch.equal(one, epoch_order(segments, "clips", seed=1, epoch=1))
    assert not torch.equal(one, epoch_order(segments, "clips", seed=1, epoch=2))
    assert not torch.equal(one, epoch_order(segments, "clips", seed=2, epoch=1))


def test_an_epoch_over_segments_takes_one_random_clip_of_each():
    segments = torch.tensor([0, 0, 0, 2, 2, 2, 5])

    orders = [epoch_order(segments, "segments", seed=0, epoch=epoch) for epoch in range(40)]

    assert all(sorted(segments[order].tolist()) == [0, 2, 5] for order in orders)
    assert {int(index) for order in orders for index in order} == set(range(7))


def test_processes_share_every_epoch_in_equal_parts():
    order = torch.arange(21)

    ranks = [batches_of(order, batch_size=8, rank=rank, num_ranks=2) for rank in (0, 1)]

    assert [[len(batch) for batch in batches] for batches in ranks] == [[4, 4, 3], [4, 4, 3]]
    seen = torch.cat([torch.cat(batches) for batches in ranks])
    assert sorted(seen.tolist()) == sorted([*range(21), 0])


def test_a_last_batch_of_one_joins_the_one_before():
    batches = batches_of(torch.arange(9), batch_size=4, rank=0, num_ranks=1)

    assert [len(batch) for batch in batches] == [4, 5]


def test_the_papers_rate_falls_to_a_tenth_at_60_and_80_percent_of_the_epochs():
    rates = [
        learning_rate("steps", 1e-4, step=epoch * 3, steps_per_epoch=3, num_epochs=50)
        for epoch in (0, 29, 30, 39, 40, 49)
    ]

    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_ego4ds_rate_falls_at_epochs_90_and_120_of_150():
    rates = [
        learning_rate("steps", 1e-4, step=epoch * 3, steps_per_epoch=3, num_epochs=150)
        for epoch in (0, 89, 90, 119, 120, 149)
    ]

    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_onecycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    found = [
        learning_rate("onecycle", 1e-3, step=step, steps_per_epoch=4, num_epochs=10)
        for step in range(40)
    ]

    assert found == pytest.approx(expected, rel=1e-6)
