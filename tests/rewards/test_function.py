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
    assert FunctionReward(function=f"{RULES}.words", batch_size=batch_size)(PROMPTS, TEXTS) == [1, 2, 3]
    right = FunctionReward(function=f"{RULES}.right", batch_size=batch_size)
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
        FunctionReward(function=f"{RULES}.{name}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nx.y.z", r"AttributeError: 'int' object has no attribute 'y', \S*own_0\.py:2; give module"),
        ("\ndef f(:", r"SyntaxError: .*, \S*own_1\.py:2; give module"),
        ("1 / 0", r"ZeroDivisionError: division by zero, \S*own_2\.py:1;"),
        ("import sys\n\nsys.exit('no\\nway')", r"SystemExit: no way, \S*own_3\.py:3;"),
        ("import no_such_module", r"ModuleNotFoundError: No module named 'no_such_module', \S*own_4\.py:1;"),
        ("raise KeyError('a')", r"KeyError: 'a', \S*own_5\.py:1;"),
    ],
)
def test_a_module_that_fails_is_told_with_its_error_file_and_line(code, message, tmp_path, monkeypatch, request):
    number = request.node.callspec.indices["code"]
    (tmp_path / f"own_{number}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=rf"^reward.function=own_{number}\.f: {message}") as caught:
        FunctionReward(function=f"own_{number}.f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["words", "no_such_module.words", ""])
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(UserError, match=f"reward.function={path}: "):
        FunctionReward(function=path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one_number", "gave 1 numbers for 3 answers"),
        ("fails", r"failed .ZeroDivisionError: division by zero, \S*rules_of_ones_own\.py:20\)"),
        ("texts", "gave a list; a number for each answer is needed"),
    ],
)
def test_what_gives_no_number_for_each_answer_is_said(name, message):
    with pytest.raises(UserError, match=message):
        FunctionReward(function=f"{RULES}.{name}")(PROMPTS, TEXTS)
