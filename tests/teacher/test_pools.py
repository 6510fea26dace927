"""The pools of actors that ask a teacher."""

import pytest

from uniner.teacher.pools import chunks_in_hand


@pytest.mark.parametrize(("rows", "in_flight", "expected"), [(128, 64, 2), (128, 128, 3), (16, 64, 9)])
def test_an_actor_has_enough_chunks_in_hand_for_its_requests_in_flight(rows, in_flight, expected):
    assert chunks_in_hand({"a": rows, "b": rows}, in_flight) == expected
