"""Statistics merged over parts are those of all rows at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store.column_stats import ColumnStats, merged, read_stats, stats_bytes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_parts_in_any_cut_merge_to_the_statistics_of_the_whole(seed, cuts):
    chosen = np.random.default_rng(seed)
    values = (chosen.normal(size=(40, 3)) * 10 + 100).astype(np.float16)
    values[chosen.random(values.shape) < 0.2] = np.nan
    pieces = np.split(values, sorted(cuts))

    found = merged(ColumnStats.of(piece) for piece in pieces if len(piece))

    whole = values.astype(np.float64)
    np.testing.assert_array_equal(found.num_nan_D, np.isnan(whole).sum(axis=0))
    np.testing.assert_array_equal(found.count_D, 40 - np.isnan(whole).sum(axis=0))
    np.testing.assert_allclose(found.mean_D, np.nanmean(whole, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std_D, np.nanstd(whole, axis=0), rtol=1e-10)
    np.testing.assert_array_equal(found.min_D, np.nanmin(whole, axis=0))
    np.testing.assert_array_equal(found.max_D, np.nanmax(whole, axis=0))


def test_a_dimension_without_a_value_has_neither_mean_nor_range():
    found = ColumnStats.of(np.array([[np.nan, 1.0], [np.nan, 3.0]]))

    assert found.count_D.tolist() == [0, 2]
    assert found.num_nan_D.tolist() == [2, 0]
    assert np.isnan([found.mean_D[0], found.min_D[0], found.max_D[0], found.std_D[0]]).all()
    both = found + ColumnStats.of(np.array([[5.0, 5.0]]))
    assert both.mean_D.tolist() == [5.0, 3.0]
    assert both.std_D.tolist() == [0.0, pytest.approx(np.std([1, 3, 5]))]


def test_axes_between_rows_and_the_last_are_pooled():
    imu = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)

    found = ColumnStats.of(imu)

    np.testing.assert_allclose(found.mean_D, imu.reshape(10, 6).mean(axis=0))


def test_statistics_come_back_as_they_were_written():
    stats = {"feature": ColumnStats.of(np.random.default_rng(0).normal(size=(5, 4)))}

    content = stats_bytes(stats)

    assert content == stats_bytes(stats)
    back = read_stats(content, "here")["feature"]
    np.testing.assert_array_equal(back.squares_D, stats["feature"].squares_D)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_statistics_that_were_cut_off_are_refused(cut):
    content = stats_bytes({"feature": ColumnStats.of(np.ones((5, 4)))})

    with pytest.raises(StoreError, match="00000.npz holds no statistics"):
        read_stats(content[:cut], "00000.npz")
