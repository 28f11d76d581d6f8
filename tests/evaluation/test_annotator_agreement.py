"""A pair is agreed upon where several annotators order it alike."""

from lit_llm.evaluation.annotator_agreement import unanimous


def test_alike_different_tied_and_alone():
    pairs = ["agreed", "agreed", "split", "split", "tied", "tied", "alone", "twice by one", "twice by one"]
    orders = [1, 1, 1, -1, 1, 0, 1, 1, -1]
    annotators = ["ann", "bob", "ann", "bob", "ann", "bob", "ann", "ann", "ann"]
    assert unanimous(pairs, orders, annotators) == [True, True, False, False, False, False, None, None, None]
