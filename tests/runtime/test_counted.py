"""Numbers with their nouns: one of a thing is no plural, anywhere that a number stands in a message."""

import pytest

from lit_llm.runtime.counted import counted, verb


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")],
)
def test_one_is_no_plural(number, told):
    assert counted(number, "row") == told
    assert counted(number, "entry", "entries") == told.replace("rows", "entries").replace("row", "entry")
    assert verb(number, "is", "are") == ("is" if number == 1 else "are")
