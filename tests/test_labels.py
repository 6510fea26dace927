"""Type names are normalised."""

import pytest

from uniner.labels import normalize_type


@pytest.mark.parametrize(
    ("raw", "normalized"), [(" Programming  Language", "programming language"), ("City.", "city")]
)
def test_types_are_normalized(raw, normalized):
    assert normalize_type(raw) == normalized
