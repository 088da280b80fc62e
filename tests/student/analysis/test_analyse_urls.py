"""An analysis of a run in a bucket lands in the bucket, on a real S3 server."""

from dataclasses import replace

from egoctl.pipeline.files.place import Place
from egoctl.student.analysis.analyse import analyse
from egoctl.student.analysis.result import AnalysisConfig
from egoctl.student.runs.run_data import Places
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import make_world

pytest_plugins = ("egoctl.tests.worlds.s3_server",)


def test_the_report_of_a_run_in_a_bucket_is_published_beside_it(tmp_path, s3):
    world = make_world(tmp_path, segments_of_split=3)
    for seed, name in enumerate(("mine", "other")):
        train(replace(world.config(num_epochs=1, seed=seed), run=f"{s3}/{name}"))
    before = {info.name for info in Place(f"{s3}/other").list()}

    analysis = analyse(f"{s3}/mine", other=f"{s3}/other", config=AnalysisConfig(), places=Places())

    found = {info.name for info in Place(f"{s3}/mine").list()}
    assert {f"analysis/{name}" for name in ("report.html", "summary.json", "clips.csv")} <= found
    assert analysis.report == f"{s3}/mine/analysis/report.html"
    assert analysis.other.run == f"{s3}/other"
    assert {info.name for info in Place(f"{s3}/other").list()} == before
