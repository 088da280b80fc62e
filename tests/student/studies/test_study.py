"""A study on the tiny world: what is trained, what is kept, what is told of failures."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest

import egoctl.student.studies.study as study_module
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest
from egoctl.student.studies.plan import read_plan
from egoctl.student.studies.report import plan_lines, report_study
from egoctl.student.studies.study import run_study, study_states
from egoctl.tests.worlds.student_world import make_world

PLAN = """
manifest = "manifest.parquet"
out = "study"
seeds = [0, 1]
[inputs]
all = "inputs.store"
[teachers]
tiny = "teacher.store"
[settings]
imu_out = 8
imu_readout = "last"
fusion_hidden = 8
num_epochs = 1
batch_size = 6
learning_rate = 1e-2
device = "cpu"
[rows.distilled]
method = "imuonly-distill"
[rows.labels]
method = "imuonly"
[tables.main]
title = "Main"
rows = ["teacher", "distilled", "labels"]
against = "labels"
imu = ["own", "other"]
paper_source = "EgoDistill, Table 1"
paper = [{ row = "labels", numbers = { Ego4D = 34.15, EPIC = 35.04 } }]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The world with every run of the plan done, and what was said of it."""
    folder = tmp_path_factory.mktemp("finished")
    make_world(folder)
    (folder / "plan.toml").write_text(PLAN)
    _, said = run(folder / "plan.toml")
    return folder, said


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    make_world(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "plan.toml"


@pytest.fixture
def done_file(finished: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """The plan, in a copy of the finished world: runs are found wherever they lie."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "plan.toml"


def run(plan_file: Path, *changes: str, only=(), jobs=1) -> tuple[dict[str, str], list[str]]:
    """State by run, and what was said."""
    said: list[str] = []
    states = run_study(read_plan(plan_file, changes), only=only, jobs=jobs, say=said.append)
    return {state.run.name: state.state for state in states}, said


def report(plan_file: Path, *changes: str, page=None):
    plan = read_plan(plan_file, changes)
    return report_study(plan, study_states(plan), lambda network, inputs: 1.5, page=page)


def test_every_row_is_trained_with_every_seed(finished):
    folder, said = finished

    names = [path.name.rsplit("--", 1)[0] for path in (folder / "study" / "runs").iterdir()]
    assert sorted(names) == [
        "distilled--tiny--0", "distilled--tiny--1", "labels--0", "labels--1",
    ]  # fmt: skip
    assert said[0].startswith("[1/4] distilled tiny seed 0: done in ")


def test_labels_alone_are_trained_once_for_all_teachers(done_file):
    second = f"teachers.second={done_file.parent / 'teacher.store'}"

    states = study_states(read_plan(done_file, [second, "seeds=[0]"]))

    assert [(state.run.name, state.state) for state in states] == [
        ("distilled tiny seed 0", "found"),
        ("labels seed 0", "found"),
        ("distilled second seed 0", "left"),
    ]
    lines = {(x.row, x.teacher): x.value for x in report(done_file, second).tables[0].lines}
    assert lines["labels", "second"] == lines["labels", "tiny"] is not None


def test_finished_runs_are_not_done_again_and_a_new_seed_is_alone(done_file, monkeypatch):
    trained: list[str] = []
    real = study_module.train
    monkeypatch.setattr(
        study_module, "train", lambda config: trained.append(config.run) or real(config)
    )

    again, said = run(done_file)
    grown, _ = run(done_file, "seeds=[0, 1, 2]", only=["labels"])

    assert set(again.values()) == {"found"} and said == []
    assert [Path(folder).name.split("--")[:2] for folder in trained] == [["labels", "2"]]
    assert grown["distilled tiny seed 2"] == "left"
    assert grown["labels seed 2"] == "done"


def test_another_setting_or_another_store_is_another_run(plan_file):
    def folders(*changes: str) -> set[str]:
        return {str(s.run.folder) for s in study_states(read_plan(plan_file, changes))}

    first = folders()
    longer = folders("settings.num_epochs=2")
    elsewhere = folders("settings.num_workers=1")
    make_world(plan_file.parent / "other", teacher_key_salt="", unlabelled=("train-0",))
    other = folders(f"manifest={plan_file.parent / 'other' / 'manifest.parquet'}")

    assert not first & longer
    assert first == elsewhere
    assert not first & other


def test_ctrl_c_keeps_what_is_finished_and_the_next_start_goes_on(plan_file, monkeypatch):
    real = study_module.train
    calls: list[str] = []

    def interrupted(config):
        calls.append(config.run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(config)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study_module, "train", interrupted)
        run(plan_file, "seeds=[0]")

    states, _ = run(plan_file, "seeds=[0]")
    assert states == {"distilled tiny seed 0": "found", "labels seed 0": "done"}


def test_a_run_that_fails_is_named_and_the_others_are_in_the_tables(done_file):
    done_file.write_text(PLAN + '[rows.lost]\nmethod = "imuonly"\ntrain_split = "nowhere"\n')
    plan = read_plan(done_file)

    states = run_study(plan, say=lambda text: None)
    result = report_study(plan, states, lambda network, inputs: 1.5)

    assert [state.run.name for state in result.failed] == ["lost seed 0", "lost seed 1"]
    assert "the manifest has no split 'nowhere'" in result.failed[0].reason
    assert next(result.lines()).startswith("FAILED lost seed 0: the manifest has no split")
    assert list(result.lines())[-1].startswith("6 runs: 4 found, 2 failed.")
    tables = (done_file.parent / "study" / "tables.md").read_text()
    assert "- lost, seed 0, 1: the manifest has no split 'nowhere'" in tables


def test_two_processes_give_what_one_gives(done_file):
    run(done_file, f"out={done_file.parent / 'both'}", only=["labels"], jobs=2)

    def values(folder: str) -> list[str]:
        files = sorted((done_file.parent / folder / "runs").glob("labels--*/metrics.json"))
        return [file.read_text() for file in files]

    assert len(values("study")) == 2
    assert values("both") == values("study")


def test_table_numbers_equal_a_slow_recomputation_from_the_metrics_files(done_file):
    report(done_file)

    found = json.loads((done_file.parent / "study" / "results.json").read_text())
    folders = {(r["row"], r["seed"]): Path(r["folder"]) for r in found["runs"]}

    def top1(row: str, seed: int, name: str) -> float:
        return float(json.loads((folders[row, seed] / name).read_text())["top1"])

    lines = {(line["row"], line["imu"]): line for line in found["tables"]["main"]["lines"]}
    for imu, name in (("own", "metrics.json"), ("other", "metrics-imu-other.json")):
        ours = [top1("distilled", seed, name) for seed in (0, 1)]
        theirs = [top1("labels", seed, "metrics.json") for seed in (0, 1)]
        gains = [a - b for a, b in zip(ours, theirs, strict=True)]
        line = lines["distilled", imu]
        assert line["of_seed"] == {"0": ours[0], "1": ours[1]}
        assert line["mean"] == pytest.approx(sum(ours) / 2)
        assert line["std"] == pytest.approx(statistics.stdev(ours))
        assert line["against"]["mean"] == pytest.approx(sum(gains) / 2)
        # Student's t at 97.5 % with one degree of freedom is 12.7062.
        reach = 12.7062 * statistics.stdev(gains) / 2**0.5
        assert line["against"]["interval"][1] == pytest.approx(sum(gains) / 2 + reach, abs=1e-4)
    teacher = json.loads((folders["distilled", 0] / "metrics.json").read_text())["teacher_top1"]
    assert lines["teacher", "own"]["mean"] == teacher
    assert lines["labels", "own"]["against"] is None
    with (done_file.parent / "study" / "tables.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["row"] == "distilled"]
    assert [float(r["value"]) for r in rows if r["imu"] == "own" and r["metric"] == "top1"][:2] == [
        top1("distilled", seed, "metrics.json") for seed in (0, 1)
    ]


def test_paper_numbers_stand_in_a_column_that_is_called_the_papers(done_file):
    report(done_file, "seeds=[0]")

    text = (done_file.parent / "study" / "tables.md").read_text()
    assert "| as the paper's (EgoDistill, Table 1) |" in text
    with_paper = [line for line in text.splitlines() if "34.15 Ego4D, 35.04 EPIC |" in line]
    assert [line.split(" | ")[:3] for line in with_paper] == [["| labels", "tiny", "own"]]


def test_a_dry_run_tells_what_is_left_and_trains_nothing(done_file):
    plan = read_plan(done_file, ["rows.distilled.beta=0.5"])

    lines = list(plan_lines(plan, study_states(plan), ["main"]))

    assert [line.split(":")[0] for line in lines] == [
        "to do  distilled tiny seed 0",
        "found  labels seed 0",
        "to do  distilled tiny seed 1",
        "found  labels seed 1",
        "2 of 4 runs and 0 of 0 pretrainings to do.",
    ]


def test_pictures_of_learning_and_of_cost_are_drawn(done_file):
    report(done_file, "seeds=[0]", "tables.main.costs=true")

    curves = done_file.parent / "study" / "curves"
    assert {file.name for file in curves.iterdir()} == {"learning-tiny.png", "main.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in curves.iterdir())
    tables = (done_file.parent / "study" / "tables.md").read_text()
    assert "| 1.500 | 0.0" in tables


def test_a_labelled_share_trains_on_so_many_segments_of_every_class(plan_file):
    states, _ = run(plan_file, "rows.third={method='imuonly', labelled_share=0.3}", "seeds=[0]")

    part = read_manifest(plan_file.parent / "study" / "manifests" / "train-0.3.parquet")
    train = [segment for segment in part.segments if segment.split == "train"]
    assert states["third seed 0"] == "done"
    # Of three segments per class, one stays; the other splits are whole.
    assert sorted(segment.label for segment in train) == [0, 1, 2]
    assert len(part.segments) == 3 + 9 + 9


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("rows.labels.alhpa=1", "row labels: no setting is called 'alhpa'. Did you mean 'alpha'"),
        ("rows.labels.seed=3", "row labels: 'seed' is no setting here"),
        ("rows.labels.num_epochs='ten'", "row labels: num_epochs must be a whole number"),
        ("out=s3://bucket/study", "out must be a folder of this machine"),
    ],
)
def test_settings_that_training_does_not_know_are_refused_before_anything_is_trained(
    plan_file, change, sentence
):
    with pytest.raises(EgoctlError) as refused:
        run(plan_file, change)

    assert sentence in str(refused.value)
    assert not (plan_file.parent / "study").exists()


def test_only_takes_names_that_are_there(plan_file):
    with pytest.raises(EgoctlError, match="--only nobody: .* it has distilled, labels, main"):
        run(plan_file, only=["nobody"])
