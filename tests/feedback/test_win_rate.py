"""Invariant: the rate is of what people preferred among the two models' answers, judged slowly enough."""

import pytest

from lit_llm.errors import UserError
from lit_llm.feedback import sampling
from lit_llm.feedback.sampling import Sampling, items_to_compare
from lit_llm.feedback.store.accounts import add_annotator
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.judgements import save
from lit_llm.feedback.store.projects import NewCandidate, NewItem, ProjectSettings, add_items, create_project
from lit_llm.feedback.win_rate import describe, win_rate
from lit_llm.records import Message

TAGS = {"after_model": "new", "before_model": "old", "answered_alike": "3"}


def judged(place, verdicts, checkpoints=("c1",)):
    """A project in which one person gave each of ``verdicts``: (rank of after, rank of before, all bad, seconds)."""
    times = [1e9]
    store = open_store(place, create=True, clock=lambda: times[0])
    create_project(store, ProjectSettings(kind="comparison", min_seconds=5, repeat_share=0, gold_share=0))
    who = add_annotator(store, "Ana").id
    for n in range(len(verdicts)):
        checkpoint = checkpoints[n % len(checkpoints)]
        pair = [NewCandidate("after", "new", checkpoint), NewCandidate("before", "old", "c0")]
        add_items(store, [NewItem((Message("user", f"q{n}"),), pair, TAGS)])
    for after, before, all_bad, seconds in verdicts:
        item = next_item(store, who)
        times[0] += seconds
        ranks = {card.key: after if card.text == "after" else before for card in item.cards}
        save(store, who, item.assignment_id, item.version, Judgement(ranks, all_bad, seconds=seconds), submit=True)
    return store


def test_ties_are_half_and_the_too_fast_are_out(tmp_path):
    verdicts = [(1, 2, False, 9), (2, 1, True, 9), (1, 1, True, 9), (1, 1, False, 9), (2, 1, False, 1)]
    found = win_rate(judged(tmp_path / "p.db", verdicts))
    assert (found["wins"], found["losses"], found["ties"], found["all_bad"]) == (1, 1, 2, 2)
    assert found["mean"] == 0.5 and found["n"] == 4  # the fifth was too fast
    assert (found["answered_alike"], found["after_hash"], found["before_hash"]) == (3, "c1", "c0")
    assert "wins 1, losses 1, ties 2; both bad 2; answered alike and not shown: 3" in describe(found)


def test_one_name_of_two_checkpoints_is_no_model(tmp_path):
    store = judged(tmp_path / "p.db", [(1, 2, False, 9)] * 2, checkpoints=("c1", "c2"))
    with pytest.raises(UserError, match="several checkpoints of new: c1, c2"):
        win_rate(store)


def test_what_both_answer_alike_is_counted_and_not_shown(tmp_path, prompts, monkeypatch):
    for name in ("after", "before"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)

    def of_model(folder, asked, *_):
        """Alike to all prompts but the first two."""
        return [[NewCandidate(f"{folder.name if n < 2 else 'the same'}", str(folder))] for n in range(len(asked))]

    monkeypatch.setattr(sampling, "_of_model", of_model)
    how = Sampling(1.0, 8, 0)
    options = {"max_prompts": None, "device": "cpu", "batch_size": 4}
    found = items_to_compare(tmp_path / "after", tmp_path / "before", str(prompts), how, **options)
    assert [item.tags["answered_alike"] for item in found.items] == ["17"] * 2 and found.too_few_answers == 17
