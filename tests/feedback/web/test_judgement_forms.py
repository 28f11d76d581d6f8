"""A judgement comes through a form and through JSON as it was said; what cannot be read is named."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.feedback import judgement_json
from lit_llm.feedback.store.items import Card
from lit_llm.feedback.store.judgement import SCALES, Flag, Judgement
from lit_llm.feedback.store.refusals import Invalid
from lit_llm.feedback.web import judgement_form
from lit_llm.feedback.web.access import Fields

CARDS = (Card("A", "one two 👩‍🚀 three"), Card("B", "two"))
keys = st.sampled_from("AB")
flags = st.builds(Flag, keys, st.sampled_from(["privacy", "other"]), st.integers(1, 3), st.just(1), st.just(2))
judgements = st.builds(
    Judgement,
    ranks=st.fixed_dictionaries({key: st.none() | st.integers(1, 2) for key in "AB"}),
    all_bad=st.booleans(),
    comment=st.text(max_size=20),
    ratings=st.fixed_dictionaries(
        {key: st.fixed_dictionaries({scale: st.none() | st.integers(1, 7) for scale in SCALES}) for key in "AB"}
    ),
    notes=st.dictionaries(keys, st.text(min_size=1, max_size=9).filter(str.strip)),
    flags=st.lists(flags, max_size=3, unique=True).map(tuple),
    seconds=st.floats(0, 1e5),
)


@given(judgements)
def test_through_json(judgement):
    assert judgement_json.read(json.loads(json.dumps(judgement_json.write(judgement)))) == judgement


@given(judgements)
def test_through_a_form(judgement):
    fields = [(f"rank.{key}", str(rank or "")) for key, rank in judgement.ranks.items()]
    fields += [(f"{s}.{key}", str(n or "")) for key, scales in judgement.ratings.items() for s, n in scales.items()]
    fields += [(f"note.{key}", note) for key, note in judgement.notes.items()]
    fields += [("flag", json.dumps(judgement_json.write_flag(flag))) for flag in judgement.flags]
    fields += [("all_bad", "1")] * judgement.all_bad
    fields += [("comment", judgement.comment), ("seconds", repr(judgement.seconds))]
    assert judgement_form.read(Fields(fields), CARDS) == judgement_form.Entry(judgement)


def read(*pairs):
    return judgement_form.read(Fields(list(pairs)), CARDS, seconds_before=7)


def test_a_passage_is_found_in_code_points():
    entry = read(("flag_kind.A", "privacy"), ("flag_severity.A", "3"), ("flag_quote.A", " three "))
    assert entry.judgement.flags == (Flag("A", "privacy", 3, 12, 17),)
    assert CARDS[0].text[12:17] == "three" and not entry.problems


def test_a_selection_names_its_place_and_wins_over_the_search():
    entry = read(("flag_kind.A", "other"), ("flag_quote.A", "o"), ("flag_span.A", "6-7"))
    assert entry.judgement.flags == (Flag("A", "other", 2, 6, 7),)


@pytest.mark.parametrize(
    ("pair", "reason"), [(("flag_quote.B", "not there"), "flags.not_found"), (("flag_kind.B", ""), "flags.no_kind")]
)
def test_what_cannot_become_a_flag_is_kept_and_named(pair, reason):
    kind = [("flag_kind.B", "other")] if reason == "flags.not_found" else [("flag_quote.B", "two")]
    entry = read(pair, *kind)
    assert entry.judgement.flags == ()
    assert [(one.reason, one.card) for one in entry.problems] == [(reason, 1)]
    assert entry.pending["B"]["quote"] == dict([pair, *kind])["flag_quote.B"]


def test_without_script_the_time_is_the_pages_age_on_top_of_earlier_drafts():
    assert 17 <= read(("opened", str(time.time() - 10)), ("seconds", "")).judgement.seconds < 60
    assert read(("seconds", "41.5"), ("opened", "0")).judgement.seconds == 41.5
    assert read(("seconds", "nan"), ("opened", "inf")).judgement.seconds == 7


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"rank": {}}, "rank"),
        ({"ranks": []}, "ranks"),
        ({"ranks": {"A": True}}, "ranks.A"),
        ({"ranks": {"A": 1.5}}, "ranks.A"),
        ({"ratings": {"A": {"kind": 1}}}, "ratings.A.kind"),
        ({"comment": None}, "comment"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"all_bad": 1}, "all_bad"),
        ({"flags": {}}, "flags"),
        ({"flags": [{"key": "A", "kind": "other", "end": "9"}]}, "flags.0.end"),
        ({"flags": [{"key": "A", "kind": "other", "colour": 1}]}, "flags.0"),
        ({"seconds": -1}, "seconds"),
        ({"notes": {"A": 3}}, "notes.A"),
    ],
)
def test_json_of_a_wrong_shape_is_refused_by_name(content, named):
    with pytest.raises(Invalid, match=rf"^{named}:"):
        judgement_json.read(content)


def test_a_forged_flag_is_refused():
    for value in ("{", "[]", '{"key": 1}', "[" * 100_000):
        with pytest.raises(Invalid):
            read(("flag", value))
