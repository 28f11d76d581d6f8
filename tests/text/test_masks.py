"""Hand-made masks for the turn formats of public chat templates: what an assistant writes is learned, nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.chat import CHATML
from tests.text.templated import base_of, with_template

NAMES = ("<s>", "</s>", "<|user|>", "<|bot|>", "<|end|>", "<|return|>", "[INST]", "[/INST]", "<|turn|>", "<|says|>",
         "<|said|>", "<|over|>")  # fmt: skip
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
OPEN_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
HEAD = "{{ '<|im_start|>' + m.role + '\n' }}"
REST = "{% set rest = m.content.split('</think>')[-1].lstrip('\n') %}"
THOUGHTS = (
    "{% set thoughts = '' %}{% if '</think>' in m.content %}"
    "{% set thoughts = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% endif %}"
)

# Template, and what is learned of PLAIN's and of THINKING's two answers; None: refused.
HABITS = {
    # the case that was filed: only the last turn has a reasoning part, which the generation prompt begins
    "last_turn_thinks": (
        "{% for m in messages %}" + HEAD + "{% if m.role == 'assistant' and loop.last %}"
        "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + OPEN_ASK,
        ["Four.<|im_end|>", "\n</think>\n\nFive.<|im_end|>"],
        ["Four.<|im_end|>", "One on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # Qwen3: past thoughts are dropped, the last turn gets an empty part where it has none
    "past_thoughts_dropped": (
        "{% for m in messages %}" + HEAD + "{% if m.role == 'assistant' %}" + REST + THOUGHTS +
        "{% if loop.last %}{{ '<think>\n' + thoughts + '\n</think>\n\n' }}{% endif %}{{ rest }}{% else %}"
        "{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
        ["Four.<|im_end|>", "<think>\n\n</think>\n\nFive.<|im_end|>"],
        ["Four.<|im_end|>", "<think>\nOne on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # Qwen3.5, thinking: as above, and the generation prompt opens the thoughts
    "past_thoughts_dropped_prompt_opens": (
        "{% for m in messages %}" + HEAD + "{% if m.role == 'assistant' %}" + REST + THOUGHTS +
        "{% if loop.last %}{{ '<think>\n' + thoughts + '\n</think>\n\n' }}{% endif %}{{ rest }}{% else %}"
        "{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + OPEN_ASK,
        ["Four.<|im_end|>", "\n</think>\n\nFive.<|im_end|>"],
        ["Four.<|im_end|>", "One on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # thoughts kept in every turn, written by the template
    "thoughts_kept": (
        "{% for m in messages %}" + HEAD + "{% if m.role == 'assistant' %}" + REST + THOUGHTS +
        "{{ '<think>\n' + thoughts + '\n</think>\n\n' + rest }}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
        ["<think>\n\n</think>\n\nFour.<|im_end|>", "<think>\n\n</think>\n\nFive.<|im_end|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|im_end|>", "<think>\nOne on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # DeepSeek R1, QwQ: thoughts are dropped from every turn, but the generation prompt opens them
    "thoughts_never_shown": (
        "{% for m in messages %}" + HEAD + REST +
        "{{ (rest if m.role == 'assistant' else m.content) + '<|im_end|>\n' }}{% endfor %}" + OPEN_ASK,
        None,
        ["Four.<|im_end|>", "One on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # Mistral: the system message stands in the last user's turn, and in none where that is not the last message
    "system_in_the_last_question": (
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + eos_token }}{% endif %}{% endfor %}",
        [" Four.</s>", " Five.</s>"],
        [" <think>\nTwo twos.\n</think>\n\nFour.</s>", " <think>\nOne on.\n</think>\n\nFive.</s>"],
    ),
    # Llama 2: nothing but blanks invites an answer, the system message goes into the first question
    "no_invitation": (
        "{% set first = messages[0].content if messages[0].role == 'system' %}"
        "{% set system = '<<SYS>>\n' + first + '\n<</SYS>>\n\n' if first else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        [" Four. </s>", " Five. </s>"],
        [" <think>\nTwo twos.\n</think>\n\nFour. </s>", " <think>\nOne on.\n</think>\n\nFive. </s>"],
    ),
    # the template writes the header on its own, whatever add_generation_prompt says
    "invitation_ignored": (
        "{% for m in messages %}{{ '<|bot|>\n' if m.role == 'assistant' else '<|user|>\n' }}"
        "{{ m.content + '<|end|>\n' }}{% endfor %}",
        ["Four.<|end|>", "Five.<|end|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|end|>", "<think>\nOne on.\n</think>\n\nFive.<|end|>"],
    ),
    # gpt-oss: the last turn ends otherwise than those before it
    "last_end_differs": (
        "{% for m in messages %}{{ '<|bot|>' if m.role == 'assistant' else '<|user|>' }}{{ m.content }}"
        "{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}",
        ["Four.<|end|>", "Five.<|return|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|end|>", "<think>\nOne on.\n</think>\n\nFive.<|return|>"],
    ),
    # Cohere: an answer ends, and then its turn, each with a token; the next turn's token follows at once
    "two_ends": (
        "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' + ('<|bot|>' if m.role == 'assistant' else '<|user|>') }}"
        "{{ '<|says|>' + m.content + '<|said|>' if m.role == 'assistant' else m.content }}{{ '<|over|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn|><|bot|>' }}{% endif %}",
        ["<|says|>Four.<|said|><|over|>", "<|says|>Five.<|said|><|over|>"],
        ["<|says|><think>\nTwo twos.\n</think>\n\nFour.<|said|><|over|>",
         "<|says|><think>\nOne on.\n</think>\n\nFive.<|said|><|over|>"],
    ),
    # the same, and an invitation stands behind every conversation, wanted or not: what ends a turn is not known of it
    "two_ends_and_an_invitation": (
        "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' + ('<|bot|>' if m.role == 'assistant' else '<|user|>') }}"
        "{{ m.content + ('<|said|>' if m.role == 'assistant' else '') + '<|over|>' }}{% endfor %}"
        "{{ '<|turn|><|bot|>' }}",
        ["Four.<|said|>", "Five.<|said|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|said|>", "<think>\nOne on.\n</think>\n\nFive.<|said|>"],
    ),
    # DeepSeek R1 as it is trained: thoughts stay, and the generation prompt opens those of every turn
    "thoughts_kept_prompt_opens": (
        "{% for m in messages %}" + HEAD + "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + OPEN_ASK,
        None,
        ["Two twos.\n</think>\n\nFour.<|im_end|>", "One on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # plain words for headers, which may occur in any message, and no end token
    "plain_words": (
        "{% for m in messages %}{{ ('Assistant: ' if m.role == 'assistant' else 'Human: ') + m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
        ["Four.", "Five.</s>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.", "<think>\nOne on.\n</think>\n\nFive.</s>"],
    ),
    # it looks at how an answer begins: private marks there would change what it writes
    "looks_at_the_beginning": (
        "{% for m in messages %}" + HEAD + "{% if m.content.startswith('<think>') and not loop.last %}"
        "{{ m.content.split('</think>')[-1].strip() }}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
        ["Four.<|im_end|>", "Five.<|im_end|>"],
        ["Four.<|im_end|>", "<think>\nOne on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # it looks at what people say, and at how much
    "looks_at_questions": (
        "{% for m in messages %}" + HEAD + "{{ m.content[:200] if m.content[0] != 'T' else 'T' + m.content[1:] }}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if messages[-1].content | length > 12 %}{% endif %}" + ASK,
        ["Four.<|im_end|>", "Five.<|im_end|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|im_end|>", "<think>\nOne on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # the day is the same every day
    "writes_the_date": (
        "{{ '<|user|>' + strftime_now('%d %b %Y') + '<|end|>' }}{% for m in messages %}" + HEAD +
        "{{ m.content | trim + '<|im_end|>' }}{% endfor %}" + ASK,
        ["Four.<|im_end|>", "Five.<|im_end|>"],
        ["<think>\nTwo twos.\n</think>\n\nFour.<|im_end|>", "<think>\nOne on.\n</think>\n\nFive.<|im_end|>"],
    ),
    # refused: what cannot be told
    "leaves_past_turns_out": (
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}" + HEAD +
        "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, None, None,
    ),
    "shouts": (
        "{% for m in messages %}" + HEAD + "{{ (m.content | upper) + '<|im_end|>\n' }}{% endfor %}" + ASK, None, None,
    ),
    "latest_first": (
        "{% for m in messages[::-1] %}" + HEAD + "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + ASK, None, None,
    ),
    "another_header": (
        "{% for m in messages %}" + HEAD + "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}", None, None,
    ),
}  # fmt: skip

QUESTIONS = (Message("system", "My secret word is heron."), Message("user", "Two and two?"))
PLAIN = (*QUESTIONS, Message("assistant", "Four."), Message("user", "And one more?"), Message("assistant", "Five."))
THINKING = (
    *QUESTIONS,
    Message("assistant", "<think>\nTwo twos.\n</think>\n\nFour."),
    Message("user", "And one more?"),
    Message("assistant", "<think>\nOne on.\n</think>\n\nFive."),
)


@pytest.fixture(scope="module")
def base():
    return base_of("user assistant system four five two and one more think human ", NAMES)


def learned(tokenizer, messages):
    """The runs of trained tokens, as text."""
    ids, mask = tokenizer.encode_chat(messages)
    runs: list[list[int]] = []
    for place, (i, trained) in enumerate(zip(ids, mask, strict=True)):
        if trained and not (place and mask[place - 1]):
            runs.append([])
        if trained:
            runs[-1].append(i)
    return [tokenizer.decode(run, skip_special=False) for run in runs]


CASES = [(name, kind, HABITS[name][1 + n]) for name in HABITS for n, kind in enumerate((PLAIN, THINKING))]


@pytest.mark.parametrize(("name", "messages", "answers"), CASES)
def test_what_is_learned(base, name, messages, answers):
    tokenizer = with_template(base, HABITS[name][0])
    if answers is None:
        with pytest.raises(UserError, match="chat template: ") as caught:
            tokenizer.encode_chat(messages)
        assert "\n" not in str(caught.value)
        return
    assert learned(tokenizer, messages) == answers
    ids, mask = tokenizer.encode_chat(messages)
    prompt = tokenizer.encode_prompt(messages[:-1])
    assert ids[: len(prompt)] == prompt and mask[len(prompt)] and not mask[len(prompt) - 1]
    answer = tokenizer.encode_completion(messages[-1].content)
    assert ids[len(prompt) : len(prompt) + len(answer)] == answer and not any(mask[len(prompt) + len(answer) :])


# Nemotron: without reasoning an answer begins with an empty part, as the other of two generation prompts ends.
TWO_PROMPTS = (
    "{% set thinks = enable_thinking | default(true) %}{% for m in messages %}" + HEAD + "{{ '<think></think>' "
    "if m.role == 'assistant' and '</think>' not in m.content }}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + ('<think>\n' if thinks else '<think></think>') }}"
    "{% endif %}"
)


def test_a_prompt_that_asks_for_reasoning_names_the_line_that_ends_it(base):
    told = r"its prompts ask for reasoning: .*{% set enable_thinking = false %}"
    with pytest.raises(UserError, match=told) as caught:
        with_template(base, TWO_PROMPTS).encode_chat(PLAIN)
    line = str(caught.value).partition("with {%")[2].partition("%}")[0]
    followed = with_template(base, "{%" + line + "%}" + TWO_PROMPTS)
    assert learned(followed, PLAIN) == ["Four.<|im_end|>", "Five.<|im_end|>"]
    assert learned(with_template(base, TWO_PROMPTS), THINKING)[-1] == "One on.\n</think>\n\nFive.<|im_end|>"
    with pytest.raises(UserError, match="use a template where it does"):
        with_template(base, HABITS["thoughts_kept_prompt_opens"][0]).encode_chat(PLAIN)


# Gemma 4: a prompt says that no reasoning follows, by an empty one, and past turns do not say it.
SAYS_NONE = (
    "{% for m in messages %}" + HEAD + "{% if m.reasoning %}{{ '<think>' + m.reasoning + '</think>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)


def test_an_answer_follows_a_prompt_that_says_there_is_no_reasoning(base):
    tokenizer = with_template(base, SAYS_NONE)
    assert learned(tokenizer, PLAIN) == ["Four.<|im_end|>", "Five.<|im_end|>"]
    ids, _ = tokenizer.encode_chat(PLAIN)
    prompt = tokenizer.encode_prompt(PLAIN[:-1])
    assert ids[: len(prompt)] == prompt and tokenizer.decode(prompt, skip_special=False).endswith("<think></think>")
    assert ids[len(prompt) :][: len(tokenizer.encode_completion("Five."))] == tokenizer.encode_completion("Five.")
    reasons = (PLAIN[0], PLAIN[1], Message("assistant", "Four.", thoughts="Two twos."))
    with pytest.raises(UserError, match=r"ask for no reasoning: .*{% set enable_thinking = true %}"):
        tokenizer.encode_chat(reasons)
    with pytest.raises(UserError, match="a turn with reasoning does not begin as its generation prompt ends"):
        tokenizer.encode_chat((*reasons, *PLAIN[3:]))
    thinking = with_template(base, "{% set enable_thinking = true %}\n" + SAYS_NONE)
    assert learned(thinking, reasons) == ["<think>Two twos.</think>Four.<|im_end|>"]


# DeepSeek V3, EXAONE: reasoning is cut from every turn, the last one too.
FORGETS_ALL = "{% for m in messages %}" + HEAD + REST + "{{ rest + '<|im_end|>\n' }}{% endfor %}" + ASK


def test_reasoning_that_no_turn_keeps_is_refused_wherever_it_stands(base):
    tokenizer = with_template(base, FORGETS_ALL)
    first = (*THINKING[:3], *PLAIN[3:])  # an earlier turn reasons, the last does not
    for messages in (THINKING, first):
        parts = tokenizer.sequences(messages)
        with pytest.raises(UserError, match="leaves out the reasoning of the last turn"):
            for part in parts:
                tokenizer.encode_chat(part)
    assert [learned(tokenizer, part) for part in tokenizer.sequences(PLAIN)] == [["Four.<|im_end|>", "Five.<|im_end|>"]]


@pytest.mark.parametrize("name", HABITS)
def test_any_template_can_be_asked_and_answered(base, name):
    """Chats and rollouts need no mask: a prompt is what the template writes, an answer is never refused."""
    tokenizer = with_template(base, HABITS[name][0])
    if name == "shouts":  # no probe comes through
        with pytest.raises(UserError, match="drops or rewrites"):
            tokenizer.chat.check(tokenizer)
        return
    text = tokenizer.decode(tokenizer.encode_prompt(PLAIN[:-1]), skip_special=False)
    written = tokenizer.chat.render(PLAIN[:-1], prompt=True, bos="<s>", eos="</s>")
    assert text == written + ("<|bot|>\n" if name == "invitation_ignored" else "")
    for answer in ("Six.", "", "<|im_end|> </think> x", "<think>\nhm\n</think>\n\nSix."):
        ids = tokenizer.encode_completion(answer)
        assert ids[-1] == tokenizer.turn_end_id
        assert tokenizer.turn_end_id not in ids[:-1]


WORDS = st.lists(
    st.sampled_from(["four", "Assistant: ", "Human: ", "\n", " ", "<|bot|>", "[/INST]", "</s>", "ü東", "assistant"]),
    min_size=1, max_size=6,
).map("".join).filter(str.strip)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), st.sampled_from(sorted(HABITS)))
def test_no_word_of_a_question_is_ever_learned(base, exchanges, name):
    tokenizer = with_template(base, HABITS[name][0])
    messages = [Message("system", "heron")]
    for question, answer in exchanges:
        messages += [Message("user", f"q7{question}q7"), Message("assistant", answer)]
    try:
        texts = learned(tokenizer, messages)
    except UserError:
        assert name not in ("plain_words", "invitation_ignored", "past_thoughts_dropped", "no_invitation")
        return
    assert not any("q7" in text or "heron" in text for text in texts)
    ends = 0 if name == "plain_words" else sum(text.endswith(tokenizer.decode([tokenizer.turn_end_id], False))
                                               for text in texts)  # fmt: skip
    assert ends == (1 if name == "last_end_differs" else 0 if name == "plain_words" else len(exchanges))


def test_turns_that_are_not_to_be_learned_are_left_out_and_change_no_id(base):
    tokenizer = with_template(base, CHATML)
    messages = (*PLAIN[:2], Message("assistant", "Four.", trained=False), *PLAIN[3:])
    assert learned(tokenizer, messages) == ["Five.<|im_end|>"]
    assert tokenizer.encode_chat(messages)[0] == tokenizer.encode_chat(PLAIN)[0]
    only_first = (*PLAIN[:4], Message("assistant", "Five.", trained=False))
    assert learned(tokenizer, only_first) == ["Four.<|im_end|>"]


def test_what_is_not_learned_need_not_be_told_apart(base):
    """A history that no mask is needed for is no reason to refuse; nor is one that is past."""
    tokenizer = with_template(base, HABITS["thoughts_never_shown"][0])
    messages = (*PLAIN[:-1], Message("assistant", "Five.", trained=False))
    assert learned(tokenizer, messages) == ["Four.<|im_end|>"]


def test_a_template_that_refuses_says_so_in_its_own_words_with_its_file(base, tmp_path):
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role, please') }}{% endif %}" + CHATML
    base.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    from lit_llm.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat.check(tokenizer)
    for encode in (tokenizer.chat.encode, tokenizer.chat.encode_prompt):
        with pytest.raises(UserError, match=r"chat_template.jinja: no system role, please$"):
            encode(tokenizer, PLAIN)


def test_a_broken_template_names_its_file(base, tmp_path):
    from lit_llm.text.tokenizer import load_tokenizer

    base.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m.content }")
    with pytest.raises(UserError, match=r"chat_template\.jinja line 2: "):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ nothing.at.all }}")
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"chat_template\.jinja: 'nothing' is undefined"):
        tokenizer.chat.check(tokenizer)


@pytest.mark.parametrize(
    "content", ["\n Four \n", "", "  ", "<think>\n\n</think>\n\nFour", "\n\n<|im_end|>Four<|im_end|>  "]
)
@pytest.mark.parametrize("cut", ["m.content", "m.content | trim", "m.content.lstrip('\n')", "m.content.rstrip()"])
def test_blanks_are_cut_as_the_template_cuts_them(base, content, cut):
    source = "{% for m in messages %}" + HEAD + "{{ " + cut + " }}{{ '<|im_end|>\n' }}{% endfor %}" + ASK
    tokenizer = with_template(base, source)
    messages = (Message("user", f"{content}?"), Message("assistant", content), Message("user", content), PLAIN[-1])
    ids, _ = tokenizer.encode_chat(messages)
    assert tokenizer.decode(ids, skip_special=False) == tokenizer.chat.render(messages)
    cuts = {"m.content": str, "m.content | trim": str.strip, "m.content.rstrip()": str.rstrip}
    text = cuts.get(cut, lambda text: text.lstrip("\n"))(content)
    assert learned(tokenizer, messages) == [f"{text}<|im_end|>", "Five.<|im_end|>"]
