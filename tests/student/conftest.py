"""The world that most tests of students ask for; a file that needs another defines its own."""

import pytest

from egoctl.tests.worlds.student_world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three splits of nine segments; a file's tests share it and give their runs other names."""
    return make_world(tmp_path_factory.mktemp("world"))
