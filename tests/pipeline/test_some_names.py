"""The first few names of a list, for a message."""

from egoctl.pipeline.some_names import first_names, some_names


def test_a_short_list_is_shown_whole() -> None:
    assert some_names([]) == ""
    assert some_names(["a", "b", "c"]) == "a, b, c"
    assert first_names(["a", "b", "c"]) == "a, b, c"


def test_a_long_one_is_cut_and_its_rest_counted_or_hinted_at() -> None:
    names = ["a", "b", "c", "d", "e"]

    assert some_names(names) == "a, b, c and 2 more"
    assert some_names(names, most=4) == "a, b, c, d and 1 more"
    assert first_names(names) == "a, b, c, ..."
