"""Tool calls and reasoning through public templates' structures: what is trained, marked by hand, and as transformers.

The templates are written out after those of Qwen2.5 and Qwen3 (Hermes' form of calls), Llama 3.1 and Mistral.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.records import Message, ToolCall
from lit_llm.text.chat import CHATML, PLAIN
from tests.text.templated import base_of, with_template

NAMES = (
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "<|header|>", "<|/header|>", "<|eot|>", "<|return|>", "<|call|>",
)  # fmt: skip
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
HEAD = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% endif %}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}"
)
CALLS = (
    "{% for call in m.tool_calls or [] %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}"
)
RESULTS = (
    "{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)
HERMES = (
    HEAD + "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + (m.content or '') }}"
    + CALLS + "{{ '<|im_end|>\n' }}" + RESULTS + "{% endif %}{% endfor %}" + ASK
)  # fmt: skip
# Thoughts stand in the turns behind the user's last question; a last turn without any gets an empty part.
QWEN3 = (
    HEAD + "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "{{ '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    + CALLS + "{{ '<|im_end|>\n' }}" + RESULTS + "{% endif %}{% endfor %}" + ASK
)  # fmt: skip
# Llama 3.1: tools in the first question, one call a turn in place of the text, results as JSON of a role of their own.
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + ('ipython' if m.role == 'tool' else m.role) + "
    "'<|/header|>\n\n' }}{% if m.role == 'user' and tools and loop.first %}{{ 'Tools: ' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
    "{{ m.tool_calls[0].function.arguments | tojson + '}' }}"
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content | trim }}{% endif %}{{ '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
# Mistral: nothing but [/INST] invites an answer, tools stand before the last question, ids have nine characters.
MISTRAL = (
    "{{ bos_token }}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools and m == asked[-1] %}"
    "{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}{% set out = call.function | tojson %}"
    "{% if call.id is undefined or call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ out[:-1] + ', \"id\": \"' + call.id + '\"}' + (']' + eos_token if loop.last else ', ') }}{% endfor %}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + m.content + ', \"call_id\": \"' + m.tool_call_id }}"
    "{{ '\"}[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"
)
# gpt-oss: the name of a tool stands again beside its result, a call ends otherwise than an answer.
NAME_AGAIN = (
    "{% for tool in tools or [] %}{{ '// ' + tool.function.name }}{% endfor %}{% set ns = namespace(name='') %}"
    "{% for m in messages %}{% if m.tool_calls %}{% set ns.name = m.tool_calls[0].function.name %}"
    "{{ '<|header|>assistant to=' + ns.name + '<|/header|>' + m.tool_calls[0].function.arguments | tojson }}"
    "{{ '<|call|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|header|>' + ns.name + '<|/header|>' + m.content | tojson + '<|eot|>' }}"
    "{% else %}{{ '<|header|>' + m.role + '<|/header|>' + m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant' }}{% endif %}"
)
# DeepSeek: arguments are a text, and a call without a text has none.
TEXT_ARGUMENTS = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>' }}"
    "{% if m.role == 'assistant' and m.content is none %}{% for call in m.tool_calls %}"
    "{{ call.function.name + '```' + call.function.arguments + '```' }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>' }}{% endif %}"
)
# As Command A: a call begins with another token than an answer, and nothing asks; or a turn is always asked for.
UNASKED = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>' }}"
    "{% if m.tool_calls %}{{ '<|call|>' + m.tool_calls[0].function.name }}"
    "{{ m.tool_calls[0].function.arguments | tojson }}"
    "{% elif m.role == 'assistant' %}{{ '<|return|>' + m.content }}{% else %}{{ m.content }}{% endif %}{{ '<|eot|>' }}"
    "{% endfor %}"
)
ALWAYS = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ '<|header|>' + {'user': '[INST]', 'assistant': '[/INST]', "
    "'tool': '[TOOL_RESULTS]'}[m.role] }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}"
    "{{ m.tool_calls[0].function.arguments | tojson }}{% else %}{{ m.content }}{% endif %}{{ '<|eot|>' }}{% endfor %}"
    "{{ '<|header|>[/INST]' }}"
)
TEMPLATES = {
    "hermes": HERMES, "qwen3": QWEN3, "llama": LLAMA, "mistral": MISTRAL, "name_again": NAME_AGAIN,
    "text_arguments": TEXT_ARGUMENTS, "chatml": CHATML, "plain": PLAIN,
}  # fmt: skip

TOOL = {"type": "function", "function": {"name": "weather", "description": "In a <|im_end|> city", "parameters": {}}}
TOOLS = Message("tools", json.dumps([TOOL]))
JSON = json.dumps(TOOL)
ASKED = Message("user", "Oslo?")


def call(city, number=""):
    return ToolCall("weather", json.dumps({"city": city, "days": 2}, ensure_ascii=False), number)


ONE = (
    TOOLS,
    ASKED,
    Message("assistant", "", calls=(call("أوسلو"),)),
    Message("tool", "3"),
    Message("assistant", "It is 3."),
)
ARGS = '{"city": "أوسلو", "days": 2}'
HERMES_CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGS}}}\n</tool_call>'
HERMES_TEXT = (
    f"<|im_start|>system\n{JSON}\n<|im_end|>\n<|im_start|>user\nOslo?<|im_end|>\n<|im_start|>assistant\n"
    "⟦%s" + HERMES_CALL + "<|im_end|>⟧\n<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n⟦%sIt is 3.<|im_end|>⟧\n"
)  # fmt: skip
BY_HAND = {
    "hermes": HERMES_TEXT % ("", ""),
    "qwen3": HERMES_TEXT % ("", "<think>\n\n</think>\n\n"),
    "llama": "<s><|header|>user<|/header|>\n\nTools: " + json.dumps(TOOL, indent=4) + "\n\nOslo?<|eot|>"
    '<|header|>assistant<|/header|>\n\n⟦{"name": "weather", "parameters": ' + ARGS + "}<|eot|>⟧"
    '<|header|>ipython<|/header|>\n\n"3"<|eot|><|header|>assistant<|/header|>\n\n⟦It is 3.<|eot|>⟧',
    "mistral": f"<s>[AVAILABLE_TOOLS][{JSON}][/AVAILABLE_TOOLS][INST]Oslo?[/INST]⟦[TOOL_CALLS]"
    '[{"name": "weather", "arguments": ' + ARGS + ', "id": "call00000"}]</s>⟧[TOOL_RESULTS]{"content": 3, '
    '"call_id": "call00000"}[/TOOL_RESULTS]⟦ It is 3.</s>⟧',
    "name_again": "// weather<|header|>user<|/header|>Oslo?<|eot|><|header|>assistant⟦ to=weather<|/header|>" + ARGS
    + '<|call|>⟧<|header|>weather<|/header|>"3"<|eot|><|header|>assistant⟦<|/header|>It is 3.<|return|>⟧',
    "text_arguments": f"[{JSON}]<|header|>user<|/header|>Oslo?<|eot|><|header|>assistant<|/header|>⟦weather```" + ARGS
    + "```<|eot|>⟧<|header|>tool<|/header|>3<|eot|><|header|>assistant<|/header|>⟦It is 3.<|eot|>⟧",
    "chatml": "<|im_start|>system\nThese tools can be called:\n" + JSON + "\n\nA call is written as:\n<tool_call>\n"
    '{"name": "name of the tool", "arguments": {"name": "value"}}\n</tool_call><|im_end|>\n'
    f"<|im_start|>user\nOslo?<|im_end|>\n<|im_start|>assistant\n⟦{HERMES_CALL}<|im_end|>⟧\n"
    "<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n⟦It is 3.<|im_end|>⟧\n",
    "plain": "System: These tools can be called:\n" + JSON + "\n\nA call is written as:\n<tool_call>\n"
    '{"name": "name of the tool", "arguments": {"name": "value"}}\n</tool_call>\n'
    f"User: Oslo?\nAssistant: ⟦{HERMES_CALL}</s>⟧\nTool: 3\nAssistant: ⟦It is 3.</s>⟧\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return base_of("user assistant system tool weather oslo it is city days think ", NAMES)


def marked(tokenizer, messages):
    """The conversation with brackets around what is trained."""
    ids, mask = tokenizer.encode_chat(messages)
    text, begin = "", 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or mask[place] != mask[begin]:
            part = tokenizer.decode(ids[begin:place], skip_special=False)
            text, begin = text + (f"⟦{part}⟧" if mask[begin] else part), place
    return text


@pytest.mark.parametrize("name", BY_HAND)
def test_a_call_and_its_answer_are_trained_and_nothing_else(base, name):
    tokenizer = with_template(base, TEMPLATES[name])
    assert marked(tokenizer, ONE) == BY_HAND[name]
    ids, mask = tokenizer.encode_chat(ONE)
    assert tokenizer.encode_prompt(ONE[:2]) == ids[: mask.index(True)]  # the call begins where it is asked for
    prompt = tokenizer.encode_prompt(ONE[:4])
    assert prompt == ids[: len(prompt)] and mask[len(prompt)] and not mask[len(prompt) - 1]
    unlearned = (*ONE[:2], Message("assistant", "", trained=False, calls=ONE[2].calls), *ONE[3:])
    assert tokenizer.encode_chat(unlearned)[0] == ids
    assert marked(tokenizer, unlearned).count("⟦") == 1
    asked = with_template(base, TEMPLATES[name]).written_answer(ONE[:3])
    asked = asked.removeprefix("<think>\n\n</think>\n\n")  # what Qwen3 writes in the last turn alone
    assert "أوسلو" in asked and f"⟦{asked}" in BY_HAND[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_transformers_renders_the_same(base, name):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    tokenizer = with_template(base, TEMPLATES[name])
    as_text = name == "text_arguments"
    function = {"name": "weather", "arguments": ARGS if as_text else json.loads(ARGS)}
    rows = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": None if as_text else "",
         "tool_calls": [{"id": "call00000", "type": "function", "function": function}]},
        {"role": "tool", "content": "3", "tool_call_id": "call00000"},
        {"role": "assistant", "content": "It is 3."},
    ]  # fmt: skip
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    (text,), _ = utils.render_jinja_template([rows], tools=[TOOL], chat_template=TEMPLATES[name], **ends)
    assert tokenizer.chat.render(ONE, bos="<s>", eos="</s>") == text == BY_HAND[name].replace("⟦", "").replace("⟧", "")


TWO = (Message("user", "2+2?"), Message("assistant", "4", thoughts="Two twos."), Message("user", "And 1?"),
       Message("assistant", "5", thoughts="One on."))  # fmt: skip


def test_reasoning_that_a_template_forgets_is_trained_at_its_own_time(base):
    tokenizer = with_template(base, QWEN3)
    first, second = (marked(tokenizer, part) for part in tokenizer.sequences(TWO))
    head = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert first == head + "⟦<think>\nTwo twos.\n</think>\n\n4<|im_end|>⟧\n"
    assert second == (
        head + "4<|im_end|>\n<|im_start|>user\nAnd 1?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nOne on.\n</think>\n\n5<|im_end|>⟧\n"
    )
    looped = (*ONE[:2], Message("assistant", "", calls=(call("Oslo"),), thoughts="Ask."), *ONE[3:])
    assert tokenizer.sequences(looped) == [looped]  # both turns stand behind the last question
    assert marked(tokenizer, looped).count("⟦<think>") == 2
    plain = (TWO[0], Message("assistant", "4"), *TWO[2:])
    assert tokenizer.sequences(plain) == [plain]


@pytest.mark.parametrize("name", ["hermes", "chatml", "plain"])
def test_reasoning_is_kept_where_the_template_keeps_it(base, name):
    tokenizer = with_template(base, TEMPLATES[name])
    assert tokenizer.sequences(TWO) == [TWO]
    text = marked(tokenizer, TWO)
    assert "⟦<think>\nTwo twos.\n</think>\n\n4<" in text and "⟦<think>\nOne on.\n</think>\n\n5<" in text


@pytest.mark.parametrize(
    ("name", "messages", "what"),
    [
        ("llama", (*ONE[:2], Message("assistant", "", calls=(call("a"), call("b")))), "one call at once"),
        (
            "llama",
            (*ONE[:2], Message("assistant", "I look.", calls=(call("a"),))),
            "leaves out a tool call, or the text",
        ),
        ("no_tools", ONE, "leaves out the tools"),
        ("no_tools", ONE[1:3], "leaves out a tool call"),
        ("no_results", ONE, "leaves out a tool's result"),
        ("unasked", ONE, "a turn with tool calls begins otherwise than an answer"),
        ("always", ONE, "where a turn with tool calls ends cannot be told"),
        ("no_thoughts", TWO[:2], "leaves out the reasoning of the last turn"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(base, name, messages, what):
    only = "{% for m in messages if m.role != 'tool' %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    sources = {
        "always": ALWAYS,
        "unasked": UNASKED,
        "no_tools": only + "{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
        "no_results": "{{ tools | tojson }}" + only + CALLS + "{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
        "no_thoughts": only.replace("m.content", "m.content.split('</think>')[-1].strip()")
        + "<|im_end|>{% endfor %}"
        + ASK,
    }
    tokenizer = with_template(base, sources.get(name) or TEMPLATES[name])
    with pytest.raises(UserError, match=f"chat template: .*{what}") as caught:
        tokenizer.encode_chat(messages)
    assert "\n" not in str(caught.value)


WORDS = st.lists(
    st.sampled_from(["oslo", "city", "\n", " ", '"', "}", "<tool_call>", "</s>", "<|im_end|>", "[/INST]", "قط",
                     "\U000f0000"]),
    min_size=1, max_size=5,
).map(lambda words: f"w{''.join(words)}w")  # fmt: skip


@st.composite
def conversations(draw):
    """Exchanges of a question, perhaps a call with its result, and an answer."""
    turns = [TOOLS]
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", f"q7{draw(WORDS)}"))
        if draw(st.booleans()):
            arguments = draw(st.dictionaries(st.sampled_from("abc"), WORDS | st.integers(0, 9), max_size=2))
            turns.append(
                Message("assistant", "", calls=(ToolCall("weather", json.dumps(arguments, ensure_ascii=False)),))
            )
            turns.append(Message("tool", f"r8{draw(WORDS)}"))
        turns.append(Message("assistant", draw(WORDS), trained=draw(st.booleans())))
    return tuple(turns)


def oracle(name, message):
    """What the template writes of a turn, by hand; "" for a call whose id is not known here."""
    end = {"hermes": "<|im_end|>", "chatml": "<|im_end|>", "llama": "<|eot|>", "mistral": "</s>", "plain": "</s>"}[name]
    if not message.calls:
        return (f" {message.content}" if name == "mistral" else message.content) + end
    arguments = json.dumps(json.loads(message.calls[0].arguments), ensure_ascii=False)
    if name == "mistral":
        return ""
    if name == "llama":
        return f'{{"name": "weather", "parameters": {arguments}}}{end}'
    return f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>{end}'


@settings(max_examples=60, deadline=None)
@given(conversations(), st.sampled_from(["hermes", "chatml", "llama", "mistral", "plain"]))
def test_the_mask_of_any_conversation_is_what_its_assistants_write(base, messages, name):
    tokenizer = with_template(base, TEMPLATES[name])
    ids, mask = tokenizer.encode_chat(messages)
    assert tokenizer.decode(ids, skip_special=False) == tokenizer.chat.render(messages, bos="<s>", eos="</s>")
    runs, last = [], False
    for i, trained in zip(ids, mask, strict=True):
        if trained:
            runs = [*runs[:-1], [*runs[-1], i]] if last else [*runs, [i]]
        last = trained
    said = [tokenizer.decode(run, skip_special=False) for run in runs]
    due = [message for message in messages if message.role == "assistant" and message.trained]
    assert len(said) == len(due)
    control = set(tokenizer.control_tokens.values())
    for run, text, message in zip(runs, said, due, strict=True):
        assert text == (oracle(name, message) or text) and run[-1] == tokenizer.turn_end_id
        assert "q7" not in text and "r8" not in text
        own = [i for i in run if i in control]
        assert own == [*([tokenizer.id_of("[TOOL_CALLS]")] if name == "mistral" and message.calls else []), run[-1]]
