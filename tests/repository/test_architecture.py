"""Who may import whom, and what no file may do: read from the syntax tree of every file."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from egoctl.tests.worlds.places import ROOT

MAX_LINES = 500
FEWEST_FILES, MOST_FILES = 3, 16
GROUND = ""
"""The room of the files that lie directly in pipeline/: words and tools that everybody may use."""
COMMANDS = "commands"
MAY_IMPORT_OF_PIPELINE: dict[str, set[str]] = {
    GROUND: {"files"},
    "files": {GROUND},
    "store": {"files", GROUND},
    "video": {"files", GROUND},
    "imu": {"files", GROUND},
    "teachers": {GROUND},
    "sharing": {"store", "files", GROUND},
    "reading": {"video", "imu", "files", GROUND},
    "datasets": {"video", "imu", "files", GROUND},
    "profiling": {"teachers", GROUND},
    "runs": {"files", GROUND},
    "finetuning": {"runs", "reading", "teachers", "store", "files", GROUND},
    "extraction": {
        *("sharing", "reading", "teachers", "store", "video", "imu", "files", GROUND),
    },
}
"""Which rooms of pipeline/ a room may import; commands/ may import all of them."""
BELOW = ["model", "settings", "clips", "runs"]
"""The rooms of student/ that lie on one another, each on those before it."""
MAY_IMPORT_OF_STUDENT: dict[str, set[str]] = {
    **{room: set(BELOW[:level]) for level, room in enumerate(BELOW)},
    "evaluation": set(BELOW),
    "pretraining": set(BELOW),
    "training": {*BELOW, "evaluation"},
    "analysis": {*BELOW, "evaluation"},
    "epic": {*BELOW, "evaluation"},
    "demo": {*BELOW, "evaluation", "training", "pretraining"},
    "studies": {*BELOW, "evaluation", "training", "pretraining"},
    "clip_dataset": {"model", "settings", "clips"},
}
"""Which rooms of student/ a room may import; commands/ may import all of them."""
STUDENT_MAY_IMPORT = {GROUND, "files", "store", "runs"}
"""What student/ uses of pipeline/; its commands use more."""
TEACHER_SIDE = (
    "egoctl.pipeline.teachers",
    "egoctl.pipeline.extraction",
    "egoctl.pipeline.datasets",
)
STUDENT_COMMANDS_MAY_IMPORT = {
    *STUDENT_MAY_IMPORT,
    *("commands", "profiling", "datasets", "teachers"),
}


STORE_DOOR = ROOT / "pipeline" / "store" / "__init__.py"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("egoctl", *parts)).removesuffix(".__init__")


FILE_OF = {
    module_name(file): file
    for file in (ROOT / "cli.py", *(ROOT / "pipeline").rglob("*.py"), *ROOT.glob("student/**/*.py"))
}
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported anywhere in a file; relative ones start with a dot.

    `from a import b` counts as a.b where that is a module of ours, else as a; so does
    `import_module("a")`, which checkers that lack a package are spared by.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            full = {alias.name: f"{source}.{alias.name}" for alias in node.names}
            found |= {name if name in FILE_OF else source for name in full.values()}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            found |= {name for name in names if isinstance(name, str)}
    return found


def imports_of(module: str) -> set[str]:
    return imports(tree_of(FILE_OF[module]))


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and everything of egoctl that they import, directly or not."""
    found: set[str] = set()
    left = list(modules)
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += [name for name in imports_of(module) if name in FILE_OF]
    return found


def is_within(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def modules_of(room: str) -> set[str]:
    return {module for module in FILE_OF if is_within(module, (room,))}


def importers(package: str) -> set[str]:
    """The modules of ours that import a third-party package."""
    return {
        module
        for module in FILE_OF
        if any(is_within(name, (package,)) for name in imports_of(module))
    }


def run_python(script: str) -> str:
    """What a fresh interpreter prints; a failure shows its traceback."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- arrows between rooms ---


def room_of(module: str) -> tuple[str, str]:
    """pipeline, student or cli; and the room in it, GROUND for a file that lies in none."""
    _, side, *rest = module.split(".")
    file = FILE_OF[module]
    if file.name == "__init__.py":
        return side, rest[0] if rest else GROUND
    if side == "student" and len(rest) == 1:
        return side, rest[0]
    return side, rest[0] if len(rest) > 1 else GROUND


def arrows() -> Iterable[tuple[str, str]]:
    """Every import of ours of a module of ours."""
    for module in FILE_OF:
        for name in imports_of(module):
            if name in FILE_OF and name not in ("egoctl.pipeline", "egoctl.student"):
                yield module, name


def test_every_import_of_ours_names_a_file_that_exists() -> None:
    for module in FILE_OF:
        wrong = {name for name in imports_of(module) if is_within(name, ("egoctl",))} - set(FILE_OF)
        assert not wrong, f"{module} imports {wrong}"


def test_nothing_imports_the_table_of_commands() -> None:
    assert not importers("egoctl.cli")


def test_pipeline_never_imports_student() -> None:
    for module, name in arrows():
        assert (room_of(module)[0], room_of(name)[0]) != ("pipeline", "student"), (module, name)


def test_rooms_of_pipeline_import_only_the_rooms_below_them() -> None:
    for module, name in arrows():
        (side, room), (other_side, other) = room_of(module), room_of(name)
        if side == other_side == "pipeline" and room not in (other, COMMANDS):
            assert other in MAY_IMPORT_OF_PIPELINE[room], f"{module} imports {name}"


def test_rooms_of_student_import_only_the_rooms_below_them() -> None:
    for module, name in arrows():
        (side, room), (other_side, other) = room_of(module), room_of(name)
        if side == other_side == "student" and room not in (other, COMMANDS):
            assert other in MAY_IMPORT_OF_STUDENT[room], f"{module} imports {name}"


def test_student_uses_the_ground_the_files_and_the_store_of_pipeline() -> None:
    for module, name in arrows():
        (side, room), (other_side, other) = room_of(module), room_of(name)
        if (side, other_side) == ("student", "pipeline"):
            allowed = STUDENT_COMMANDS_MAY_IMPORT if room == COMMANDS else STUDENT_MAY_IMPORT
            assert other in allowed, f"{module} imports {name}"


def test_no_two_rooms_import_each_other() -> None:
    between = {(room_of(module), room_of(name)) for module, name in arrows()}

    # files/ and the ground use each other, file by file without a circle: see the next test.
    mutual = {pair for pair in between if pair[0] != pair[1] and pair[::-1] in between}
    assert mutual <= {
        (("pipeline", "files"), ("pipeline", GROUND)),
        (("pipeline", GROUND), ("pipeline", "files")),
    }


def test_no_two_files_import_each_other_not_even_through_others() -> None:
    below: dict[str, set[str]] = {}
    for module, name in arrows():
        below.setdefault(module, set()).add(name)
    circles = TopologicalSorter(below)

    circles.prepare()  # it raises CycleError, which names them


def test_store_sharing_and_files_reach_no_torch() -> None:
    for room in ("store", "sharing", "files"):
        reached = closure(modules_of(f"egoctl.pipeline.{room}"))
        guilty = {name for name in reached if is_importing("torch", name)}
        assert not guilty, f"{room}: {guilty}"


def is_importing(package: str, module: str) -> bool:
    return any(is_within(name, (package,)) for name in imports_of(module))


def test_student_never_reaches_the_teachers_not_even_through_others() -> None:
    students = {m for m in modules_of("egoctl.student") if room_of(m)[1] != COMMANDS}

    assert not {name for name in closure(students) if is_within(name, TEACHER_SIDE)}


def test_one_file_imports_zarr() -> None:
    assert importers("zarr") == {"egoctl.pipeline.store.zarr_files"}


def test_only_files_know_the_object_stores_library() -> None:
    others = {name for name in importers("obstore") if room_of(name) != ("pipeline", "files")}

    # It asks for the folders of a bucket, which no Place lists.
    assert others <= {"egoctl.pipeline.sharing.listing"}


def test_one_file_imports_ray() -> None:
    assert importers("ray") == {"egoctl.pipeline.extraction.ray_cluster"}


def test_only_files_named_after_torchcodec_import_it() -> None:
    found = importers("torchcodec")

    assert found
    assert all(module.startswith("egoctl.pipeline.video.torchcodec_") for module in found)


def test_only_rooms_that_decode_or_encode_video_import_av() -> None:
    for module in importers("av"):
        assert is_within(module, ("egoctl.pipeline.video", "egoctl.pipeline.datasets.rendered"))


def test_no_file_of_ours_imports_the_tests() -> None:
    assert not importers("egoctl.tests")


# --- the shape of files ---


def test_imports_are_by_full_name() -> None:
    for file in (*FILE_OF.values(), *TEST_FILES):
        for name in imports(tree_of(file)):
            assert not name.startswith("."), f"{file}: relative import {name!r}"
            assert not is_within(name, ("pipeline", "student", "tests", "cli")), f"{file}: {name}"


def test_an_init_holds_one_docstring_and_nothing_else() -> None:
    inits = [file for file in (*FILE_OF.values(), *TEST_FILES) if file.name == "__init__.py"]
    assert len(inits) >= 5
    for file in inits:
        tree = tree_of(file)
        assert ast.get_docstring(tree), file
        names = "the door hands FeatureStore on" if file == STORE_DOOR else "nothing else"
        assert len(tree.body) == (3 if file == STORE_DOOR else 1), f"{file}: {names}"


def test_every_file_says_why_it_exists() -> None:
    assert not [file for file in (*FILE_OF.values(), *TEST_FILES) if not docstring(file)]


def docstring(file: Path) -> str | None:
    return ast.get_docstring(tree_of(file))


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils.py", "util.py", "common.py", "base.py", "helpers.py", "misc.py"}

    assert not [file for file in (*FILE_OF.values(), *TEST_FILES) if file.name in drawers]


def test_the_commands_are_the_only_module_at_the_root() -> None:
    assert [file.name for file in ROOT.glob("*.py")] == ["cli.py"]


def test_no_file_is_too_long_to_read_at_once() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILE_OF.values()
    }

    assert not {file: count for file, count in lengths.items() if count > MAX_LINES}


def test_a_room_is_neither_a_cupboard_nor_a_hall() -> None:
    rooms = {file.parent for file in FILE_OF.values()} - {ROOT, ROOT / "student"}
    for room in rooms:
        files = [file for file in room.glob("*.py") if file.name != "__init__.py"]
        subrooms = [folder for folder in room.iterdir() if (folder / "__init__.py").is_file()]
        if room == ROOT / "pipeline":
            subrooms = []  # the ground is a room of files
        num = len(files) + len(subrooms)
        assert FEWEST_FILES <= num <= MOST_FILES, f"{room}: {num}"


def test_the_tests_mirror_the_rooms() -> None:
    for side in ("pipeline", "student"):
        rooms = {file.parent.relative_to(ROOT) for file in (ROOT / side).rglob("*.py")}
        for folder in (ROOT / "tests" / side).rglob("test_*.py"):
            mirrored = folder.parent.relative_to(ROOT / "tests")
            assert mirrored in rooms, f"{folder}: there is no room {mirrored}"


# --- what no file may do ---


def hidden_failures(tree: ast.Module) -> list[str]:
    """Handlers that catch everything. BaseException is left to ruff's BLE001: it may re-raise."""
    return [
        f"line {node.lineno}: except {'' if node.type is None else ast.unparse(node.type)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "Exception" in caught_names(node.type))
    ]


def caught_names(node: ast.expr) -> list[str]:
    kinds = node.elts if isinstance(node, ast.Tuple) else [node]
    return [kind.id for kind in kinds if isinstance(kind, ast.Name)]


def ways_to_run_data(tree: ast.Module) -> list[str]:
    """Calls and imports through which a file's content could execute code."""
    found: list[str] = []
    for name in imports(tree):
        if name.split(".")[0] in ("cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"):
            found.append(f"import {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        # The names of pickle's errors are fine: torch.load raises them.
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            if not node.attr.endswith("Error"):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and is_unsafe_call(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def is_unsafe_call(call: ast.Call) -> bool:
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    match ast.unparse(call.func):
        case "eval" | "exec" | "compile" | "__import__":
            return True
        case "torch.load":
            return options.get("weights_only") != "True"
        case _:
            return options.get("allow_pickle", "False") != "False"


def test_no_handler_swallows_every_failure() -> None:
    for file in FILE_OF.values():
        assert hidden_failures(tree_of(file)) == [], file


def test_nothing_that_is_read_may_execute_code() -> None:
    for file in FILE_OF.values():
        assert ways_to_run_data(tree_of(file)) == [], file


@pytest.mark.parametrize(
    "code",
    [
        "try: ...\nexcept: ...",
        "try: ...\nexcept Exception: ...",
        "try: ...\nexcept (OSError, Exception) as error: ...",
    ],
)
def test_the_rule_sees_handlers_of_everything(code: str) -> None:
    assert len(hidden_failures(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import load",
        "import dill",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_rule_sees_ways_to_execute_code(code: str) -> None:
    assert len(ways_to_run_data(ast.parse(code))) == 1


def test_the_rule_sees_imports_inside_functions_and_relative_ones() -> None:
    code = (
        "def f():\n    import zarr.core\n    from . import store\n    from ..a import b\n"
        "    importlib.import_module('ray')"
    )

    assert imports(ast.parse(code)) == {"zarr.core", ".", "..a", "ray"}


# --- the same, at run time ---


def test_a_student_is_trained_and_evaluated_where_no_teacher_can_be_imported(
    tmp_path: Path,
) -> None:
    said = run_python(f"""
        import sys
        from importlib.abc import MetaPathFinder
        from pathlib import Path

        class NoTeachers(MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.startswith(("egoctl.pipeline.teachers", "egoctl.pipeline.extraction")):
                    raise ImportError(name + " was asked for")

        sys.meta_path.insert(0, NoTeachers())
        from egoctl.student.evaluation.evaluate import evaluate
        from egoctl.student.training.train import train
        from egoctl.tests.worlds.student_world import make_world

        config = make_world(Path({str(tmp_path)!r}), segments_of_split=3).config(num_epochs=1)
        train(config)
        evaluate(config.run, split="test", imu="own")
        print((Path(config.run) / "metrics.json").is_file())
        try:
            import egoctl.pipeline.extraction.extract
        except ImportError as error:
            print(error)
        """)

    # The last line: the finder did refuse.
    assert said.splitlines()[-2:] == ["True", "egoctl.pipeline.extraction was asked for"]


def test_a_store_is_read_without_torch_and_without_zarr() -> None:
    said = run_python("""
        import sys
        import egoctl.pipeline.store

        watched = {"torch", "zarr", "pyarrow", "polars", "egoctl.pipeline.store.receipt"}
        print(sorted(watched & set(sys.modules)))
        """)

    assert said == "['egoctl.pipeline.store.receipt']"


def test_help_is_fast_because_it_loads_neither_torch_nor_zarr() -> None:
    said = run_python("""
        import sys
        import egoctl.cli

        slow = {"torch", "zarr", "av", "scipy", "pyarrow", "polars", "numpy", "egoctl.cli"}
        sys.argv = ["egoctl", "--help"]
        try:
            egoctl.cli.main()
        except SystemExit as end:
            print("exit code", end.code)
        print(sorted(slow & set(sys.modules)))
        """)

    assert "extract-teacher" in said
    assert said.splitlines()[-2:] == ["exit code 0", "['egoctl.cli']"]
