"""Small projects of people's judgement, as the pipeline finds them: one of rankings, one of comparisons."""

from __future__ import annotations

from pathlib import Path

from lit_llm.feedback.store.accounts import add_annotator, annotators
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgement import Flag, Judgement
from lit_llm.feedback.store.judgements import save
from lit_llm.feedback.store.projects import NewCandidate, NewItem, ProjectSettings, add_items, create_project
from lit_llm.records import Message


def project(place: Path, **_) -> None:
    """A ranking project with two items, as ``people.ask`` makes one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    store = open_store(place, create=True)
    create_project(store, ProjectSettings(min_seconds=0, repeat_share=0, gold_share=0))
    add_annotator(store, "ana", "a good long password")
    answers = [NewCandidate("one"), NewCandidate("two")]
    add_items(store, [NewItem((Message("user", f"q{n}"),), answers) for n in range(2)])
    store.close()


def rank_one(place: Path, flagged: bool = False) -> None:
    store = open_store(place)
    who = annotators(store)[0].id
    item = next_item(store, who)
    ranks = {card.key: rank for rank, card in enumerate(item.cards, 1)}
    flags = (Flag(item.cards[0].key, "fails_task"),) if flagged else ()
    save(store, who, item.assignment_id, item.version, Judgement(ranks, flags=flags, seconds=9.0), submit=True)
    store.close()


def compared(place: Path) -> None:
    """A project in which one person preferred the model after in two of three comparisons."""
    store = open_store(place, create=True)
    create_project(store, ProjectSettings(kind="comparison", min_seconds=0, repeat_share=0, gold_share=0))
    who = add_annotator(store, "ana", "a good long password").id
    pair = [NewCandidate("new words", model="ppo"), NewCandidate("old words", model="before")]
    tags = {"after_model": "ppo", "before_model": "before"}
    add_items(store, [NewItem((Message("user", f"q{n}"),), pair, tags) for n in range(3)])
    for n in range(3):
        item = next_item(store, who)
        ranks = {card.key: 1 + ((card.text == "old words") ^ (n == 2)) for card in item.cards}
        save(store, who, item.assignment_id, item.version, Judgement(ranks, seconds=9.0), submit=True)
    store.close()
