"""Invariant: generate.py prints what the model says, after the prompt, and words with their probabilities."""

import io
import sys

import pytest

from lit_llm.backbone.huggingface import save_model
from lit_llm.errors import UserError
from lit_llm.generation.command import Generate, choose_device, load, run
from lit_llm.generation.next_words import next_words
from lit_llm.generation.streaming import stream, stream_text
from lit_llm.text.bpe import train_bpe


@pytest.fixture
def folder(tmp_path, small_model, tokenizer):
    save_model(tmp_path / "model", small_model, tokenizer)
    return tmp_path / "model"


def test_next_words_are_printed_with_what_is_left(folder, capsys, small_model, tokenizer):
    run(Generate(folder, "The cat sat on the", next_words=3, device="cpu"))
    lines = capsys.readouterr().out.splitlines()
    words = next_words(small_model, tokenizer, "The cat sat on the", 3)
    assert [line.split()[0] for line in lines[:3]] == [word.text for word in words]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert shares[0] == pytest.approx(100 * words[0].probability, abs=0.01) and sum(shares) == pytest.approx(
        100, abs=0.1
    )
    assert lines[3].startswith("(anything else)")


def test_a_text_is_continued(folder, capsys, small_model, tokenizer):
    run(Generate(folder, "The cat", max_new_tokens=9, seed=4, temperature=0.9, top_k=20, samples=2, device="cpu"))
    prompt = [tokenizer.document_end_id, *tokenizer.encode("The cat")]
    texts = [
        "The cat" + "".join(stream_text(tokenizer, stream(
            small_model, prompt, max_new_tokens=9, end_ids=tokenizer.end_ids,
            temperature=0.9, top_k=20, seed=seed,
        )))
        for seed in (4, 5)
    ]  # fmt: skip
    assert capsys.readouterr().out == f"{texts[0]}\n\n{texts[1]}\n"


def test_the_prompt_may_come_from_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("قطة"))
    run(Generate(folder, "-", max_new_tokens=2, device="cpu"))
    assert capsys.readouterr().out.startswith("قطة")


def test_a_tokenizer_of_another_model_is_refused(folder):
    tokenizer = train_bpe(["The cat sat on the mat"] * 4, vocab_size=262)
    tokenizer.add_tokens([f"<token {n}>" for n in range(200)])
    tokenizer.save(folder)
    with pytest.raises(UserError, match=f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens"):
        load(folder, "cpu")


def test_mistakes(folder, tmp_path, capsys):
    with pytest.raises(UserError, match="no such folder"):
        run(Generate(tmp_path / "nothing", "x"))
    with pytest.raises(UserError, match="samples=0"):
        run(Generate(folder, "x", samples=0, device="cpu"))
    with pytest.raises(UserError, match="max_new_tokens=0"):
        run(Generate(folder, "x", max_new_tokens=0, device="cpu"))
    assert capsys.readouterr().out == ""
    assert choose_device("cpu") == "cpu"
    import torch

    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="device=mps"):
            choose_device("mps")
