"""A function of one's own is a reward; what is wrong with it is said in one line with its name."""

import pytest

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.function import FunctionReward

RULES = "tests.rewards.rules_of_ones_own"
PROMPTS = [(Message("user", "why?"),)] * 3
TEXTS = ["one", "two words", "and three words"]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_it_is_called_with_texts_and_where_it_asks_for_them_with_the_rows(batch_size):
    assert FunctionReward(f"{RULES}.words", batch_size)(PROMPTS, TEXTS) == [1, 2, 3]
    right = FunctionReward(f"{RULES}.right", batch_size)
    rows = [{"answer": "one"}, {"answer": "2"}, {"answer": "and three words"}]
    assert right.row_fields and right(PROMPTS, TEXTS, rows=rows) == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "has no attribute 'nothing'; give module.function"),
        ("NO_FUNCTION", "a int; give a function"),
        ("of_one", r"takes \(text\); it is called with \(prompts, completions\)"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_made(name, message):
    with pytest.raises(UserError, match=f"reward.function={RULES}.{name}: .*{message}"):
        FunctionReward(f"{RULES}.{name}")


@pytest.mark.parametrize("path", ["words", "no_such_module.words", ""])
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(UserError, match=f"reward.function={path}: "):
        FunctionReward(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one_number", "gave 1 numbers for 3 answers"),
        ("fails", "failed .ZeroDivisionError: division by zero"),
        ("texts", "gave a list; a number for each answer is needed"),
    ],
)
def test_what_gives_no_number_for_each_answer_is_said(name, message):
    with pytest.raises(UserError, match=message):
        FunctionReward(f"{RULES}.{name}")(PROMPTS, TEXTS)
