"""Tables for a terminal and for Markdown."""

from egoctl.pipeline.text_table import markdown_table, text_table

ROWS = [("method", "top-1"), ("egodistill", "0.61"), ("b", "0.5")]


def test_columns_are_as_wide_as_their_longest_cell():
    assert text_table(ROWS) == [
        "method      top-1",
        "egodistill  0.61",
        "b           0.5",
    ]


def test_numbers_stand_to_the_right():
    assert text_table(ROWS, "<>") == [
        "method      top-1",
        "egodistill   0.61",
        "b             0.5",
    ]


def test_the_last_side_counts_for_all_further_columns():
    assert text_table([("a", "bb", "ccc"), ("aaa", "b", "c")], "<>") == [
        "a    bb  ccc",
        "aaa   b    c",
    ]


def test_indent_gap_and_least_widths():
    assert text_table([("a", "b")], "<>", least=(3, 4), indent=2, gap=1) == ["  a      b"]
    assert text_table([("abcd", "b")], least=(3,)) == ["abcd  b"]


def test_rows_may_be_short_and_no_line_ends_in_spaces():
    assert text_table([("name", "note"), ("a",), ("b", ""), ()]) == ["name  note", "a", "b", ""]


def test_no_rows_are_no_lines():
    assert text_table([]) == []


def test_a_table_in_markdown():
    assert markdown_table(ROWS[0], ROWS[1:]) == [
        "| method | top-1 |",
        "| --- | --- |",
        "| egodistill | 0.61 |",
        "| b | 0.5 |",
    ]


def test_a_table_in_markdown_with_numbers_to_the_right():
    assert markdown_table(("a", "b", "c"), [], "<>") == ["| a | b | c |", "| --- | ---: | ---: |"]


def test_a_bar_does_not_end_a_cell():
    assert markdown_table(("a|b",), [("c|d",)]) == ["| a/b |", "| --- |", "| c/d |"]
