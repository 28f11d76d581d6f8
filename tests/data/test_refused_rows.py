"""A chat template that refuses a conversation: file and line in every kind of data, or counted with on_error=skip."""

import pytest

from lit_llm.data.file_rows import Row
from lit_llm.data.formats import parse_row
from lit_llm.data.instructions import Instructions
from lit_llm.data.labelled_answers import LabelledAnswers
from lit_llm.data.preferences import Preferences
from lit_llm.data.prompts import Prompts
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import _naming_the_row
from lit_llm.feedback.sampling import _ids
from lit_llm.records import Example, Message, Prompt
from lit_llm.text.chat import CHATML, ChatTemplate
from lit_llm.text.tokenizer import Tokenizer

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
NO_TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
KINDS = {
    Instructions: ("messages", {}),
    Preferences: ("prompt", {"chosen": "This.", "rejected": "Not this."}),
    LabelledAnswers: ("prompt", {"completion": "This."}),
    Prompts: ("prompt", {}),
}


@pytest.fixture
def refusing(tokenizer):
    return Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate(NO_SYSTEM + CHATML))


def rows(cls, number, where, count=20):
    """Rows of which the number'th has a system message."""
    key, more = KINDS[cls]
    for n in range(count):
        messages = [{"role": "user", "content": f"Say {where} {n}."}]
        if n == number:
            messages = [SYSTEM, *messages]
        if cls is Instructions:
            messages.append({"role": "assistant", "content": f"It is {n}."})
        yield {key: messages, **more, **({"label": n % 2 == 0} if cls is LabelledAnswers else {})}


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_refused_row_is_named_or_counted(cls, split, refusing, write, cache):
    path = {
        name: write(f"{name}.jsonl", list(rows(cls, 1 if name == split else -1, name)))
        for name in ("train", "validation", "test")
    }

    def data(**options):
        return cls(cls.Options(path=path, cache_dir=cache, **options), tokenizer=refusing)

    for _ in range(2):  # the second time its tokens are cached
        with pytest.raises(
            UserError, match=rf"{split}.jsonl:2: .*System role not supported.*data.on_error=skip"
        ) as found:
            data().setup()
        assert "\n" not in str(found.value)
        counts = data(on_error="skip").counts()
        assert counts["skipped"] == {"template_refuses": 1} and (counts["read"], counts["used"]) == (60, 59)
        tests = [item for heldout in data(on_error="skip").heldout() for item in heldout.items]
        assert len(tests) == (19 if split == "test" else 20)
        assert all(getattr(item, "messages", None) or item.prompt for item in tests)


@pytest.mark.parametrize("cls", KINDS)
def test_where_all_rows_are_refused_the_first_is_said(cls, refusing, write, cache):
    key, more = KINDS[cls]
    told = [{key: row[key] if row[key][0] == SYSTEM else [SYSTEM, *row[key]], **more} for row in rows(cls, 0, "a", 4)]
    told = [row | ({"label": n % 2 == 0} if cls is LabelledAnswers else {}) for n, row in enumerate(told)]
    data = cls(cls.Options(path=write("all.jsonl", told), cache_dir=cache, on_error="skip"), tokenizer=refusing)
    with pytest.raises(UserError, match=r"to train on .*all.jsonl:\d: chat template: .*System role not supported"):
        data.setup()


REFUSES = (
    "{% for m in messages %}{% if m['role'] == 'user' and 'bad' in m['content'] %}{{ raise_exception('no') }}"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("cls", KINDS)
def test_all_refused_rows_of_all_splits_are_said_at_once_and_none_is_used(cls, tokenizer, write, cache):
    key, _ = KINDS[cls]
    path = {}
    for split in ("train", "validation", "test"):
        told = list(rows(cls, -1, split, 24))
        for row in told[:15]:
            row[key][0]["content"] += " bad"
        path[split] = write(f"{split}.jsonl", told)
    refusing = Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate(REFUSES + CHATML))
    for _ in range(2):
        data = cls(cls.Options(path=path, cache_dir=cache), tokenizer=refusing)
        with pytest.raises(UserError) as error:
            data.setup()
        lines = str(error.value).split("\n")
        assert "45 of 72 rows are bad (data.on_error=skip counts such rows and goes on)" in lines[0]
        assert lines[1].startswith("template_refuses: 45, the first 10: chat template: ")
        assert lines[2:] == [f"  {path['train']}:1, 2, 3, 4, 5, 6, 7, 8, 9, 10"]
        whole = data.overview_so_far.whole
        assert (whole.rows, whole.used, whole.skipped) == (72, 27, {"template_refuses": 45})


TOOLS = [{"name": "weather", "description": "Of a city.", "parameters": {}}]


@pytest.mark.parametrize("cls", KINDS)
def test_what_the_row_would_have_to_do_without_is_tried_and_said(cls, tokenizer, write, cache):
    """CHATML as many models have it writes no tools."""
    key, _ = KINDS[cls]
    plain = Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate(NO_TOOLS))
    told = [row | {"tools": TOOLS} for row in rows(cls, -1, "a", 12)]
    file = write("tools.jsonl", told)

    def data(**options):
        return cls(cls.Options(path=file, cache_dir=cache, **options), tokenizer=plain)

    with pytest.raises(UserError) as error:
        data().setup()
    lines = str(error.value).split("\n")
    assert "it leaves out the tools" in lines[1] and "12 of 12 rows are bad" in lines[0]
    assert "data.ignore_keys=[tools] reads such rows without their tools" in lines[1]
    assert data(ignore_keys=["tools"]).counts()["used"] == 12
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}
    asked = {"role": "tool", "content": "warm"}
    with_calls = [row | {key: [row[key][0], called, asked, *row[key]]} for row in told]
    with pytest.raises(UserError) as error:
        cls(cls.Options(path=write("calls.jsonl", with_calls), cache_dir=cache), tokenizer=plain).setup()
    assert "ignore_keys" not in str(error.value)  # without the tools, their calls would be refused


def test_evaluation_and_sampling_name_the_row(refusing):
    asked = Prompt((Message("system", "Be brief."), Message("user", "Why?")), "prompts.jsonl:3")
    fine = Prompt((Message("user", "Why?"),), "prompts.jsonl:2")
    told = Example((*asked.messages, Message("assistant", "So.")), "examples.jsonl:4")
    for items, where in (([fine, asked], "prompts.jsonl:3"), ([told], "examples.jsonl:4")):
        with pytest.raises(UserError, match=rf"^{where}: chat template: "), _naming_the_row(refusing, items):
            refusing.encode_prompt(asked.messages)
    with pytest.raises(UserError, match=r"^prompts.jsonl:3: chat template: "):
        _ids(refusing, asked)
    with pytest.raises(UserError, match=r"^another fault$"), _naming_the_row(refusing, [fine]):
        raise UserError("another fault")


def test_a_pair_without_its_other_half_says_what_is_missing():
    with pytest.raises(RowError, match="'rejected' is missing"):
        parse_row(Row({"prompt": "Who pays?", "chosen": "The tenant."}, "f", 1), "comparisons")
