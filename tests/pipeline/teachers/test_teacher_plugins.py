"""Plug-ins: teachers of other distributions, and what becomes of those that fail."""

import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.teachers.source import Source
from egoctl.tests.worlds.extract_world import World, draw_colours
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.places import ROOT

PAGE = ROOT / "docs" / "add-a-teacher.md"
MODULE = """
    from egoctl.pipeline.teachers.networks import frame_temporal
    from egoctl.pipeline.teachers.source import Source
    from dataclasses import replace

    def spec(name, **options):
        said = "".join(f",{key}={value}" for key, value in options.items())
        return replace(frame_temporal.spec(name), name=name + said)

    def make(*names, **more):
        return Source(
            names=names, spec=spec, load=frame_temporal.load, facts=frame_temporal.facts, **more
        )
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution where Python finds it, as pip leaves it, and forgets earlier plug-ins."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def put(distribution: str, entry_points: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n"
        )
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[egoctl.teachers]", *lines]) + "\n")
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        lineup.plugins.cache_clear()

    yield put
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    lineup.plugins.cache_clear()


def with_source(call: str) -> str:
    return textwrap.dedent(MODULE) + f"\nsource = {call}\n"


def test_a_plug_in_brings_a_teacher_that_is_listed_and_found(install: Install) -> None:
    install("lab-teachers", {"lab": "lab:source"}, lab=with_source("make('lab_net')"))

    assert "lab_net" in lineup.teacher_names()
    assert lineup.teacher_spec("lab_net").name == "lab_net"
    code, said = run("teachers", "show", "lab_net", "--no-cost")
    assert (code, said.splitlines()[-1]) == (0, "  comes with lab-teachers 0.1")


def test_an_entry_point_may_be_a_function_that_gives_the_source(install: Install) -> None:
    code = with_source("lambda: make('late_net')")
    install("late", {"late": "late:source"}, late=code)

    assert "late_net" in lineup.teacher_names()


def test_names_behind_a_plug_ins_prefix_and_its_options_are_teachers(install: Install) -> None:
    code = with_source("make('tuned', prefix='tuned:', options={'crop': ('centre', 'left')})")
    install("tuned", {"tuned": "tuned:source"}, tuned=code)

    assert lineup.teacher_spec("tuned:a/b").name == "tuned:a/b"
    assert lineup.teacher_spec("tuned,crop=left").name == "tuned,crop=left"
    assert lineup.teacher_spec("tuned,crop=centre").name == "tuned"
    shown = run("teachers", "show", "tuned,crop=left", "--no-cost")[1].splitlines()
    assert (shown[0], shown[-3]) == ("tuned,crop=left", "  options    crop=centre|left")
    ours = [source.prefix for source in lineup.SOURCES if source.prefix is not None]
    listed = run("teachers", "list")[1].splitlines()
    assert listed[-1] == f"and names that begin with {', '.join([*ours, 'tuned:'])}"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("source = (", "SyntaxError: '(' was never closed (broken.py, line 1)"),
        ("raise SystemExit('usage: broken')", "SystemExit: usage: broken"),
        ("class Odd(Exception): ...\nraise Odd('two\\n  lines')", "Odd: two lines"),
        ("", "AttributeError: module 'broken' has no attribute 'source'"),
        ("source = dict", "TypeError: the entry point must give a Source, got dict"),
        (
            with_source("make('x3d_xs')"),
            "ValueError: the name x3d_xs is taken by egoctl; it needs another one",
        ),
        (
            with_source("make('own', prefix='mvit_v2')"),
            "ValueError: the name mvit_v2_s is taken by egoctl; it needs another one",
        ),
        (
            with_source("make()"),
            "ValueError: a source of teachers needs names, a tuple such as ('mine',), or a "
            "prefix; got names=() and prefix=None",
        ),
        (
            MODULE.replace("name=name + said", "name='other'") + "\n    source = make('own')",
            "ValueError: the spec of teacher own must be a TeacherSpec of that name",
        ),
        (
            MODULE.replace("name=name + said", "name=name")
            + "\n    source = make('own', options={'crop': ('centre', 'left')})",
            "ValueError: the spec of teacher own,crop=left must be a TeacherSpec of that name",
        ),
        (
            with_source("Source(names=('own',), spec=spec, load=spec, facts=spec)"),
            "TypeError: the facts of teacher own must be TeacherFacts",
        ),
    ],
)
def test_a_plug_in_that_fails_is_named_with_its_reason_and_others_work_on(
    install: Install, code: str, reason: str
) -> None:
    install("broken-teachers", {"broken": "broken:source"}, broken=code)
    install("good-teachers", {"good": "good:source"}, good=with_source("make('good_net')"))

    names = lineup.teacher_names()
    ended, said = run("teachers", "list")

    assert {"x3d_xs", "mvit_v2_s", "good_net"} <= set(names)
    assert names.count("x3d_xs") == 1
    assert (ended, said.splitlines()[-1]) == (
        1, f"FAILED: plug-in 'broken' of broken-teachers 0.1 cannot be used: {reason}",
    )  # fmt: skip
    with pytest.raises(EgoctlError) as refused:
        lineup.teacher_spec("brokn")
    assert str(refused.value).endswith(
        f" The plug-in 'broken' of broken-teachers 0.1 cannot be used: {reason}."
    )


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("make('same')", "make('new', 'same')", "same"),
        ("make(prefix='lab:')", "make(prefix='lab:x/')", "lab:x/"),
        ("make(prefix='lab:')", "make('lab:net')", "lab:net"),
    ],
)
def test_of_two_plug_ins_with_one_name_the_first_distribution_keeps_it(
    install: Install, first: str, second: str, shared: str
) -> None:
    install("b-lab", {"it": "b_lab:source"}, b_lab=with_source(second))
    install("a-lab", {"it": "a_lab:source"}, a_lab=with_source(first))

    of_a, of_b = lineup.plugins()

    assert (of_a.distribution, of_a.problem) == ("a-lab 0.1", None)
    assert str(of_b) == (
        f"plug-in 'it' of b-lab 0.1 cannot be used: "
        f"ValueError: the name {shared} is taken by a-lab 0.1; it needs another one"
    )


def test_a_teacher_of_ours_is_found_without_importing_any_plug_in(install: Install) -> None:
    install("slow-teachers", {"slow": "slow_lab:source"}, slow_lab=with_source("make('slow')"))

    lineup.teacher_spec("x3d_xs")
    assert "slow_lab" not in sys.modules

    lineup.teacher_spec("slow")
    assert "slow_lab" in sys.modules


def test_ctrl_c_while_a_plug_in_is_imported_is_not_taken_for_its_failure(install: Install) -> None:
    install("stopped", {"it": "stopped:source"}, stopped="raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        lineup.teacher_names()


def test_names_given_as_a_string_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a tuple such as \('mine',\).*got names='mine'"):
        Source(names="mine", spec=print, load=print, facts=print)  # type: ignore[arg-type]


def test_the_pages_teacher_is_installed_shown_and_extracted_as_the_page_says(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, project, commands = re.findall(r"```(?:python|toml|)\n(.*?)```", PAGE.read_text(), re.S)
    told = tomllib.loads(project)
    world = World(folder=tmp_path)
    draw_colours(world.videos / "a.mp4", seconds=4)
    world.manifest([{"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 4}], stride_s=1)
    monkeypatch.chdir(tmp_path)

    (module,) = told["tool"]["setuptools"]["py-modules"]
    points = told["project"]["entry-points"]["egoctl.teachers"]
    install(told["project"]["name"], points, **{module: code})
    listed, shown, extracted = (run(*shlex.split(line)[1:]) for line in commands.splitlines())

    assert (listed[0], shown[0], extracted[0]) == (0, 0, 0)
    assert re.search(r"^mine +8 +0\.2667 +112 +32 +5 +MIT$", listed[1], re.M)
    # 3 x 32 x 3 x 7 x 7 weights and 32 biases; 32 x 5 and 5. 8 x 28 x 28 positions.
    assert "  cost       0.0143 M parameters, 0.09 GFLOPs a clip" in shown[1]
    store = FeatureStore.open("mine.store")
    assert store.header.recipe["teacher"] == "mine"
    rows = store.rows().filter(outcome="ok")["row"].to_numpy()
    assert store.read("feature", rows).shape == (3, 32)
    assert store.read("logits", rows).shape == (3, 5)


def test_the_entry_points_of_the_page_are_what_pip_would_write(tmp_path: Path) -> None:
    code, project, _ = re.findall(r"```(?:python|toml|)\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "my_teacher.py").write_text(code)
    (tmp_path / "pyproject.toml").write_text(project)

    done = subprocess.run(
        [
            sys.executable, "-c",
            "from setuptools.build_meta import prepare_metadata_for_build_wheel as make; make('.')",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    assert points.read_text().split("\n")[:2] == [
        "[egoctl.teachers]", "mine = my_teacher:source",
    ]  # fmt: skip
