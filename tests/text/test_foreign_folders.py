"""Folders of other tools: no setting changes ids unasked, texts begin as in transformers, mistakes are one line."""

from __future__ import annotations

import inspect
import json

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, processors

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text import tokenizer_files
from lit_llm.text.bpe import train_bpe
from lit_llm.text.control_tokens import DOCUMENT_END
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["the cat sat on the mat tensor tensors and the dog sat too. " * 20, "def f(x):\n    return x\n" * 9]
FAMILIES = ("qwen3", "qwen2", "llama", "mistral")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 420, show_progress=False)


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    return tmp_path


def change(file, **keys):
    """Sets keys of a JSON file; ``model__dropout`` is the key ``dropout`` of ``model``."""
    state = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for key, value in keys.items():
        at, _, inner = key.partition("__")
        state[at] = state[at] | {inner: value} if inner else value
    file.write_text(json.dumps(state), encoding="utf-8")


SETTINGS = {
    "truncation": {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    },
    "padding": {
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": DOCUMENT_END}
    },
    "dropout": {"model__dropout": 0.9},
    "post-processor": {
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": DOCUMENT_END, "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}},
                                                     {"SpecialToken": {"id": DOCUMENT_END, "type_id": 0}}],
            "pair": [], "special_tokens": {DOCUMENT_END: {"id": DOCUMENT_END, "ids": [0], "tokens": [DOCUMENT_END]}},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_would_change_ids_are_off(tokenizer, folder, name):
    change(folder / "tokenizer.json", **SETTINGS[name])
    loaded = load_tokenizer(folder)
    messages = (Message("user", TEXTS[0]), Message("assistant", TEXTS[0]))
    for _ in range(3):
        assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
        assert loaded.encode_batch([TEXTS[0], "x"]) == tokenizer.encode_batch([TEXTS[0], "x"])
        assert loaded.encode_chat(messages) == tokenizer.encode_chat(messages)
    loaded.save(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"] is saved["padding"] is saved["model"]["dropout"] is None


BOS, EOS = "<|im_start|>", "<|im_end|>"
PROCESSORS = {
    "none": None,
    "bytes": processors.ByteLevel(trim_offsets=False),
    "bos": processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)]),
    "both": processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 1), (EOS, 2)]),
    "bytes and bos": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])]
    ),
}
SWITCHES = [
    {},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": None},
    {"add_eos_token": True},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_bos_begins_texts_only_where_the_tokenizer_adds_it(tokenizer, folder, name, switches):
    """The post-processor says, as in transformers 5, or a switch that is on, as in Llama's classes of 4."""
    transformers = pytest.importorskip("transformers")
    loaded = load_tokenizer(folder)
    if PROCESSORS[name] is not None:
        loaded.engine.post_processor = PROCESSORS[name]
    (folder / "tokenizer.json").write_text(loaded.engine.to_str(), encoding="utf-8")
    change(folder / "tokenizer_config.json", bos_token=BOS, eos_token=EOS, **switches)
    text = tokenizer.encode("the cat")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder)).encode("the cat")
    before, behind = theirs[: theirs.index(text[0])], theirs[theirs.index(text[-1]) + 1 :]
    assert before == ([1] if name in ("bos", "both", "bytes and bos") else [])
    before = [1] if switches.get("add_bos_token") else before
    behind = [2] if switches.get("add_eos_token") else behind
    ours = load_tokenizer(folder)
    assert list(ours.beginning) == (before or [ours.document_end_id]) and ours.encode("the cat") == text
    ours.save(folder)
    for reader in (load_tokenizer, transformers.PreTrainedTokenizerFast.from_pretrained):
        again = reader(str(folder))
        engine = again.engine if isinstance(again, Tokenizer) else again.backend_tokenizer
        assert engine.encode("the cat").ids == [*before, *text, *behind]
    assert load_tokenizer(folder).fingerprint() == ours.fingerprint()


def test_a_template_made_here_begins_as_the_tokenizer_lets_texts_begin(tokenizer, folder):
    (folder / "chat_template.jinja").unlink()
    change(folder / "tokenizer_config.json", chat_template=None)
    messages = (Message("user", "the cat?"), Message("assistant", "sat"))
    plain = tokenizer.encode_chat(messages)[0]
    change(folder / "tokenizer_config.json", bos_token=DOCUMENT_END)  # a name alone is no reason
    loaded = load_tokenizer(folder)
    assert loaded.encode_chat(messages)[0] == plain
    change(folder / "tokenizer_config.json", add_bos_token=True)
    loaded = load_tokenizer(folder)
    assert loaded.encode_chat(messages)[0] == [0, *plain]
    loaded.save(folder)
    again = load_tokenizer(folder)
    assert again.encode_chat(messages)[0] == [0, *plain]


MAPS = {
    "what the configuration leaves out": (
        {"eos_token": EOS, "add_bos_token": True}, {"bos_token": BOS, "pad_token": EOS}
    ),
    "objects": ({"eos_token": EOS}, {"bos_token": {"content": BOS, "lstrip": False}, "unk_token": {"content": EOS}}),
    "null in the configuration": ({"eos_token": EOS, "bos_token": None}, {"bos_token": BOS}),
    "another one": ({"eos_token": EOS, "bos_token": DOCUMENT_END}, {"eos_token": DOCUMENT_END, "bos_token": BOS}),
    "null in the map": ({"eos_token": EOS, "bos_token": DOCUMENT_END}, {"bos_token": None}),
    "nothing in the configuration": ({}, {"eos_token": EOS, "bos_token": BOS, "additional_special_tokens": [BOS]}),
    "a map that is not read": (
        {"eos_token": EOS, "added_tokens_decoder": {"0": {"content": DOCUMENT_END, "special": True}}},
        {"bos_token": BOS, "pad_token": BOS, "eos_token": DOCUMENT_END},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MAPS)
def test_names_come_from_the_special_tokens_map_too(folder, case):
    auto = pytest.importorskip("transformers").AutoTokenizer
    config, named = MAPS[case]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    source = (
        "{{ bos_token }}{{ pad_token }}{{ unk_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(source)
    theirs, ours = auto.from_pretrained(str(folder)), load_tokenizer(folder)
    plain, messages = [{"role": "user", "content": "the cat"}], [Message("user", "the cat")]
    wanted = list(theirs.apply_chat_template(plain)["input_ids"])
    ours.save(folder / "saved")
    again = load_tokenizer(folder / "saved")
    for one in (ours, again):
        assert one.encode_prompt(messages) == wanted
        assert {k: v for k, v in one.named_tokens.items() if v} == theirs.special_tokens_map
    assert auto.from_pretrained(str(folder / "saved")).special_tokens_map == theirs.special_tokens_map


def test_documents_end_with_what_separated_them_in_pretraining(folder):
    """SmolLM2 names its turns' ends as eos and bos, and was pretrained with another token between documents."""
    change(folder / "tokenizer_config.json", bos_token=BOS, eos_token=EOS, pad_token=EOS)
    loaded = load_tokenizer(folder)
    assert (loaded.document_end_id, loaded.beginning, loaded.bos_id) == (0, (0,), 1)
    other = load_tokenizer(folder)
    other.engine.add_tokens(["</s>"])  # a word of a text about HTML, and no control token
    assert Tokenizer(other.engine, {"eos_token": EOS}).document_end_id == 0


@pytest.mark.parametrize("stated", [None, "Qwen2Tokenizer", "LlamaTokenizerFast", "GPT2Tokenizer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_new_words_survive_the_tokenizer_of_every_family(family, stated, folder):
    transformers = pytest.importorskip("transformers")
    from lit_llm.text.new_words import REBUILT

    if stated:
        change(folder / "tokenizer_config.json", tokenizer_class=stated)
    ours = load_tokenizer(folder)
    before = {text: ours.encode(text) for text in (" tensors tensorboard", TEXTS[1])}
    new = ours.add_tokens(["tensor", "myocardial", "<grad>"], pieces=family not in REBUILT)
    assert ours.add_tokens(["tensor", "<grad>"], pieces=family not in REBUILT)  # again: nothing new
    ours.save(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in ("a myocardial tensor, <grad> x", "myocardial", "tensor\nmyocardial.", "(myocardial) the", *before):
        assert theirs.encode(text) == ours.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert {text: ours.encode(text) for text in before} == before
    assert len({i for i in ours.encode("a myocardial <grad> x") if i in new}) == 2


def test_ids_may_be_left_out(folder, tokenizer):
    """Then an embedding needs a row for the largest id; what is added comes behind it."""
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    largest = max(state["model"]["vocab"].values())
    last = next(token for token, i in state["model"]["vocab"].items() if i == largest)
    state["model"]["vocab"][last] = largest + 9
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    loaded = load_tokenizer(folder)
    assert loaded.vocab_size == largest + 10
    assert loaded.token_bytes(largest) == b"" and loaded.decode([largest]) == ""
    assert loaded.add_tokens(["<grad>"]) == [largest + 10] and loaded.vocab_size == largest + 11
    loaded.save(folder)
    assert load_tokenizer(folder).encode("x<grad>")[0] == tokenizer.encode("x")[0]
    assert load_tokenizer(folder).encode("a <grad>")[-1] == largest + 10


def vocabulary(**tokens):
    return json.dumps({"model": {"type": "BPE", "vocab": tokens, "merges": []}})


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"
MISTAKES = [
    ("tokenizer.json", LFS, "is a Git LFS pointer"),
    ("tokenizer.json", "", "not a tokenizer"),
    ("tokenizer.json", '{"model": {"type": "BPE", "voc', "not a tokenizer"),
    ("tokenizer.json", "null", "not a tokenizer"),
    ("tokenizer.json", "[" * 100_000, "not a tokenizer"),
    ("tokenizer.json", b"\xff\xfe\x00", "not readable as UTF-8"),
    ("tokenizer.json", vocabulary(), "vocabulary is empty"),
    ("tokenizer.json", vocabulary(a=0, b=2**31), "'b' has the id 2147483648, but there are 2 tokens"),
    ("tokenizer.json", vocabulary(a=0, b=2**32), "not a tokenizer"),
    ("tokenizer.json", vocabulary(a=0, b=-1), "not a tokenizer"),
    ("tokenizer.json", vocabulary(a=5_000_000), "'a' has the id 5000000"),
    ("tokenizer.json", vocabulary(a=0, b=1), "eos_token='<|im_end|>' is no token of tokenizer.json"),
    ("tokenizer_config.json", LFS, "a Git LFS pointer"),
    ("tokenizer_config.json", "[" * 100_000, "not JSON"),
    ("tokenizer_config.json", '{"eos_token": "<|nowhere|>"}', "eos_token='<|nowhere|>' is no token"),
    ("tokenizer_config.json", '{"eos_token": 5}', "eos_token=5; the name of a token is needed"),
    ("special_tokens_map.json", '{"bos_token": 5}', "special_tokens_map.json: bos_token=5; the name"),
    ("special_tokens_map.json", '{"eos_token": "<|nowhere|>"}', "special_tokens_map.json: eos_token='<|nowhere|>' is"),
    ("tokenizer_config.json", '{"add_bos_token": true, "bos_token": "<b>"}', "bos_token='<b>' is no token"),
    ("tokenizer_config.json", '{"chat_template": 5}', "chat_template is a int"),
    ("tokenizer_config.json", '{"chat_template": "{% if %}"}', "chat template .*tokenizer_config.json line 1: "),
    ("chat_template.jinja", "{% for %}", "chat template .*chat_template.jinja line 1: "),
    ("chat_template.jinja", LFS, "a Git LFS pointer"),
    ("generation_config.json", '{"eos_token_id": [2, 99999]}', r"eos_token_id=\[2, 99999\]: 99999 is no token's id"),
    ("generation_config.json", '{"eos_token_id": -1}', "-1 is no token's id"),
    ("generation_config.json", '{"eos_token_id": "two"}', "'two' is no token's id"),
    ("generation_config.json", '{"eos_token_id": 4294967296}', "is no token's id"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_line_that_names_the_file(folder, name, content, message):
    if name == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500 and str(folder) in said


def test_what_no_token_stands_for_is_one_line(tmp_path):
    engine = Engine(models.WordLevel({"</s>": 0, "the": 1}, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    Tokenizer(engine, {"eos_token": "</s>"}).save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("the the") == [1, 1]
    for encode in (loaded.encode, lambda text: loaded.encode_batch(["the", text])):
        with pytest.raises(UserError, match="text: the tokenizer cannot encode 'dog'"):
            encode("dog")


@pytest.mark.parametrize("name", tokenizer_files.CLASS_NAMES)
def test_names_that_a_class_stands_for_are_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    given = inspect.signature(getattr(transformers, f"{name}Tokenizer").__init__).parameters
    theirs = {key: str(given[key].default) for key in tokenizer_files.NAMED if key in given}
    assert {key: token for key, token in theirs.items() if token != "None"} == tokenizer_files.CLASS_NAMES[name]


def test_a_silent_folder_takes_the_names_of_its_class(folder):
    change(folder / "tokenizer.json", added_tokens=[])
    engine = Engine(models.BPE({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3}, [], unk_token="<unk>"))
    (folder / "tokenizer.json").write_text(engine.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (folder / "chat_template.jinja").unlink()
    loaded = load_tokenizer(folder)
    assert (loaded.bos_token, loaded.eos_token) == ("<s>", "</s>")
    change(folder / "tokenizer_config.json", bos_token=None)
    assert load_tokenizer(folder).bos_token == ""
