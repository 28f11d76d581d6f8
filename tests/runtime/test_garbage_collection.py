"""The collector is as it was after imports, and sees what is made then."""

import gc
import weakref

import pytest

from lit_llm.runtime.garbage_collection import imports_uncollected


def test_the_collector_is_off_inside_and_on_again_also_after_an_error():
    with pytest.raises(ImportError), imports_uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()  # the tests' own objects


class Leaving:
    """Refers to itself, as a Trainer and its module do."""

    def __init__(self):
        self.own = self


def test_what_an_earlier_run_left_is_freed_and_what_is_imported_is_not_looked_at_again():
    gc.disable()
    left = weakref.ref(Leaving())
    gc.enable()
    frozen = gc.get_freeze_count()
    with imports_uncollected():
        kept = [[n] for n in range(1000)]
    assert left() is None and gc.get_freeze_count() >= frozen + len(kept)
    made = weakref.ref(Leaving())
    gc.collect()
    assert made() is None
    gc.unfreeze()


def test_who_had_it_off_keeps_it_off():
    gc.disable()
    try:
        with imports_uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
