"""The collector is as it was after imports, and sees what is made then."""

import gc

import pytest

from lit_llm.collector import imports_uncollected


def test_the_collector_is_off_inside_and_on_again_also_after_an_error():
    with pytest.raises(ImportError), imports_uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()  # the tests' own objects


def test_who_had_it_off_keeps_it_off():
    gc.disable()
    try:
        with imports_uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
