"""Which logits a student learns: those of the manifest's classes, found by name or by size."""

import dataclasses

import numpy as np
import pytest
import torch

from egoctl.pipeline.errors import StoreMismatchError
from egoctl.pipeline.extraction.plan import StoreConfig, teacher_header
from egoctl.pipeline.reading.clip_job import teacher_view
from egoctl.pipeline.store.teacher_columns import teacher_columns
from egoctl.student.clip_dataset import ClipDataset
from egoctl.student.clips.sources import open_sources, read_train_clips, resolved_student
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.losses import logit_kl
from egoctl.student.training.train import train
from egoctl.tests.worlds.extract_world import MeanTeacher
from egoctl.tests.worlds.student_world import CLASS_NAMES, class_of, make_world

EPIC = ("verb:take", "verb:cut", "verb:wash", "verb:roll", "noun:knife", "noun:roll")
EPIC_HEADS = [4, 2]


def columns(class_names, teacher_names, head_sizes=None, num_logits=None):
    num_logits = len(teacher_names) if num_logits is None else num_logits
    return teacher_columns(
        class_names,
        teacher_names=teacher_names,
        head_sizes=[num_logits] if head_sizes is None else head_sizes,
        num_logits=num_logits,
    )


def slow_columns(class_names, teacher_names, head_sizes):
    """By trying every column for every class, head by head."""
    answers, start = [], 0
    for size in head_sizes:
        head = range(start, start + size)
        start += size
        answer = []
        for name in class_names:
            same = [c for c in head if teacher_names[c] == name]
            same = same or [c for c in head if teacher_names[c].split(":", 1)[-1] == name]
            answer.append(same)
        if all(len(same) == 1 for same in answer):
            answers.append(tuple(same[0] for same in answer))
    return answers[0] if len(answers) == 1 else None


# --- by name ---


@pytest.mark.parametrize(
    ("class_names", "teacher_names", "head_sizes", "expected"),
    [
        (("cut", "stir"), ("cut", "stir"), [2], (0, 1)),
        (("cut", "stir"), ("stir", "cut"), [2], (1, 0)),
        (("wash", "cut"), ("cut", "stir", "wash"), [3], (2, 0)),
        (("cut", "fry"), ("cut", "stir"), [2], None),
        (("wash", "cut"), EPIC, EPIC_HEADS, (2, 1)),
        (("verb:cut", "wash"), EPIC, EPIC_HEADS, (1, 2)),
        (("knife",), EPIC, EPIC_HEADS, (4,)),
        (("noun:roll",), EPIC, EPIC_HEADS, (5,)),
        # "roll" is in both heads, but only one of them can cut.
        (("roll", "cut"), EPIC, EPIC_HEADS, (3, 1)),
        (("roll",), EPIC, EPIC_HEADS, None),
        (("cut", "knife"), EPIC, EPIC_HEADS, None),
        # One head by its sizes: nothing tells the two rolls apart.
        (("roll", "cut"), EPIC, [6], None),
        # A plain name goes before one that must first lose its head's.
        (("cut",), ("cut", "verb:cut"), [2], (0,)),
        (("cut",), ("cut", "cut"), [2], None),
        (("cut", "verb:cut"), ("verb:cut", "verb:take"), [2], None),
    ],
)
def test_every_class_must_be_found_once_in_one_head(
    class_names, teacher_names, head_sizes, expected
):
    found = columns(class_names, teacher_names, head_sizes)

    assert found.columns_C == expected
    assert (found.reason == "") is (expected is not None)


def test_columns_are_those_of_the_slow_way():
    rng = np.random.default_rng(0)
    words = [f"{head}{name}" for head in ("", "verb:", "noun:") for name in "abcde"]
    num_found = 0
    for _ in range(2000):
        sizes = [int(size) for size in rng.integers(1, 5, rng.integers(1, 4))]
        teacher_names = tuple(rng.choice(words, sum(sizes)))
        wanted = tuple(rng.choice(list("abcde"), rng.integers(1, 4), replace=False))

        found = columns(wanted, teacher_names, sizes).columns_C

        assert found == slow_columns(wanted, teacher_names, sizes)
        num_found += found is not None
    assert 100 < num_found < 1900


@pytest.mark.parametrize(
    ("class_names", "head_sizes", "reason"),
    [
        (
            ("cut", "fry"),
            EPIC_HEADS,
            "the manifest has 2 classes, the teacher 6; only the manifest has 'fry'; only the "
            "teacher has 'verb:take', 'verb:wash', 'verb:roll' and 2 more",
        ),
        (("cut", "knife"), EPIC_HEADS, "the teacher has these classes in different heads"),
        (
            ("roll",),
            EPIC_HEADS,
            "2 heads of the teacher have all of these classes; write them with the head's name in "
            "front, as the store does",
        ),
        (("roll", "cut"), [6], "the teacher has 'roll' more than once"),
        (("cut", "cut"), EPIC_HEADS, "the manifest has 'cut' more than once"),
        ((), EPIC_HEADS, "the manifest has no classes"),
    ],
)
def test_it_is_said_why_there_are_none(class_names, head_sizes, reason):
    assert columns(class_names, EPIC, head_sizes).reason == reason


# --- by size ---


@pytest.mark.parametrize(
    ("num_classes", "head_sizes", "expected"),
    [
        (3, [3], (0, 1, 2)),
        (3, [2, 3], (2, 3, 4)),
        (2, [2, 3], (0, 1)),
        (5, [2, 3], None),
        (3, [3, 3], None),
    ],
)
def test_without_names_the_only_head_of_that_size_is_meant(num_classes, head_sizes, expected):
    class_names = tuple("abcde"[:num_classes])

    assert columns(class_names, None, head_sizes, sum(head_sizes)).columns_C == expected


def test_without_names_it_is_said_why_no_head_is_meant():
    tie = columns(("a", "b", "c"), None, [3, 3], 6)
    other = columns(("a", "b", "c"), None, [97, 300], 397)

    assert tie.reason == (
        "the teacher has 2 heads of 3 classes (3 and 3) and no names of them, so it cannot be "
        "told which is meant"
    )
    assert other.reason == "the manifest has 3 classes, the teacher 97 and 300"


@pytest.mark.parametrize("head_sizes", [[2, 2], [-1, 4], [3.0], "3", None, [True, 2], [[3]]])
def test_head_sizes_of_strangers_break_nothing(head_sizes):
    found = teacher_columns(("a",), teacher_names=None, head_sizes=head_sizes, num_logits=3)

    assert (found.columns_C, found.reason) == (
        None,
        "the teacher's head_sizes do not add up to its 3 logits",
    )


def test_more_names_than_logits_break_nothing():
    found = columns(("c",), ("a", "b", "c"), [2], 2)

    assert (found.columns_C, found.reason) == (None, "the teacher names 3 classes and has 2 logits")


# --- the spec and the recipe ---


def header_of(**changes):
    teacher = MeanTeacher()
    spec = dataclasses.replace(teacher.spec, **changes)
    view = teacher_view(spec, window_s=2.0)
    return teacher_header(spec, teacher.weights, view, StoreConfig(), precision="fp32")


def test_only_the_recipe_of_several_heads_tells_their_sizes():
    assert header_of(head_sizes=(2, 3)).recipe["head_sizes"] == [2, 3]
    assert "head_sizes" not in header_of().recipe
    assert header_of(head_sizes=(5,)).fingerprint == header_of().fingerprint


@pytest.mark.parametrize("head_sizes", [(2, 2), (0, 5), (6, -1)])
def test_heads_that_are_not_all_the_classes_are_refused(head_sizes):
    with pytest.raises(ValueError, match="are not 5 in all"):
        header_of(head_sizes=head_sizes)


# --- a run ---

TWO_HEADS = ("verb:fry", "verb:stir", "verb:wash", "verb:cut", "noun:cut", "noun:pan")


def two_head_logits(clip, num_classes):
    """Sure of the class, surer of a verb that the manifest does not have, and of a noun."""
    logits = np.linspace(-1, 1, num_classes).astype(np.float32)
    logits[TWO_HEADS.index(f"verb:{CLASS_NAMES[class_of(clip)]}")] = 4.0
    logits[[0, 5]] = 9.0
    return logits


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(
        tmp_path_factory.mktemp("world"),
        teacher_classes=TWO_HEADS,
        head_sizes=(4, 2),
        teacher_logits=two_head_logits,
    )
    train(world.config())
    return world


def test_a_student_learns_the_logits_of_the_manifests_classes_in_its_order(world):
    config = world.config()

    clips = read_train_clips(config, open_sources(config))

    expected = [two_head_logits(clip, 6)[[3, 1, 2]] for clip in clips.clips]  # cut, stir, wash
    np.testing.assert_array_equal(clips.logits_NC, expected)


def test_kd_is_over_the_manifests_classes_alone(world):
    config = world.config()
    clips = read_train_clips(config, open_sources(config))
    student_NC = torch.zeros(len(clips), 3)

    kl = logit_kl(student_NC, clips.logits_NC, tau=1.0).item()

    slow = []
    for clip in clips.clips:
        chosen = np.exp(two_head_logits(clip, 6)[[3, 1, 2]].astype(np.float64))
        p = chosen / chosen.sum()
        slow.append((p * np.log(p / (1 / 3))).sum())
    assert kl == pytest.approx(np.mean(slow), rel=1e-5)


def test_the_log_tells_which_columns_they_are(world):
    log = (world.folder / "run" / "train.log").read_text()

    assert "3 of the teacher's 6 logits are the manifest's classes: columns 3, 1-2" in log


def test_a_teacher_is_scored_on_the_manifests_classes_alone(world):
    # It would always say "fry", which no segment is.
    metrics = evaluate(world.folder / "run")

    assert (metrics.teacher_top1, metrics.num_teacher_scored) == (1.0, 9)


def test_a_teacher_of_just_our_classes_is_not_worth_a_line(tmp_path):
    world = make_world(tmp_path, splits=("train",), segments_of_split=3)
    train(world.config(num_epochs=1))

    assert "columns" not in (tmp_path / "run" / "train.log").read_text()


def test_kd_is_refused_with_the_reason_and_labels_still_work(tmp_path):
    world = make_world(
        tmp_path,
        splits=("train", "test"),
        segments_of_split=3,
        teacher_classes=("verb:cut", "verb:stir", "noun:wash"),
        head_sizes=(2, 1),
    )

    with pytest.raises(StoreMismatchError) as caught:
        resolved_student(world.config(), open_sources(world.config()))
    train(world.config(num_epochs=1, loss=LossConfig(alpha=0.0)))

    assert str(caught.value) == (
        f"KD needs the same classes in {tmp_path / 'manifest.parquet'} and in "
        f"{world.teacher.url}: the teacher has these classes in different heads. "
        "Pass --alpha 0 to learn from labels and L1 only."
    )
    metrics = evaluate(tmp_path / "run")
    assert (metrics.teacher_top1, metrics.num_target_clips) == (None, 6)
    assert metrics.feature_l1 is not None


def test_a_dataset_for_other_trainers_has_all_logits_and_tells_which_are_ours(world):
    clips = ClipDataset(
        world.manifest, inputs=world.inputs.url, teacher=world.teacher.url, split="train"
    )

    assert clips[0].logits.shape == (6,)
    assert clips.logit_columns == (3, 1, 2)
    assert clips[0].logits[list(clips.logit_columns)].argmax() == clips[0].label
