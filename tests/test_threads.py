"""Work done side by side comes back in order, and fails as it would one by one."""

import pytest

from rad3d.threads import each


@pytest.mark.parametrize("items", [[], [3], list(range(50))])
def test_results_keep_their_order(items):
    assert each(lambda item: item * 2, items) == [item * 2 for item in items]


@pytest.mark.parametrize("items", [[0], [1, 0, 2]])
def test_what_fails_is_raised(items):
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 / item, items)
