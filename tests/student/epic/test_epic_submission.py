"""EPIC-KITCHENS' challenge: the file it takes, and its accuracies under their official names."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from egoctl.cli import app
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.runs.run_folder import write_json
from egoctl.student.epic.metrics import EpicGroups, official_metrics, read_groups
from egoctl.student.epic.scores import EpicScores, read_epic_scores
from egoctl.student.epic.submission import SupervisionLevels, write_submission
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.epic_world import EPIC100, needs_epic100
from egoctl.tests.worlds.student_world import make_world

LEVELS = SupervisionLevels(pretraining=2, training_labels=3, training_data=4)


def segment(segment_id: str, verb: int | None, noun: int | None, **changes: Any) -> Segment:
    plain = Segment(
        segment_id=segment_id, video_id="P01_107", video_path="P01_107.MP4", imu_path=None,
        participant_id="P01", start_s=1.0, stop_s=3.0, label=verb, split="test",
        verb_class=verb, noun_class=noun,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def peaked(num_classes: int, **of_class: float) -> list[float]:
    """Probabilities: c3=0.5 gives class 3 a half; the others share the rest."""
    rest = (1 - sum(of_class.values())) / (num_classes - len(of_class))
    values = [rest] * num_classes
    for name, value in of_class.items():
        values[int(name[1:])] = value
    return values


def scores_of(*rows: tuple[Segment, list[float], list[float]]) -> EpicScores:
    return EpicScores(
        segments=tuple(row[0] for row in rows),
        verb_SV=np.log([row[1] for row in rows]),
        noun_SN=np.log([row[2] for row in rows]),
        missing=(),
    )


def write_run(
    folder: Path, name: str, num_classes: int, predictions: dict[str, list[float]]
) -> str:
    """A run as far as a submission looks at it: its config and its predictions of test."""
    config = TrainConfig(
        manifest=str(folder / "epic.parquet"), inputs="none", run=str(folder / name),
        student=StudentConfig(method="imuonly", image_weights="random"),
    )  # fmt: skip
    write_json(
        folder / name / "config.json",
        {
            "train": config.to_json(),
            "student": dataclasses.asdict(config.student),
            "class_names": [f"{name} {number}" for number in range(num_classes)],
            "fingerprints": {"inputs": "f", "teacher": None},
            "digests": {"train": {}, "val": None},
        },
    )
    pl.DataFrame(
        {"segment_id": list(predictions), "probabilities": list(predictions.values())},
        schema={"segment_id": pl.String, "probabilities": pl.List(pl.Float32)},
    ).write_parquet(folder / name / "predictions.parquet")
    return str(folder / name)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """Students of verbs and nouns; the one of nouns knows nothing of the second segment."""
    segments = (segment("P01_107_0", None, None), segment("P01_107_1", None, None))
    train = segment("P01_01_0", 3, 8, split="train")
    write_manifest(
        Manifest(
            segments=(train, *segments),
            class_names=tuple(f"verb {number}" for number in range(97)),
            dataset_name="EPIC-KITCHENS-100",
            window_s=2.0,
            stride_s=None,
            root=tmp_path,
        ),
        tmp_path / "epic.parquet",
    )
    verbs = {"P01_107_0": peaked(97, c3=0.5), "P01_107_1": peaked(97, c0=1.0)}
    return (
        write_run(tmp_path, "verbs", 97, verbs),
        write_run(tmp_path, "nouns", 300, {"P01_107_0": peaked(300, c8=0.25)}),
    )


# --- the file ----------------------------------------------------------------------------------


def test_the_zip_holds_test_json_as_the_challenge_wants_it(
    tmp_path: Path, runs: tuple[str, str]
) -> None:
    scores = read_epic_scores(runs, split="test")
    write_submission(scores, LEVELS, tmp_path / "a" / "submission.zip")

    with zipfile.ZipFile(tmp_path / "a" / "submission.zip") as zipped:
        assert zipped.namelist() == ["test.json"]
        found = json.loads(zipped.read("test.json"))
    results = found.pop("results")
    assert found == {
        "version": "0.2", "challenge": "action_recognition",
        "sls_pt": 2, "sls_tl": 3, "sls_td": 4,
    }  # fmt: skip
    assert list(results) == ["P01_107_0", "P01_107_1"]
    first, second = results["P01_107_0"], results["P01_107_1"]
    assert list(first) == ["verb", "noun"]
    assert list(first["verb"]) == [str(number) for number in range(97)]
    assert list(first["noun"]) == [str(number) for number in range(300)]
    # log(1/2), log(1/192); log(1/4), log(0.75/299); and a floor of 1e-9 where a student is sure.
    assert (first["verb"]["3"], first["verb"]["96"]) == (-0.693147, -5.257495)
    assert (first["noun"]["8"], first["noun"]["299"]) == (-1.386294, -5.988126)
    assert (second["verb"]["0"], second["verb"]["1"]) == (0.0, -20.723266)
    # Without a prediction: log(1/300) for every noun.
    assert set(second["noun"].values()) == {-5.703782}
    assert scores.missing == ("P01_107_1",)


def test_the_same_scores_are_the_same_bytes(tmp_path: Path, runs: tuple[str, str]) -> None:
    scores = read_epic_scores(runs[::-1], split="test")
    for name in ("a.zip", "b.zip"):
        write_submission(scores, LEVELS, tmp_path / name)

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_is_overwritten_only_when_told(tmp_path: Path, runs: tuple[str, str]) -> None:
    out = tmp_path / "submission.zip"
    out.write_text("another")
    scores = read_epic_scores(runs, split="test")

    with pytest.raises(EgoctlError, match="submission.zip exists. Pass --force"):
        write_submission(scores, LEVELS, out)
    assert out.read_text() == "another"

    write_submission(scores, LEVELS, out, overwrite=True)
    assert zipfile.is_zipfile(out)


def test_levels_of_supervision_are_0_to_5() -> None:
    with pytest.raises(EgoctlError, match="--sls-tl must be 0 to 5, got 6"):
        SupervisionLevels(pretraining=0, training_labels=6, training_data=5)


def test_runs_that_were_trained_and_evaluated_can_be_submitted(tmp_path: Path) -> None:
    urls = []
    for kind, num_classes in (("verb", 97), ("noun", 300)):
        names = tuple(f"{kind} {number}" for number in range(num_classes))
        world = make_world(
            tmp_path / kind, class_names=names, teacher_classes=names, without_imu=("test-4",)
        )
        train(world.config(num_epochs=1, student={"method": "imuonly"}, teacher=None))
        evaluate(world.folder / "run")
        urls.append(str(world.folder / "run"))

    scores = read_epic_scores(urls, split="test")

    assert [one.segment_id for one in scores.segments] == [f"test-{index}" for index in range(9)]
    assert scores.missing == ("test-4",)
    np.testing.assert_allclose(np.exp(scores.verb_SV).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(scores.noun_SN).sum(axis=1), 1, atol=1e-5)
    stored = pl.read_parquet(tmp_path / "noun" / "run" / "predictions.parquet")
    assert scores.noun_SN.argmax(axis=1)[0] == stored["predicted"][0]


# --- runs that will not do ---------------------------------------------------------------------


def test_two_runs_of_verbs_are_refused(runs: tuple[str, str]) -> None:
    with pytest.raises(EgoctlError, match="verbs has 97 classes; wanted one run of the 97 verbs"):
        read_epic_scores((runs[0], runs[0]), split="test")
    with pytest.raises(EgoctlError, match="got .*nouns; wanted one run of the 97 verbs and one"):
        read_epic_scores(runs[1:], split="test")


def test_a_run_of_other_classes_is_refused(tmp_path: Path, runs: tuple[str, str]) -> None:
    actions = write_run(tmp_path, "actions", 1352, {})

    with pytest.raises(EgoctlError, match="actions has 1352 classes; wanted one run of the 97"):
        read_epic_scores((runs[0], actions), split="test")


def test_a_split_without_predictions_tells_how_to_make_them(runs: tuple[str, str]) -> None:
    with pytest.raises(EgoctlError, match="predictions-val.parquet is not there. Run 'egoctl eval"):
        read_epic_scores(runs, split="val")


def test_predictions_of_other_segments_are_refused(tmp_path: Path, runs: tuple[str, str]) -> None:
    write_run(tmp_path, "nouns", 300, {"P99_01_0": peaked(300, c8=0.25)})

    with pytest.raises(EgoctlError, match="run of nouns has a prediction of 'P99_01_0', which is"):
        read_epic_scores(runs, split="test")


# --- accuracies --------------------------------------------------------------------------------


def test_official_accuracies_by_hand() -> None:
    groups = EpicGroups(
        tail_verbs=frozenset({9}), tail_nouns=frozenset({7}), unseen_participants=frozenset({"P18"})
    )
    sure, fifth = peaked(97, c3=0.9), peaked(97, c0=0.3, c1=0.2, c2=0.1, c4=0.09, c9=0.08)
    scores = scores_of(
        # Verb and noun right; participant not seen in training.
        (segment("a", 3, 8, participant_id="P18"), sure, peaked(300, c8=0.9)),
        # Verb right, noun second; a tail noun, so a tail action. The action is second.
        (segment("b", 3, 7), sure, peaked(300, c8=0.5, c7=0.4)),
        # A tail verb that comes fifth: its action is (0.08 x 0.9) behind four others.
        (segment("c", 9, 8), fifth, peaked(300, c8=0.9)),
        # Verb wrong beyond the best five, noun right.
        (segment("d", 50, 8), fifth, peaked(300, c8=0.9)),
        # No labels: counts nowhere.
        (segment("e", None, None), sure, peaked(300, c8=0.9)),
    )

    assert official_metrics(scores, groups) == {
        "all_verb_accuracy_at_1": 50.0,
        "all_noun_accuracy_at_1": 75.0,
        "all_action_accuracy_at_1": 25.0,
        "all_verb_accuracy_at_5": 75.0,
        "all_noun_accuracy_at_5": 100.0,
        "all_action_accuracy_at_5": 75.0,
        "unseen_verb_accuracy_at_1": 100.0,
        "unseen_noun_accuracy_at_1": 100.0,
        "unseen_action_accuracy_at_1": 100.0,
        "tail_verb_accuracy_at_1": 0.0,
        "tail_noun_accuracy_at_1": 0.0,
        "tail_action_accuracy_at_1": 0.0,
    }


def test_actions_are_ranked_as_the_slow_way_ranks_them() -> None:
    random = np.random.default_rng(0)
    verb_SV = random.dirichlet(np.full(97, 0.2), 20)
    noun_SN = random.dirichlet(np.full(300, 0.2), 20)
    segments = [segment(f"s{number}", number, number) for number in range(20)]
    scores = scores_of(*zip(segments, verb_SV + 1e-9, noun_SN + 1e-9, strict=True))
    right = 0
    for number in range(20):
        actions = [
            ((verb_SV[number, verb] + 1e-9) * (noun_SN[number, noun] + 1e-9), verb, noun)
            for verb in range(97)
            for noun in range(300)
        ]
        best = sorted(actions, reverse=True)[:5]
        segments[number] = segment(f"s{number}", best[number % 7 % 5][1], best[number % 7 % 5][2])
        right += number % 7 % 5 == 0
    scores = dataclasses.replace(scores, segments=tuple(segments))

    found = official_metrics(
        scores,
        EpicGroups(tail_verbs=frozenset(), tail_nouns=frozenset(), unseen_participants=frozenset()),
    )

    assert found["all_action_accuracy_at_1"] == 100 * right / 20 == 30.0
    assert found["all_action_accuracy_at_5"] == 100.0
    assert not [name for name in found if name.startswith(("tail", "unseen"))]


def test_absent_groups_are_named(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match="EPIC_100_tail_verbs.csv is not there, or has no column"):
        read_groups(tmp_path)


@needs_epic100
def test_the_published_groups() -> None:
    groups = read_groups(EPIC100)

    assert (len(groups.tail_verbs), len(groups.tail_nouns)) == (86, 228)
    assert groups.unseen_participants == {"P18", "P32"}


# --- the command -------------------------------------------------------------------------------


def test_the_command_writes_the_file_and_exits_1_if_a_segment_has_no_prediction(
    tmp_path: Path, runs: tuple[str, str]
) -> None:
    out = tmp_path / "submission.zip"

    done = CliRunner().invoke(
        app,
        [
            "submission", "epic", *runs, "--out", str(out),
            "--sls-pt", "2", "--sls-tl", "3", "--sls-td", "3",
        ],
    )  # fmt: skip

    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{out}: 2 segments of split test",
        "without a prediction, so all classes score the same: 1 segments (P01_107_1).",
    ]
    assert zipfile.is_zipfile(out)
