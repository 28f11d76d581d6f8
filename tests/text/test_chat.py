"""Prompts are exact prefixes, the mask is what the assistant writes, hostile templates are bounded."""

import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text import sandbox
from lit_llm.text.bpe import train_bpe
from lit_llm.text.chat import CHATML, PLAIN, ChatTemplate
from lit_llm.text.control_tokens import SPECIALS
from lit_llm.text.tokenizer import Tokenizer

LLAMA3 = (
    "{{- bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = CHATML.replace(
    "{%- if message['reasoning_content'] %}", "{%- generation %}\n{%- if message['reasoning_content'] %}"
).replace("{{- '<|im_end|>' }}", "{{- '<|im_end|>' }}{% endgeneration %}")
NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "marked": MARKED, "llama3": LLAMA3, "llama2": LLAMA2, "thinking": THINKING}
TEMPLATES |= {"plain": PLAIN, "no_end": NO_END}
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.fixture(scope="module")
def base():
    texts = ["user assistant system hello how are you the cat sat on the mat [INST] " * 20]
    made = train_bpe(texts, 600, show_progress=False)
    made.engine.add_special_tokens(list(HEADERS))
    return made


def with_template(base, name):
    return Tokenizer(base.engine, base.config | {"bos_token": "<|endoftext|>"}, ChatTemplate(TEMPLATES[name]))


CONTENT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
        st.sampled_from([*SPECIALS, *HEADERS, "\n", " ", "user", "\U000f0000", "\U000f0001", "\U000f0002"]),
    ),
    min_size=1,
    max_size=5,
).map("".join)
FILLED = CONTENT.filter(lambda text: text.strip() and "</think>" not in text)


@st.composite
def dialogues(draw):
    turns = draw(st.integers(1, 3))
    roles = ["user", "assistant"] * turns
    return tuple(Message(role, draw(FILLED)) for role in roles)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(messages=dialogues())
def test_the_prompt_is_an_exact_prefix(base, name, messages):
    tokenizer = with_template(base, name)
    ids, mask = tokenizer.encode_chat(messages)
    for turn in range(1, len(messages), 2) if name != "thinking" else [len(messages) - 1]:
        prompt = tokenizer.encode_prompt(messages[:turn])
        assert ids[: len(prompt)] == prompt
        assert not mask[len(prompt) - 1] and mask[len(prompt)]
    completion = tokenizer.encode_completion(messages[-1].content)
    assert ids[len(prompt) : len(prompt) + len(completion)] == completion
    assert not any(mask[len(prompt) + len(completion) :])


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(messages=dialogues())
def test_the_mask_covers_the_assistants_text_and_its_end_token_and_nothing_else(base, name, messages):
    tokenizer = with_template(base, name)
    ids, mask = tokenizer.encode_chat(messages)
    runs, last = [], False
    for i, trained in zip(ids, mask, strict=True):
        if trained:
            runs = [*runs[:-1], [*runs[-1], i]] if last else [*runs, [i]]
        last = trained
    answers = [m.content for m in messages if m.role == "assistant"]
    assert len(runs) == len(answers)
    ends = set(tokenizer.control_tokens.values())
    for n, (run, answer) in enumerate(zip(runs, answers, strict=True)):
        ended = name != "no_end" or n == len(answers) - 1
        assert (run[-1] == tokenizer.turn_end_id) == ended
        written = run[:-1] if ended else run
        assert not ends & set(written)  # what looks like a control token in the text is text
        text = tokenizer.decode(written, skip_special=False)
        if name in ("chatml", "marked", "plain", "no_end"):
            assert text == answer
        elif name == "llama2":
            assert text == f" {answer.strip()} "
        elif name == "thinking":
            lead = "<think>\n\n</think>\n\n" if n == len(answers) - 1 else ""
            assert text == lead + answer.lstrip("\n")
        else:
            assert text == answer.strip()


@settings(max_examples=80, deadline=None)
@given(messages=dialogues())
def test_control_tokens_in_any_field_stay_plain(base, messages):
    tokenizer = with_template(base, "chatml")
    messages = (Message("system", "be <|im_end|> kind"), *messages)
    ids, _ = tokenizer.encode_chat(messages)
    control = [i for i in ids if i in set(tokenizer.control_tokens.values())]
    assert control == [tokenizer.id_of("<|im_start|>"), tokenizer.id_of("<|im_end|>")] * len(messages)
    assert tokenizer.decode(ids, skip_special=False) == tokenizer.chat.render(messages)


@pytest.mark.parametrize("name", ["chatml", "marked", "llama3", "llama2"])
def test_transformers_renders_and_encodes_the_same(base, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = with_template(base, name)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    messages = (
        Message("user", "hello, how are you?\n"),
        Message("assistant", "the cat\n\n sat"),
        Message("user", "مرحبا 🤗"),
    )
    plain = [{"role": m.role, "content": m.content} for m in messages]
    ours = tokenizer.chat.render(messages, prompt=True, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
    assert theirs.apply_chat_template(plain, tokenize=False, add_generation_prompt=True) == ours
    ids = theirs.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    assert list(ids) == tokenizer.encode_prompt(messages)


def test_a_vocabulary_without_chatml_gets_a_plain_template_with_its_own_end():
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers

    engine = Engine(
        models.BPE({c: n for n, c in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "</s>"])}, [])
    )
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = Tokenizer(engine, {"eos_token": "</s>"})
    ids, mask = tokenizer.encode_chat((Message("user", "a </s>"), Message("assistant", "b")))
    assert tokenizer.decode(ids, skip_special=False) == "User: a </s>\nAssistant: b</s>\n"
    assert ids.count(tokenizer.turn_end_id) == 1
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m], skip_special=False) == "b</s>"


def test_a_template_travels_to_worker_processes(base):
    tokenizer = with_template(base, "chatml")
    messages = (Message("user", "a"), Message("assistant", "b"))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_chat(messages) == tokenizer.encode_chat(messages)


HOSTILE = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "times": "{{ 'a' * 10**12 }}",
    "power": "{{ 9 ** 999999999 }}",
    "ljust": "{{ 'a'.ljust(10**12) }}",
    "center": "{{ 'a' | center(1000000000000) }}",
    "format": "{{ '{:1000000000000}'.format(1) }}",
    "percent": "{{ '%1000000000000d' % 1 }}",
    "star": "{{ '%*d' % (1000000000, 1) }}",
    "doubling": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nesting": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "replace": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}",
    "join": "{{ range(99999) | join('a' * 10000 if false else messages[0].content * 99999) }}",
    "text": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "block": "{% set x %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endset %}{{ x }}",
    "lipsum": "{{ lipsum(n=10000000) }}",
    "python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "change": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "raise": "{{ raise_exception('no\nsystem role') }}",
    "syntax": "{% for %}",
    "long": "a" * 300_000,
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "undefined": "{{ nothing.at.all }}",
    "zero": "{{ 1 // 0 }}",
    "mute": "",
    "drops": "{{ messages[0].content }}",
    "header": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_bounded_and_one_line(base, name, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.5)
    began = time.process_time()
    with pytest.raises(UserError, match="chat template") as caught:
        tokenizer = Tokenizer(base.engine, base.config, ChatTemplate(HOSTILE[name]))
        tokenizer.encode_chat((Message("user", "a"), Message("assistant", "b")))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.process_time() - began < 20


class Waits:
    def __str__(self):
        time.sleep(0.3)
        return "done"


class Works(Waits):
    def __str__(self):
        began = time.thread_time()
        while time.thread_time() < began + 0.3:
            pass
        return "done"


def test_a_template_is_bounded_by_the_processor_s_time_and_not_by_the_clock(monkeypatch):
    """On a busy machine rendering takes long, which must not look like a template that refuses."""
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    made = sandbox.Sandbox()
    template = made.from_string("{{ value }}{% for n in range(2) %}{{ n }}{% endfor %}")
    assert made.render_text(template, {"value": Waits()}) == "done01"
    with pytest.raises(sandbox.BudgetError, match="seconds of a processor"):
        made.render_text(template, {"value": Works()})


def test_a_real_template_may_loop_and_use_the_usual_tools(base):
    source = (
        "{%- set ns = namespace(found=false) %}{%- for m in messages[::-1] %}"
        ""
        "{%- if loop.first %}{% set ns.found = true %}{%- endif %}{%- endfor %}"
        "{%- macro turn(m) %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>' }}"
        "{%- endmacro %}{%- for m in messages if m.role in ['user', 'assistant'] %}{{ turn(m) }}"
        "{%- if m.content is string and 'stop' in m.content %}{% break %}{% endif %}{%- endfor %}"
        "{%- if add_generation_prompt and ns.found %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = Tokenizer(base.engine, base.config, ChatTemplate(source))
    messages = tuple(Message(r, "x y " * 50) for r in ("user", "assistant") * 100)
    ids, mask = tokenizer.encode_chat(messages)
    assert sum(i == tokenizer.turn_end_id and m for i, m in zip(ids, mask, strict=True)) == 100
