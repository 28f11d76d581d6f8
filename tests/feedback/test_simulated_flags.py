"""Invariant: simulated flags follow a rule that anyone can read, as surely as the annotator looks; no rank shifts."""

import numpy as np
import pytest

from lit_llm.feedback.flags import FLAG_KINDS
from lit_llm.feedback.simulated import ANNOTATORS, Annotator, judge_answers, rank_answers
from lit_llm.feedback.simulated_flags import flags_of, invented_names, ratings_of
from lit_llm.records import Message, Prompt

ASKED = (Message("user", "What does numpy.cross do?"),)
CLEAN, INVENTED = "It returns the cross product of two arrays.", "It calls node.to_vector on both."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (CLEAN, []),
        ("Use numpy.cross(a, b), or cross again.", []),
        (INVENTED, ["node.to_vector"]),
        ("It needs a ReadBuffer and fill_it(now).", ["ReadBuffer", "fill_it"]),
    ],
)
def test_a_name_of_code_that_the_conversation_does_not_say_is_invented(text, names):
    assert [found[0] for found in invented_names(ASKED, text)] == names


def test_flags_hold_what_the_row_s_schema_says():
    flags = flags_of(ASKED, [CLEAN, INVENTED, ""], [0.7, 0.2, 0.05], 0.0, np.random.default_rng(0))
    assert [(flag["completion"], flag["kind"], flag["severity"]) for flag in flags] == [
        (1, "fails_task", 2),
        (1, "hallucination", 1),
        (2, "fails_task", 3),
    ]
    assert INVENTED[flags[1]["start"] : flags[1]["end"]] == "node.to_vector"
    assert {flag["kind"] for flag in flags} <= set(FLAG_KINDS)
    assert ratings_of([0.7, 0.2, -0.3], flags) == [
        {"helpful": 5, "honest": 6, "harmless": None},
        {"helpful": 2, "honest": 3, "harmless": None},
        {"helpful": 1, "honest": 6, "harmless": None},
    ]


def test_a_hurried_annotator_overlooks_more():
    def found(annotator):
        judged = (next(judge_answers(Prompt(ASKED), [CLEAN, INVENTED], [annotator], [n]))[1] for n in range(400))
        return np.mean([any(flag["kind"] == "hallucination" for flag in one["flags"]) for one in judged])

    shares = [found(annotator) for annotator in ANNOTATORS]
    assert shares == sorted(shares, reverse=True)
    for share, annotator in zip(shares, ANNOTATORS, strict=True):
        assert share == pytest.approx(1 - annotator.noise, abs=4 * (annotator.noise / 400) ** 0.5)


def test_ranks_are_those_of_the_annotator_alone_and_all_failing_is_all_bad():
    annotator = Annotator("a", 0.1, 0.02)
    ((_, judged),) = judge_answers(Prompt(ASKED), [CLEAN, INVENTED], [annotator], [3])
    ((_, ranks),) = rank_answers(Prompt(ASKED), [CLEAN, INVENTED], [annotator], [3])
    assert judged["ranking"] == ranks and judged["all_bad"] is False
    ((_, judged),) = judge_answers(Prompt(ASKED), ["", "numpy numpy"], [Annotator("b", 0.0, 0.02)], [3])
    assert judged["all_bad"] is True
