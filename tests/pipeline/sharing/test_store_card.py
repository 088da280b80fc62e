"""The README of a store: complete, true, safe to paste, and never with a guessed licence."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.commands.store import write_card
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing.card import CardFacts, card
from egoctl.tests.worlds.small_stores import BAD_VIDEO, RECIPE, clip_rows, small_store, values_of

ROWS = clip_rows("abcdef")
LICENCES = {"--teacher-license": "CC-BY-NC-4.0", "--dataset-license": "Ego4D agreement"}
FACTS = CardFacts(licences=LICENCES, dataset="EPIC")
OPTIONS = [word for pair in LICENCES.items() for word in pair]


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "mvit.store")


def test_it_says_what_the_store_is_and_how_full(url):
    store = small_store(url, ROWS, failed={"b": BAD_VIDEO}, done=[0])

    lines = card(store, FACTS).splitlines()

    assert "# mvit.store" in lines
    assert "6 clips of 1 videos." in lines
    assert ["| ok | 3 |", "| not done | 2 |", "| past_end | 1 |"] == [
        line for line in lines if re.match(r"\| (ok|not done|past_end) ", line)
    ]
    assert f"Fingerprint `{store.header.fingerprint}`." in lines
    assert '| teacher | "means" |' in lines
    assert "| stride_s | 0.1333 |" in lines
    assert "| feature | 6x5 | float16 |" in lines
    assert "- teacher's weights: CC-BY-NC-4.0" in lines
    assert "- dataset: Ego4D agreement" in lines
    assert "RANDOM" not in card(store, FACTS)


def test_the_header_is_yaml_that_hubs_read(url):
    text = card(small_store(url, ROWS), FACTS)

    assert text.split("---\n")[1].splitlines() == [
        "license: other",
        'license_name: "teacher\'s weights: CC-BY-NC-4.0; dataset: Ego4D agreement"',
        "tags:",
        '- "egoctl"',
        '- "egocentric-video"',
        '- "zarr"',
        '- "teacher-store"',
        '- "means"',
        "size_categories:",
        '- "n<1K"',
    ]


def test_statistics_are_ranges_over_the_dimensions(url):
    store = small_store(url, ROWS, failed={"b": BAD_VIDEO})
    values = np.stack([values_of(row.clip_id, 3) for row in ROWS if row.segment_id != "b"])
    values = values.astype(np.float16).astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)

    line = next(
        line for line in card(store, FACTS).split("## Statistics")[1].splitlines()
        if line.startswith("| logits ")
    )  # fmt: skip

    assert line == (
        f"| logits | {mean.min():.4g} to {mean.max():.4g} | {std.min():.4g} to {std.max():.4g} | "
        f"{values.min():.4g} to {values.max():.4g} | 3 |"
    )


def test_random_weights_are_warned_of_before_anything_else(url):
    store = small_store(url, ROWS, recipe={**RECIPE, "weights_are_random": True})

    body = card(store, FACTS).split("---\n")[2]

    assert body.startswith("\n# mvit.store\n\n> **Warning: the teacher's weights are RANDOM.**")


def test_its_lines_of_python_read_the_store(url, monkeypatch):
    store = small_store(url, ROWS, failed={"b": BAD_VIDEO})
    monkeypatch.chdir(Path(url).parent)
    (code,) = re.findall(r"```python\n(.*?)```", card(store, FACTS), flags=re.DOTALL)

    names = {}
    exec(code, names)

    assert names["values"].shape == (5, 5)


def test_nothing_in_a_recipe_breaks_the_table_or_becomes_html(url):
    recipe = {**RECIPE, "tap": "a|b\n<script>", "teacher": 'x"\n- y'}

    text = card(small_store(url, ROWS), CardFacts(licences=LICENCES, dataset="<b>\n# x"))
    hostile = card(small_store(f"{url}2", ROWS, recipe=recipe), FACTS)

    assert "from \\<b\\> # x." in text
    assert '| tap | "a\\|b\\n\\<script\\>" |' in hostile
    assert '- "x\\"\\n- y"' in hostile


def test_an_inputs_store_has_no_teacher_to_license(url):
    facts = CardFacts(licences={"--dataset-license": "CC0"})

    text = card(small_store(url, ROWS, kind="inputs", class_names=None), facts)

    assert 'license_name: "dataset: CC0"' in text
    assert "teacher's weights" not in text
    assert "imu_outcome" in text


def test_a_store_without_a_finished_part_has_a_card_too(url):
    assert "| not done | 6 |" in card(small_store(url, ROWS, done=[]), FACTS)


def test_an_empty_licence_is_refused():
    with pytest.raises(EgoctlError, match="--dataset-license is empty"):
        CardFacts(licences={"--dataset-license": " "})


def test_without_a_terminal_missing_licences_are_an_error_that_names_the_options(url):
    small_store(url, ROWS)

    ended = CliRunner().invoke(
        cli.app, ["store", "card", url, "--out", "-", "--teacher-license", "MIT"]
    )

    assert isinstance(ended.exception, EgoctlError)
    assert str(ended.exception).endswith("Give --teacher-license and --dataset-license.")


def test_on_a_terminal_missing_licences_are_asked_for(url, monkeypatch):
    small_store(url, ROWS)
    asked = []

    def prompt(text, err):
        asked.append(text)
        return "CC-BY-4.0"

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", prompt)
    out = Path(url).parent / "README.md"
    write_card(url, str(out), teacher_license="MIT")

    assert asked == ["--dataset-license, such as CC-BY-4.0"]
    assert "- dataset: CC-BY-4.0" in out.read_text()
    assert "- teacher's weights: MIT" in out.read_text()


class Terminal:
    def isatty(self):
        return True


def test_the_command_prints_the_card_or_puts_it_into_the_bucket(s3):
    url = f"{s3}/mvit.store"
    store = small_store(url, ROWS)

    printed = CliRunner().invoke(cli.app, ["store", "card", url, "--out", "-", *OPTIONS])
    put = CliRunner().invoke(cli.app, ["store", "card", url, "--out", f"{s3}/README.md", *OPTIONS])

    assert (printed.exit_code, put.exit_code) == (0, 0)
    assert printed.output == card(store, CardFacts(licences=LICENCES))
    assert Place(s3).read("README.md").decode() == printed.output
    assert json.dumps("n<1K") in printed.output
