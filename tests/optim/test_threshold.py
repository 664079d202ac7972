"""Outliers split off at a quantile."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.optim.threshold import split_outliers


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_the_parts_are_the_clipped_matrix_and_the_rest(rows, columns, quantile):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 31 + columns))
    before = matrix.clone()
    inliers, outliers = split_outliers(matrix, quantile)
    limit = torch.quantile(matrix.abs(), quantile) + 1e-9
    torch.testing.assert_close(inliers, matrix.clamp(-limit, limit))
    torch.testing.assert_close(outliers, matrix.sign() * (matrix.abs() - limit).clamp_min(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(inliers + outliers, matrix)
    assert torch.equal(matrix, before)


def test_what_has_nan_is_nan_and_dtypes_are_kept():
    matrix = torch.ones(3, 4)
    matrix[0, 0] = torch.nan
    assert split_outliers(matrix)[0].isnan().all()
    assert split_outliers(torch.ones(3, dtype=torch.bfloat16))[1].dtype == torch.bfloat16


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match=r"between 0 and 1, got 1\.5"):
        split_outliers(torch.ones(2), 1.5)
    for matrix in (torch.zeros(0), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(UsageError, match="floating-point"):
            split_outliers(matrix)
