"""The generator of pairs: every pair occurs, in few rows, the same ones every time."""

from itertools import combinations, product

import pytest
from support.pairs import cover, pairs

FACTORS = [("ab", (1, 2, 3)), ("abcd", (1, 2, 3), (True, False)), ("abcd", "efgh", "ijkl", "mnop"), ("abc", "d", "ef")]


@pytest.mark.parametrize("factors", FACTORS, ids=len)
def test_every_pair_of_values_occurs_in_few_rows(factors):
    rows = pairs(*factors)
    assert set(rows) <= set(product(*factors))
    assert len(rows) == len(set(rows))
    for i, j in combinations(range(len(factors)), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(factors[i], factors[j]))
    largest, second = sorted(map(len, factors))[:-3:-1]
    assert largest * second <= len(rows) <= 2 * largest * second  # no fewer can do
    assert rows == pairs(*factors)


def test_a_cover_shows_what_each_view_shows_and_keeps_the_order():
    rows = [(n, word) for word in ("one", "three", "five") for n in range(6)]
    views = (lambda row: row[0] % 3), (lambda row: row[1]), (lambda row: (row[0] > 3, len(row[1])))
    found = cover(rows, *views)
    for view in views:
        assert {view(row) for row in found} == {view(row) for row in rows}
    assert found == sorted(found, key=rows.index)
    assert len(found) == 6  # two lengths of word occur with either half of the numbers
