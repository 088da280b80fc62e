"""Nearest clips: what is passed over, recall of the teacher's neighbours, exchanged IMU."""

import numpy as np
import pytest
import torch

from egoctl.student.analysis import retrieval
from egoctl.student.analysis.retrieval import (
    NONE,
    Exchange,
    draw_exchange,
    exchange_metrics,
    nearest,
    neighbour_recall,
    random_clips,
)


def random_features(num_clips, width=5, seed=0):
    values = np.random.default_rng(seed).normal(size=(num_clips, width))
    return torch.from_numpy(values.astype(np.float32))


def slow_neighbours(features, segments, clip, k):
    """The k clips of other segments with the largest cosine, by comparing all one by one."""
    others = [index for index in range(len(features)) if segments[index] != segments[clip]]
    cosine = {
        index: float(torch.cosine_similarity(features[clip], features[index], dim=0))
        for index in others
    }
    return sorted(others, key=lambda index: -cosine[index])[:k]


# --- nearest ---


def test_nearest_is_that_of_comparing_one_by_one_however_little_fits_in_memory(monkeypatch):
    gallery = random_features(30)
    segment = torch.arange(30) // 3
    monkeypatch.setattr(retrieval, "CHUNK_VALUES", 70)  # two queries at a time

    _, index = nearest(gallery, gallery, k=4, segment_N=segment, hidden_QX=segment[:, None])

    for clip in range(30):
        assert index[clip].tolist() == slow_neighbours(gallery, segment.tolist(), clip, 4)


def test_what_is_hidden_is_never_retrieved_and_missing_places_are_marked():
    gallery = torch.eye(4)
    segment = torch.tensor([0, 1, 2, 3])

    similarity, index = nearest(
        gallery[:1], gallery, k=3, segment_N=segment, hidden_QX=torch.tensor([[0, 2]])
    )

    assert sorted(index[0].tolist()) == [NONE, 1, 3]
    assert similarity[0].tolist() == [0.0, 0.0, -np.inf]


def test_more_neighbours_than_clips_are_marked_as_missing():
    gallery = torch.eye(2)

    _, index = nearest(
        gallery, gallery, k=3, segment_N=torch.tensor([0, 1]), hidden_QX=torch.tensor([[0], [1]])
    )

    assert index.tolist() == [[1, NONE, NONE], [0, NONE, NONE]]


# --- recall of the teacher's neighbours ---


def test_recall_is_that_of_comparing_sets_one_by_one():
    teacher, noise = random_features(24), random_features(24, seed=1)
    student = teacher + 0.7 * noise
    segment = torch.arange(24) // 2
    query = torch.tensor([0, 5, 11, 23])

    found = neighbour_recall(student, teacher, segment_N=segment, query_Q=query, ks=(1, 5))

    for item in found:
        shares = [
            len(
                set(slow_neighbours(student, segment.tolist(), clip, item.k))
                & set(slow_neighbours(teacher, segment.tolist(), clip, item.k))
            )
            / item.k
            for clip in query.tolist()
        ]
        assert item.recall == pytest.approx(np.mean(shares))
        assert 0 < item.recall < 1
        assert item.chance == pytest.approx(item.k / 22)
        assert item.num_queries == 4


def test_the_teacher_itself_recalls_all():
    teacher = random_features(24)

    (found,) = neighbour_recall(
        teacher * 3, teacher, segment_N=torch.arange(24), query_Q=torch.arange(24), ks=(5,)
    )

    assert found.recall == 1


def test_a_query_that_could_not_miss_does_not_count():
    # Clip 0 has nine clips of other segments to choose from, clips 1 to 9 have one.
    segment = torch.tensor([0] + [1] * 9)
    features = random_features(10)

    one, ten = neighbour_recall(
        features, features, segment_N=segment, query_Q=torch.arange(10), ks=(1, 10)
    )

    assert (one.num_queries, one.recall, one.chance) == (1, 1.0, pytest.approx(1 / 9))
    assert (ten.num_queries, ten.recall, ten.chance) == (0, None, None)


# --- exchanged IMU ---


def test_donors_are_of_other_segments_all_different_and_drawn_the_same_again():
    segment = torch.tensor([4, 4, 7, 7, 9, 2, 2, 2])

    exchange = draw_exchange(segment, frame_Q=torch.arange(8), num_donors=3, seed=5)

    assert exchange.donor_QM[:, 0].tolist() == list(range(8))
    for clip, donors in enumerate(exchange.donor_QM.tolist()):
        assert sorted(segment[donors].tolist()) == [2, 4, 7, 9], clip
    again = draw_exchange(segment, frame_Q=torch.arange(8), num_donors=3, seed=5)
    assert torch.equal(exchange.donor_QM, again.donor_QM)


def test_every_clip_of_a_segment_may_give_its_imu():
    segment = torch.tensor([0, 1, 1, 1])

    exchange = draw_exchange(segment, frame_Q=torch.zeros(200, dtype=int), num_donors=1, seed=0)

    assert set(exchange.donor_QM[:, 1].tolist()) == {1, 2, 3}


def test_a_single_segment_has_nobody_to_exchange_with():
    assert (
        draw_exchange(torch.zeros(5, dtype=int), frame_Q=torch.arange(5), num_donors=2, seed=0)
        is None
    )


def test_random_clips_are_all_of_a_few_and_some_of_many():
    assert random_clips(3, at_most=5, seed=0).tolist() == [0, 1, 2]
    picked = random_clips(100, at_most=5, seed=0).tolist()
    assert len(set(picked)) == 5 and picked == sorted(picked)
    assert picked != random_clips(100, at_most=5, seed=1).tolist()


def test_changes_and_labels_are_counted():
    # Clips 0 to 7, each a segment of its own; labels open (0) and close (1), clip 7 has none.
    label = torch.tensor([0, 1, 0, 1, 0, 1, 1, -1])
    exchange = Exchange(frame_Q=torch.tensor([0, 2]), donor_QM=torch.tensor([[0, 1, 2], [2, 0, 1]]))
    index = torch.tensor(
        [
            [[4, 3], [3, 5], [4, 3]],  # frame 0 (open): clip 1's IMU (close), clip 2's (open)
            [[4, 7], [4, 6], [7, 5]],  # frame 2 (open): clip 0's IMU (open), clip 1's (close)
        ]
    )

    metrics = exchange_metrics(index, exchange, segment_N=torch.arange(8), label_N=label)

    assert (metrics.k, metrics.num_frames, metrics.num_imus) == (2, 2, 2)
    # Nearest: 4 became 3, 4 stayed; 4 stayed, 4 became 7.
    assert metrics.top1_changed == 0.5
    # Of (3, 5) 3 was there, of (4, 3) both; of (4, 6) 4, of (7, 5) 7.
    assert metrics.topk_changed == pytest.approx(3 / 8)
    # Labels differ in (frame 0, IMU 1) and (frame 2, IMU 1): found 3, 5 (close) and 7 (none), 5.
    assert metrics.num_label_pairs == 2
    assert (metrics.frame_label, metrics.imu_label) == (0.0, 0.75)
    # Both choose from clips 3 to 7: one open, three close, one without a label.
    assert (metrics.frame_label_chance, metrics.imu_label_chance) == (
        pytest.approx(1 / 5),
        pytest.approx(3 / 5),
    )


def test_without_labels_only_changes_are_counted():
    exchange = Exchange(frame_Q=torch.tensor([0]), donor_QM=torch.tensor([[0, 1]]))

    metrics = exchange_metrics(
        torch.tensor([[[2, 3], [2, 3]]]),
        exchange,
        segment_N=torch.arange(4),
        label_N=torch.full((4,), -1),
    )

    assert (metrics.top1_changed, metrics.topk_changed, metrics.num_label_pairs) == (0, 0, 0)
    assert (metrics.frame_label, metrics.imu_label, metrics.imu_label_chance) == (None, None, None)
