"""Invariant: a held-out set comes back from its file as it was, and a damaged file is named with its line."""

import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.sets import read_all, read_heldout, write_heldout
from lit_llm.records import Comparison, Document, Example, Heldout, Labelled, Message, Prompt

TURNS = (Message("system", "be brief"), Message("user", "ما هذا؟\u2028line"), Message("assistant", "<|im_end|> قطة"))
SETS = [
    Heldout(
        "general",
        "documents",
        (Document('a "quoted"\n\x85text', "f:1", {"source": "m"}), Document("🙂", parts=((0, "page 1"),))),
    ),
    Heldout("instructions_wordings", "responses", (Example(TURNS, "g:2", {"wording": "w1"}),)),
    Heldout("rankings", "rankings", (Comparison(TURNS[:2], ("a", "b"), (1, 1), "ann", 0.5, True, "h:3", {"k": "v"}),)),
    Heldout("labels", "labels", (Labelled(TURNS[:2], "ب", False, "ann", 0.5, True, "h:4", {"k": "v"}),)),
    Heldout("prompts", "prompts", (Prompt(TURNS[:2], "i:4", {"function": "f"}),)),
]


@pytest.mark.parametrize("heldout", SETS, ids=lambda heldout: heldout.kind)
def test_round_trip(heldout, tmp_path):
    assert read_heldout(write_heldout(tmp_path, heldout)) == heldout


@pytest.mark.parametrize("name", ["/etc/general", "../general", "a\\b", ""])
def test_no_set_is_written_outside_its_folder(name, tmp_path):
    with pytest.raises(UserError, match="a plain name"):
        write_heldout(tmp_path / "heldout", Heldout(name, "documents", (Document("a"),)))
    assert not list(tmp_path.rglob("*"))


def test_a_folder_of_sets(tmp_path):
    for heldout in [*SETS, Heldout("nothing", "prompts", ())]:
        write_heldout(tmp_path, heldout)
    assert read_all(tmp_path) == sorted(SETS, key=lambda heldout: heldout.name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "documents", "text": "a", "source": ""}\nnonsense\n', ":2: not an item"),
        ('{"kind": "poems", "text": "a"}\n', ":1: not an item"),
        ('{"kind": "documents", "words": "a"}\n', ":1: not an item"),
        ('{"kind": "prompts", "messages": [{"role": "robot", "content": "a"}]}\n', ":1: not an item"),
        ("[]\n", ":1: not an item"),
        ("", "empty"),
        ('{"kind": "documents", "text": "a"}\n{"kind": "prompts", "messages": []}\n', "several kinds"),
    ],
)
def test_damage_is_named(text, words, tmp_path):
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        read_heldout(tmp_path / "s.jsonl")
