"""Prompts: each ends where the assistant begins, and its text is found again by its number."""

import pytest

from lit_llm.data.options import PromptsOptions
from lit_llm.data.prompts import Prompts
from lit_llm.errors import UserError
from lit_llm.records import PromptBatch


@pytest.fixture
def prompts(tokenizer, write, cache, sentence):
    def make(rows, tests=(), **options):
        path = {
            "train": write("train.jsonl", rows),
            "validation": write("validation.jsonl", [{"prompt": f"And {sentence(n)}?"} for n in range(3)]),
            "test": write("test.jsonl", [{"prompt": "Finally?"}, *tests]),
        }
        options = {"max_prompt_length": 60, "micro_batch_size": 4, "cache_dir": cache, **options}
        return Prompts(PromptsOptions(path=path, **options), tokenizer=tokenizer)

    return make


def test_prompts_are_padded_on_the_right_and_found_by_their_number(prompts, tokenizer, sentence):
    data = prompts([{"prompt": f"What of {sentence(n, 3 + n % 9)}"} for n in range(18)])
    seen = []
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        for batch in loader:
            assert isinstance(batch, PromptBatch) and data.batch_type is PromptBatch
            assert batch.input_ids.shape[1] == batch.lengths.max()
            for ids, length, index in zip(*batch, strict=True):
                wanted = tokenizer.encode_prompt(data.prompts[int(index)].messages)
                assert ids[:length].tolist() == wanted
                assert (ids[length:] == tokenizer.pad_id).all()
                seen.append(int(index))
    assert sorted(seen) == list(range(21)) and len(data.prompts) == 21


def test_a_prompt_that_is_too_long_is_an_error_with_its_line_or_is_counted(prompts, sentence):
    rows = [{"prompt": "Short?"}, {"prompt": sentence(3, 90)}, {"prompt": "Short too?"}]
    with pytest.raises(UserError, match=r"train.jsonl:2: the prompt has \d+ tokens, more than data.max_prompt"):
        prompts(rows).setup()
    data = prompts(rows, on_error="skip")
    assert data.counts() == {"read": 7, "used": 6, "skipped": {"prompt_too_long": 1}}
    assert [prompt.messages[0].content for prompt in data.prompts[:2]] == ["Short?", "Short too?"]
    with pytest.raises(UserError, match=r"no prompt to train on .*data.max_prompt_length=\d+ .*keeps"):
        prompts([{"prompt": sentence(3, 90)}], on_error="skip").setup()


def test_held_out_prompts_are_measured_like_those_that_are_trained(prompts, sentence):
    rows, tests = [{"prompt": "Short?"}], [{"prompt": sentence(3, 90)}]
    with pytest.raises(UserError, match=r"test.jsonl:2: the prompt has \d+ tokens, more than data.max_prompt"):
        prompts(rows, tests).setup()
    data = prompts(rows, tests, on_error="skip")
    assert data.counts() == {"read": 6, "used": 5, "skipped": {"prompt_too_long": 1}}
    assert [len(heldout.items) for heldout in data.heldout()] == [1]


def test_what_it_tells_the_other_rooms(prompts):
    data = prompts([{"prompt": "One?"}, {"prompt": "Two?"}])
    (heldout,) = data.heldout()
    assert (heldout.name, heldout.kind) == ("prompts", "prompts")
    assert heldout.items[0].messages[0].content == "Finally?"
    assert data.source_names == ("prompts",)
    assert data.fingerprint() != prompts([{"prompt": "One?"}, {"prompt": "Three?"}]).fingerprint()


def test_the_answer_to_a_problem_reaches_the_reward_and_counts_as_data(prompts):
    data = prompts([{"question": "One?", "answer": "so\n#### 1"}, {"prompt": "Two?", "answer": 2}])
    assert [prompt.tags for prompt in data.prompts[:2]] == [{"answer": "1"}, {"answer": "2"}]
    other = prompts([{"question": "One?", "answer": "so\n#### 3"}, {"prompt": "Two?", "answer": 2}])
    assert data.fingerprint() != other.fingerprint()


def test_pretraining_text_comes_beside_the_prompts_and_remembers_its_place(tokenizer, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "why is it so?"}\n' * 2 + '{"prompt": "why?"}\n', "utf-8")
    (tmp_path / "text.txt").write_text("words of a text that is long enough " * 60, "utf-8")
    settings = {"path": str(tmp_path / "prompts.jsonl"), "cache_dir": str(tmp_path / "cache"),
                "validation_fraction": 0.0, "test_fraction": 0.0}  # fmt: skip
    mixed = {"ptx_path": str(tmp_path / "text.txt"), "ptx_max_length": 16, "ptx_micro_batch_size": 2}
    data = Prompts(PromptsOptions(**settings, **mixed), tokenizer=tokenizer)
    loader = data.ptx_loader()
    first, second = (batch for batch, _ in zip(loader, range(2), strict=False))
    assert first.input_ids.shape == (2, 16)
    half = Prompts(PromptsOptions(**settings, **mixed), tokenizer=tokenizer).ptx_loader()
    next(iter(half))
    again = Prompts(PromptsOptions(**settings, **mixed), tokenizer=tokenizer).ptx_loader()
    again.load_state_dict(half.state_dict())
    assert (next(iter(again)).input_ids == second.input_ids).all()
    assert any(name.endswith("text.txt") for name in data.files())
    assert data.longest_prompt == max(int(batch.lengths.max()) for batch in data.train_dataloader())
    plain = Prompts(PromptsOptions(**settings), tokenizer=tokenizer)
    assert plain.ptx_loader() is None and not any(name.endswith("text.txt") for name in plain.files())
