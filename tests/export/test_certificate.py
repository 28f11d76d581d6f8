"""The certificate: passed where all agree, failed where a file was damaged or misnamed, never passed by itself."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, decoders, models, normalizers, trainers
from tokenizers import Tokenizer as Engine
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.models import grow_vocabulary
from lit_llm.backbone.new_rows import set_to_means
from lit_llm.errors import UserError
from lit_llm.evaluation.sets import write_heldout
from lit_llm.export import certificate, gguf_file, tokenizer_metadata
from lit_llm.export.command import Export, name_of, run
from lit_llm.export.engines import Questions, Refused, ask_llama_cpp
from lit_llm.model_sources import folders, gguf_forms
from lit_llm.model_sources.gguf_header import read_head
from lit_llm.model_sources.pre_tokenizers import RULES
from lit_llm.records import Document, Heldout, Message, Prompt
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.merges import learn_merges
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer
from tests.export.conftest import NODE, SHAPES, needs_llama_cpp, small_model, small_tokenizer
from tests.export.families import model_of
from tests.model_sources.test_gguf import random_texts
from tests.small_gguf import TEXTS, write


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.setattr(certificate, "TEXTS", 40)
    monkeypatch.setattr(certificate, "STEPS", 6)
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)  # which has no node_modules


def export(
    folder: Path, output: Path, capsys, node: Path | None = None, called="small", **more
) -> tuple[int, dict, str]:
    """Status, certificate, and what was printed."""
    status = 0
    try:
        run(Export(folder, name=called, output=output, node_llama_cpp=node, **more))
    except SystemExit as stop:
        status = int(stop.code)
    path = output / "certificate.json"
    return status, json.loads(path.read_text()) if path.is_file() else {}, capsys.readouterr().out


def results(found: dict, engine: str) -> dict[str, bool | None]:
    return {check["name"]: check["passed"] for check in found["checks"] if engine in check["engine"]}


@pytest.mark.parametrize("quantization", ["f16", "q4_1"])
def test_what_was_asked_passed_and_without_llama_cpp_it_is_not_certified(quantization, folder, tmp_path, capsys):
    write_heldout(folder.parent / "heldout", Heldout("general", "documents", tuple(Document(t) for t in TEXTS[:4])))
    status, found, told = export(folder, tmp_path / "out", capsys, quantization=quantization)
    assert status == 0 and not found["passed"]
    assert [c for c in found["checks"] if c["passed"] is False] == []
    assert results(found, "llama.cpp") == {"reading the file": None}
    assert set(results(found, "transformers").values()) == {True} and len(results(found, "transformers")) == 4
    assert results(found, "lit-llm") == {"bits per byte on held-out text": True}
    assert told.splitlines()[-1] == "Not certified: llama.cpp was not asked; what was asked passed."
    assert "not run  reading the file, llama.cpp: node-llama-cpp is not in" in told
    card = (tmp_path / "out/README.md").read_text()
    assert "Not certified" in card and found["sha256"] in card and "| logits | transformers" in card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "Modelfile", "README.md", "certificate.json", f"small-{quantization.upper()}.gguf"
    ]  # fmt: skip


def test_a_damaged_tensor_and_a_misnamed_pre_tokenizer_fail(folder, tmp_path, capsys, monkeypatch):
    real = gguf_file.quantized

    def damaged(value, kind):
        value = value.copy()
        if value.shape == (192, 64):
            value[5] = 0
        return real(value, kind)

    monkeypatch.setattr(gguf_file, "quantized", damaged)
    status, found, told = export(folder, tmp_path / "out", capsys, quantization="q8_0")
    assert status == 1 and not found["passed"] and results(found, "reading")["weights"] is False
    assert told.splitlines()[-1] == "The certificate FAILED: weights."
    monkeypatch.setattr(gguf_file, "quantized", real)
    monkeypatch.setattr(tokenizer_metadata, "name_of", lambda *_: "gpt-2")
    status, found, told = export(folder, tmp_path / "out", capsys)
    assert status == 1 and results(found, "reading")["ids of random Unicode texts"] is False
    assert results(found, "transformers")["ids of random Unicode texts"] is False
    assert "FAILED" in (tmp_path / "out/README.md").read_text()


def test_a_loss_that_grew_fails(folder, tmp_path, capsys, monkeypatch):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    monkeypatch.setitem(certificate.LOSS, "q4_0", -1.0)
    status, found, _ = export(folder, tmp_path / "out", capsys, quantization="q4_0", texts=texts)
    assert status == 1 and results(found, "lit-llm")["bits per byte on held-out text"] is False


def test_texts_that_nothing_can_be_measured_on_are_refused_before_the_work(folder, tmp_path, capsys):
    heldout = folder.parent / "heldout"
    write_heldout(tmp_path / "asked", Heldout("asked", "prompts", (Prompt((Message("user", "Hi"),)),)))
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Straße".encode("latin-1"))
    write_heldout(heldout, Heldout("general", "documents", (Document(TEXTS[0]),)))
    for name, line in {
        "nowhere.txt": "no such file; give a text",
        "blank.txt": "is empty",
        "latin.txt": "not UTF-8 at byte 4",
        "run": f"holds no held-out set (*.jsonl); give texts={heldout}",
        "asked": "holds no set of documents or responses",
    }.items():
        with pytest.raises(UserError, match=f"^texts={re.escape(f'{tmp_path / name}: {line}')}"):
            export(folder, tmp_path / "out", capsys, texts=tmp_path / name)
    with pytest.raises(UserError, match=r"^texts=.*: is the certificate's, and certificate=false"):
        export(folder, tmp_path / "out", capsys, texts=heldout, certificate=False)
    assert not (tmp_path / "out").exists()


# ---- by llama.cpp itself ---------------------------------------------------------------------------------------------


@needs_llama_cpp
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("quantization", ["f32", "q8_0"])
def test_llama_cpp_agrees_on_every_family(kind, quantization, tmp_path, capsys):
    tokenizer = small_tokenizer()
    save_model(tmp_path / "model", small_model(tokenizer.vocab_size + 2, **SHAPES[kind]), tokenizer)
    status, found, told = export(tmp_path / "model", tmp_path / "out", capsys, NODE, quantization=quantization)
    assert status == 0 and found["passed"], told
    assert set(results(found, "node-llama-cpp").values()) == {True} and len(results(found, "node-llama-cpp")) == 4
    assert told.splitlines()[-1].startswith("Certified: ")


def grown(place: Path) -> Path:
    """A model whose tokenizer merges on where its training ended: Arabic, Chinese, digits, pictures."""
    tokenizer = small_tokenizer()
    texts = [
        "مرحبا بالعالم، مرحبا في البيت",
        "中文 日本語 中文",
        "👩‍👩‍👧 🙂🙂",
        "Привет мир, Привет",
        "x==10: 2024 2024",
    ]
    pieces = tokenizer.add_merges(learn_merges(tokenizer.engine, texts * 3, 60))
    model = small_model(320, family="llama")
    grow_vocabulary(model, tokenizer.vocab_size + 1)
    set_to_means(model, pieces)
    save_model(place, model, tokenizer)
    return place


def test_a_grown_vocabulary_is_read_again_with_its_ids(tmp_path, capsys):
    _, found, told = export(grown(tmp_path / "model"), tmp_path / "out", capsys, quantization="f32")
    assert results(found, "reading") == {"weights": True, "ids of random Unicode texts": True}, told
    back = load_tokenizer(next((tmp_path / "out").glob("*.gguf")))
    assert back.encode("مرحبا 中文") == load_tokenizer(tmp_path / "model").encode("مرحبا 中文")
    assert max(back.encode("مرحبا 中文")) >= 320


@needs_llama_cpp
def test_llama_cpp_agrees_on_a_grown_vocabulary(tmp_path, capsys):
    status, found, told = export(grown(tmp_path / "model"), tmp_path / "out", capsys, NODE, quantization="q8_0")
    assert status == 0 and found["passed"], told
    assert set(results(found, "node-llama-cpp").values()) == {True}


@needs_llama_cpp
@pytest.mark.parametrize("quantization", ["f16", "bf16", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_llama_cpp_agrees_on_every_type(quantization, folder, tmp_path, capsys):
    status, found, told = export(folder, tmp_path / "out", capsys, NODE, quantization=quantization)
    assert status == 0 and found["passed"], told


@needs_llama_cpp
def test_what_writer_and_reader_get_wrong_alike_llama_cpp_finds(tmp_path, capsys, monkeypatch):
    """Rows of q and k that are not put into llama.cpp's order; a rule that cuts texts otherwise."""
    save_model(tmp_path / "model", small_model(320, family="llama"), small_tokenizer())
    with monkeypatch.context() as patch:
        for name in ("neighbours", "halves"):
            patch.setattr(gguf_forms, name, lambda rows, heads: rows)  # noqa: ARG005
        status, found, told = export(tmp_path / "model", tmp_path / "out", capsys, NODE)
    assert results(found, "reading") == {"weights": True, "ids of random Unicode texts": True}
    assert status == 1 and results(found, "node-llama-cpp")["logits"] is False, told
    monkeypatch.setitem(RULES, "smollm", RULES["qwen2"])
    monkeypatch.setattr(tokenizer_metadata, "name_of", lambda *_: "smollm")
    status, found, told = export(tmp_path / "model", tmp_path / "out", capsys, NODE)
    assert status == 1 and results(found, "node-llama-cpp")["ids of random Unicode texts"] is False, told


@needs_llama_cpp
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_cuts_texts_as_llama_cpp_does(rule, tmp_path):
    file = write(tmp_path / "small.gguf", rule=rule, change={"lit_llm.tokenizer.normalizer": "none"})
    texts = tuple(random_texts(150) + certificate.random_texts(150))
    if not RULES[rule].exact:  # of other letters the family's own rule has some in another place
        texts = tuple("".join(char for char in text if char.isascii()) or "x" for text in texts)
    ours = load_tokenizer(file)
    theirs = ask_llama_cpp(file, NODE, Questions(texts, (), ()), 64)
    for text, ids in zip(texts, theirs.tokens, strict=True):
        assert ours.encode(text) == ids, repr(text)


def sentencepiece_like(path: Path, blank: bool) -> Path:
    """A file with a tokenizer as SentencePiece's BPE has it: pieces with scores, bytes to fall back on; without a blank
    before each text as Gemma's, with tokens that are found first."""
    engine = Engine(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=57, show_progress=False)
    engine.train_from_iterator([text.replace(" ", "▁") for text in TEXTS if text.isascii()], trainer)
    model = json.loads(engine.to_str())["model"]
    order = {"".join(pair): n for n, pair in enumerate(model["merges"])}
    pieces = sorted(model["vocab"], key=lambda piece: order.get(piece, 999))
    own = [] if blank else ["\n\n", "  ", "    ", "<h1>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces, *own]
    scores = [*[0.0] * 259, *(-float(n) for n in range(len(pieces))), *[-1000.0] * len(own)]
    spare = [f"[PAD{n}]" for n in range(320 - len(tokens))]  # llama.cpp wants a token for each row
    change = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens + spare, "tokenizer.ggml.scores": scores + [0.0] * len(spare),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces), *[4] * len(own),
                                      *[5] * len(spare)],
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": blank, "tokenizer.chat_template": None,
    }  # fmt: skip
    return write(path, change=change)


@needs_llama_cpp
@pytest.mark.parametrize("blank", [True, False])
def test_a_sentencepiece_tokenizer_goes_in_and_out(blank, tmp_path, capsys):
    file = sentencepiece_like(tmp_path / "small.gguf", blank)
    texts = tuple(text for text in random_texts(200) + certificate.random_texts(200) if "▁" not in text)
    texts += ("a  b     c<h1>\n\n\nd </h1>",)
    ours = load_tokenizer(file)
    theirs = ask_llama_cpp(file, NODE, Questions(texts, (), ()), 64)
    for text, ids in zip(texts, theirs.tokens, strict=True):
        assert ours.encode(text) == ids, repr(text)
    assert len(ours.encode(TEXTS[0])) < len(TEXTS[0]), "pieces are merged"
    status, found, told = export(folders.folder_of(file), tmp_path / "out", capsys, NODE)
    assert status == 0 and found["passed"], told


def as_phi3(place: Path) -> Path:
    """A model whose tokens take the blanks behind them, as Phi-3's, ``</s>`` too, which is no special one."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *"▁abcdefghi", "<|endoftext|>", "<|user|>",
              "<|end|>", "<|assistant|>"]  # fmt: skip
    engine = Engine(models.BPE({token: n for n, token in enumerate(tokens)}, [], byte_fallback=True, unk_token="<unk>"))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    plain, last = ("<unk>", "<s>", "<|endoftext|>"), tokens[-4:]
    for name in ("<unk>", "<s>", "</s>", *last):
        one = AddedToken(name, rstrip=name not in plain, normalized=False, special=name != "</s>")
        (engine.add_tokens if name == "</s>" else engine.add_special_tokens)([one])
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    names = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
    tokenizer = Tokenizer(engine, names, ChatTemplate(template))
    save_model(place, model_of("phi3", vocab_size=len(tokens)), tokenizer)
    return place


@needs_llama_cpp
@pytest.mark.parametrize("name", ["phi3", "mine"])
def test_a_model_s_name_does_not_change_its_ids(name, tmp_path, capsys):
    """llama.cpp goes by it: others named after Phi-3 it does not read, and Phi-3 by another name it reads otherwise."""
    tokenizer = small_tokenizer()
    save_model(tmp_path / "model", model_of("phi3", vocab_size=tokenizer.vocab_size + 2), tokenizer)
    for place in (tmp_path / "model", as_phi3(tmp_path / "theirs")):
        status, found, told = export(place, tmp_path / "out", capsys, NODE, called=f"a-{name}", quantization="f32")
        assert status == 0 and found["passed"], told


def test_phi_3_s_tokens_come_back_by_any_name(tmp_path, capsys):
    _, found, told = export(as_phi3(tmp_path / "theirs"), tmp_path / "out", capsys, called="mine", quantization="f32")
    assert [c for c in found["checks"] if c["passed"] is False] == [], told
    file = tmp_path / "out/mine-F32.gguf"
    assert read_head(file).values["general.name"] == "mine-phi-3"
    before, after = (load_tokenizer(place).blank_takers for place in (tmp_path / "theirs", file))
    assert before == after and "<|user|>" in after[1] and "<s>" not in after[1]
    assert tokenizer_metadata.name_for("my-PHI3b", small_tokenizer()) == "my-PHI_3b"


@needs_llama_cpp
def test_a_file_that_llama_cpp_does_not_read_fails(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(Refused, match=r"llama\.cpp ended with an error: "):
        ask_llama_cpp(tmp_path / "bad.gguf", NODE, Questions((), (), ()), 64)
    real = gguf_file.metadata
    monkeypatch.setattr(gguf_file, "metadata", lambda *given: real(*given) | {"qwen3.attention.head_count_kv": 4})
    monkeypatch.setattr(
        certificate, "write_folder", lambda back, *_: shutil.copytree(folder, back)
    )  # no word of it here
    status, found, _ = export(folder, tmp_path / "out", capsys, NODE)
    assert status == 1 and results(found, "llama.cpp") == {"reading the file": False}


# ---- safetensors in shards, and the command --------------------------------------------------------------------------


def test_shards_hold_the_same_model(folder, tmp_path, capsys):
    run(Export(folder, to="huggingface", output=tmp_path / "out", max_shard_size="100KB"))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    told = capsys.readouterr().out.splitlines()
    assert told == [*map(str, files), str(tmp_path / "out/model.safetensors.index.json")]
    assert len(files) > 2 and all(sum(t.nbytes for t in load_file(f).values()) <= 100_000 for f in files)
    before, after = load_language_model(folder), load_language_model(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name
    ids = torch.tensor([[5, 7, 9]])
    torch.testing.assert_close(theirs(ids).logits, before.eval().logits(before(ids)), atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["chat_template"] == (tmp_path / "out/chat_template.jinja").read_text()
    assert "generation %" not in config["chat_template"]
    said = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert said == "<|im_start|>user\nHi<|im_end|>\n"
    run(Export(folder, to="huggingface", output=tmp_path / "one"))
    assert [file.name for file in (tmp_path / "one").glob("*.safetensors*")] == ["model.safetensors"]
    for size in ("2", "0GB", "x"):
        with pytest.raises(UserError, match=f"max_shard_size={size}: write a number"):
            run(Export(folder, to="huggingface", output=tmp_path / "new", max_shard_size=size))
    with pytest.raises(UserError, match="is the model's own folder"):
        run(Export(folder, to="huggingface", output=folder))


def test_a_gguf_file_goes_in_and_out(tmp_path, capsys):
    file = write(tmp_path / "small.gguf", "llama", "F16")
    run(Export(file, output=tmp_path / "out", name="again", certificate=False))
    assert capsys.readouterr().out.splitlines()[-1] == "Not certified: certificate=false."
    assert "Without a certificate" in (tmp_path / "out/README.md").read_text()
    before, after = (
        {t.name: t.data for t in gguf.GGUFReader(f).tensors} for f in (file, tmp_path / "out/again-F16.gguf")
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, name)


def test_names(tmp_path):
    assert name_of(Path("outputs/ppo/2026-01-02_03-04-05/model")) == "ppo-2026-01-02_03-04-05"
    assert name_of(tmp_path / "My model!") == "My-model"
    with pytest.raises(UserError, match=r"name=a/b: becomes a file's name"):
        run(Export(tmp_path, name="a/b"))


def test_no_file_of_somebody_else_is_written_over(folder, tmp_path, monkeypatch):
    place = tmp_path / "project"
    place.mkdir()
    (place / "README.md").write_text("years of work")
    with pytest.raises(UserError, match=r"holds README.md that no export wrote"):
        run(Export(folder, output=place, certificate=False))
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        run(Export(folder, to="huggingface", output=place))
    with pytest.raises(UserError, match="is a file; give a folder"):
        run(Export(folder, output=place / "README.md"))
    assert [file.name for file in place.iterdir()] == ["README.md"]
    run(Export(folder, output=tmp_path / "out", certificate=False))
    card = (tmp_path / "out/README.md").read_text()

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr("lit_llm.export.command.write_gguf", full)
    with pytest.raises(UserError, match="full"):
        run(Export(folder, output=tmp_path / "out", certificate=False))
    assert (tmp_path / "out/README.md").read_text() == card


@pytest.mark.parametrize(
    ("layout", "key"), [("huggingface", {"quantization": "q4_0"}), ("gguf", {"max_shard_size": "1GB"})]
)
def test_what_a_layout_does_not_read_is_refused(folder, tmp_path, layout, key):
    (name,) = key
    with pytest.raises(UserError, match=f"{name}=.*: is read with to="):
        run(Export(folder, to=layout, output=tmp_path / "out", **key))


def test_a_llama_cpp_that_is_not_there_is_told_at_once(tmp_path):
    for place, line in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no node-llama-cpp in it")):
        with pytest.raises(UserError, match=f"^node_llama_cpp={place}: {line}"):
            run(Export(tmp_path / "no_model", node_llama_cpp=place))


def test_each_check_of_a_certificate_is_shown_while_it_runs(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(Export(folder, name="small", output=tmp_path / "out", texts=_some(tmp_path / "texts.txt")))
    told = capsys.readouterr().err
    steps = ["weights", "loss before", "loss after", "this project's answers", "transformers", "llama.cpp"]
    places = [told.index(f"certificate: {one}:") for one in steps]
    assert places == sorted(places) and "5/6" in told


def _some(file: Path) -> Path:
    file.write_text("\n".join(TEXTS))
    return file
