"""Who may import whom, and what no file may do: read from the syntax tree of every file."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
PUBLIC_ROOMS = frozenset(
    f"egoctl.pipeline.{name}"
    for name in ("records", "errors", "manifest", "sampling", "video", "imu", "store")
) | {"egoctl.pipeline.store.teacher_columns", "egoctl.pipeline.devices"}
"""What student/ may use of pipeline/, with what these are made of. Which logits are whose classes
is asked where teachers are scored, too; and how memory is kept is a process's, not a network's."""
TEACHER_SIDE = (
    "egoctl.pipeline.teachers",
    "egoctl.pipeline.extraction.extract",
    "egoctl.pipeline.extraction.plan",
    "egoctl.pipeline.datasets",
)


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


def test_every_import_of_ours_names_a_file_that_exists() -> None:
    for module in FILE_OF:
        wrong = {name for name in imports_of(module) if is_within(name, ("egoctl",))} - set(FILE_OF)
        assert not wrong, f"{module} imports {wrong}"


def test_pipeline_never_imports_student_or_the_commands() -> None:
    for module in modules_of("egoctl.pipeline"):
        for name in imports_of(module):
            assert not is_within(name, ("egoctl.student", "egoctl.cli")), f"{module}: {name}"


def test_student_never_imports_the_commands() -> None:
    for module in modules_of("egoctl.student"):
        assert "egoctl.cli" not in imports_of(module), module


def test_student_uses_only_the_open_rooms_of_pipeline_and_what_they_are_made_of() -> None:
    allowed = closure(PUBLIC_ROOMS)
    for module in modules_of("egoctl.student"):
        used = {name for name in imports_of(module) if is_within(name, ("egoctl.pipeline",))}
        if module.endswith("_command"):
            # A command that cli.py has no room for: options and how to print, nothing more.
            used -= {"egoctl.pipeline.commands.options"}
        assert used <= allowed, f"{module} imports {sorted(used - allowed)}"


def test_student_never_reaches_the_teachers_not_even_through_others() -> None:
    reached = closure(modules_of("egoctl.student"))

    assert not {name for name in reached if is_within(name, TEACHER_SIDE)}


def test_one_file_imports_zarr() -> None:
    assert importers("zarr") == {"egoctl.pipeline.store.zarr_files"}


def test_only_places_and_buckets_know_the_object_stores_library() -> None:
    assert importers("obstore") <= {
        "egoctl.pipeline.files.place",
        "egoctl.pipeline.files.bucket",
        "egoctl.pipeline.sharing.listing",  # asks for the folders of a bucket, which no Place lists
    }


def test_one_file_imports_ray() -> None:
    assert importers("ray") == {"egoctl.pipeline.extraction.ray_cluster"}


def test_only_files_named_after_torchcodec_import_it() -> None:
    found = importers("torchcodec")

    assert found
    assert all(module.startswith("egoctl.pipeline.torchcodec_") for module in found)


def test_only_files_that_decode_or_encode_video_import_av() -> None:
    assert importers("av") <= {
        "egoctl.pipeline.video.frame_source",
        "egoctl.pipeline.video.pyav_clips",
        "egoctl.pipeline.datasets.rendered.render",
    }


def test_no_file_of_ours_imports_the_tests() -> None:
    assert not importers("egoctl.tests")


# --- the shape of files ---


@pytest.mark.parametrize("file", [*FILE_OF.values(), *TEST_FILES], ids=lambda file: file.name)
def test_imports_are_by_full_name(file: Path) -> None:
    for name in imports(tree_of(file)):
        assert not name.startswith("."), f"relative import {name!r}"
        assert not is_within(name, ("pipeline", "student", "tests", "cli")), name


def test_an_init_holds_one_docstring_and_nothing_else() -> None:
    inits = [file for file in (*FILE_OF.values(), *TEST_FILES) if file.name == "__init__.py"]
    assert len(inits) >= 5
    for file in inits:
        tree = tree_of(file)
        assert len(tree.body) == 1 and ast.get_docstring(tree), file


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
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in (*FILE_OF.values(), *TEST_FILES)
    }

    assert not {file: count for file, count in lengths.items() if count > MAX_LINES}


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


@pytest.mark.parametrize("file", FILE_OF.values(), ids=lambda file: file.name)
def test_no_handler_swallows_every_failure(file: Path) -> None:
    assert hidden_failures(tree_of(file)) == []


@pytest.mark.parametrize("file", FILE_OF.values(), ids=lambda file: file.name)
def test_nothing_that_is_read_may_execute_code(file: Path) -> None:
    assert ways_to_run_data(tree_of(file)) == []


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
        import torch
        torch.set_num_threads(1)
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
    assert said.splitlines()[-2:] == ["True", "egoctl.pipeline.extraction.extract was asked for"]


def test_a_store_is_read_without_torch_and_without_zarr() -> None:
    said = run_python("""
        import sys
        import egoctl.pipeline.store.feature_store

        print(sorted({"torch", "zarr", "egoctl.pipeline.store.receipt"} & set(sys.modules)))
        """)

    assert said == "['egoctl.pipeline.store.receipt']"


def test_help_is_fast_because_it_loads_neither_torch_nor_zarr() -> None:
    said = run_python("""
        import sys
        import egoctl.cli

        sys.argv = ["egoctl", "--help"]
        try:
            egoctl.cli.main()
        except SystemExit as end:
            print("exit code", end.code)
        print(sorted({"torch", "zarr", "av", "scipy", "egoctl.cli"} & set(sys.modules)))
        """)

    assert "extract-teacher" in said
    assert said.splitlines()[-2:] == ["exit code 0", "['egoctl.cli']"]
