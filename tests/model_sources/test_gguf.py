"""A GGUF file as a model folder: held against transformers' own reader and gguf's, and against damage of every kind."""

from __future__ import annotations

import json
import logging
import random
import shutil
import struct
import sys
import unicodedata
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_llm.backbone.huggingface import load_language_model, load_model
from lit_llm.errors import UserError
from lit_llm.model_sources import folders
from lit_llm.model_sources.gguf_forms import halves, neighbours
from lit_llm.model_sources.gguf_header import read_head
from lit_llm.model_sources.gguf_tensors import readable
from lit_llm.model_sources.gguf_tokenizer import NORMALIZER
from lit_llm.model_sources.rope_factors import llama3_factors
from lit_llm.records import Message
from lit_llm.text.tokenizer import load_tokenizer
from tests.small_gguf import TEXTS, write

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "models"


def their_logits(file: Path, ids: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids).logits


def our_logits(name: Path | str, ids: torch.Tensor) -> torch.Tensor:
    model = load_language_model(name).eval()
    with torch.no_grad():
        return model.logits(model(ids))


IDS = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("architecture", "kind", "options"),
    [
        ("llama", "F32", {}), ("llama", "Q4_1", {"tied": False}), ("llama", "F16", {"kv": 4}), ("qwen2", "Q8_0", {}),
        ("qwen3", "BF16", {"tied": False, "spare": 7, "width": 128}), ("qwen3", "Q5_0", {"width": 128}),
        ("llama", "F32", {"more": {"rope_freqs.weight": np.array(llama3_factors(LLAMA3, 5e4, 16), np.float32)}}),
    ],
)  # fmt: skip
def test_logits_are_those_of_transformers_own_reader(architecture, kind, options, tmp_path, cache):
    file = write(tmp_path / "small.gguf", architecture, kind, **options)
    ours = our_logits(file, IDS)
    if "more" in options:  # which transformers' reader leaves out: its model is given the settings
        (folder,) = cache.iterdir()
        assert json.loads((folder / "config.json").read_text())["rope_parameters"] == {
            "rope_type": "llama3", "rope_theta": 50000.0, **LLAMA3
        }  # fmt: skip
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits
    else:
        theirs = their_logits(file, IDS)
    assert theirs.std() > 0.1, "a difference would show"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_every_head_is_as_the_gguf_package_reads_it(tmp_path):
    file = write(tmp_path / "small.gguf", "qwen2", "Q8_0", spare=3)
    ours, theirs = read_head(file), gguf.GGUFReader(file)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert dict(ours.values) == fields
    for tensor in theirs.tensors:
        record = ours.tensors[tensor.name]
        assert (list(record.shape), record.kind) == (tensor.shape.tolist()[::-1], tensor.tensor_type)
        assert file.read_bytes()[record.begin : record.begin + record.bytes] == tensor.data.tobytes()


def test_every_type_that_gguf_makes_floats_of_is_read(tmp_path):
    """Whole blocks of random bytes in place of the first matrix, beside the same by the package's own reader."""
    named = set(readable().values())
    assert {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "BF16"} <= named
    draw = np.random.default_rng(0)
    for kind in sorted(named - {"F64", "F32", "F16", "BF16"}):
        of = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[of]
        raw = draw.integers(0, 60, (256, 256 // block * size), dtype=np.uint8)  # small: no NaN in any scale
        expected = gguf.quants.dequantize(raw, of)
        file = _with_matrix(tmp_path / f"{kind}.gguf", raw, of)
        if not np.isfinite(expected).all():
            with pytest.raises(UserError, match="NaN or infinite"):
                load_language_model(file)
            continue
        model = load_language_model(file)
        np.testing.assert_array_equal(
            model.state_dict()["backbone.layers.0.mlp.up_proj.weight"].numpy(), expected, kind
        )


def _with_matrix(path: Path, raw: np.ndarray, of: gguf.GGMLQuantizationType) -> Path:
    source = write(path.with_suffix(".plain"), layers=1, hidden=256, inner=256)
    writer, reader = gguf.GGUFWriter(path, "llama"), gguf.GGUFReader(source)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        if tensor.name == "blk.0.ffn_up.weight":
            writer.add_tensor(tensor.name, raw, raw_dtype=of)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_rows_in_pairs_and_in_halves():
    rows = np.arange(24).reshape(12, 2)
    assert halves(rows, 2)[:, 0].tolist() == [0, 4, 8, 2, 6, 10, 12, 16, 20, 14, 18, 22]
    np.testing.assert_array_equal(neighbours(halves(rows, 2), 2), rows)


def test_types_stay_and_a_file_is_read_once(tmp_path, cache, monkeypatch):
    file = write(tmp_path / "small.gguf", kind="BF16")
    model = load_model(file)
    assert model.stored.main == torch.bfloat16
    assert model.stored.of("model.norm.weight") == torch.float32
    (folder,) = cache.iterdir()
    monkeypatch.setattr("lit_llm.model_sources.gguf_folder.read_head", None)
    other = file.rename(tmp_path / "moved" / "small.gguf") if (tmp_path / "moved").mkdir() is None else None
    assert folders.folder_of(other) == folder, "by its content, wherever it lies"
    source = folders.source_of(folder)
    assert source["license"] == "mit" and source["source"] == str(file) and len(source["sha256"]) == 64


def test_the_size_as_float32_is_said_and_a_disk_without_room_refuses_it(tmp_path, cache, monkeypatch, caplog):
    caplog.set_level("INFO", "lit_llm")
    file = write(tmp_path / "small.gguf", kind="Q4_0")
    load_model(file)
    weights = sum(np.prod(record.shape) for record in read_head(file).tensors.values())
    assert f"({4 * weights / 1e6:.1f} MB, its quantised weights as float32)" in caplog.text
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    other = write(tmp_path / "other.gguf", kind="Q4_0", seed=1)
    with pytest.raises(UserError, match=r"other\.gguf: takes .* as float32, and 1\.0 MB are free on the disk of"):
        load_model(other)
    assert len(list(cache.iterdir())) == 1


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def test_what_takes_long_is_told_from_the_start(tmp_path, monkeypatch, capsys):
    """Where logs go nowhere yet too, as while a command line is checked."""
    monkeypatch.setattr(logging.getLogger("lit_llm"), "level", logging.WARNING)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    folders.folder_of(write(tmp_path / "small.gguf", "llama", "Q8_0"))
    told = capsys.readouterr().err
    assert -1 < told.find("read small.gguf:   0%") < told.find("small.gguf (")


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Words of the training texts, digits, blanks and any character of Unicode, in any order."""
    draw = random.Random(seed)
    words = " ".join(TEXTS).split()

    def part() -> str:
        kind = draw.random()
        if kind < 0.4:
            return draw.choice(words)
        if kind < 0.6:
            return draw.choice(
                [" ", "  ", "\n", "\r\n", "\t", " \n ", "1", "23", "4567", "'s", "'LL", "!?", "\u200d", "\u0301"]
            )
        code = draw.randrange(1, 0x2FFFF if kind < 0.8 else 0x600)
        return chr(code) if not 0xD800 <= code < 0xE000 else "x"

    return ["".join(part() + draw.choice(["", " "]) for _ in range(draw.randrange(1, 30))) for _ in range(count)]


def test_ids_of_random_texts_are_those_of_transformers_own_reader(tmp_path):
    file = write(tmp_path / "small.gguf", "qwen2", rule="qwen2", spare=5)
    ours, theirs = load_tokenizer(file), AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    assert ours.encode("e\u0301") == ours.encode("é"), (
        "Qwen's own tokenizer composes first, which a GGUF file cannot say"
    )
    for text in random_texts(300):
        composed = unicodedata.normalize("NFC", text)
        assert ours.encode(text) == theirs.encode(composed, add_special_tokens=False), text
    plain = load_tokenizer(write(tmp_path / "plain.gguf", "qwen2", change={NORMALIZER: "none"}))
    for text in random_texts(300, 1):  # a file that was written here can
        assert plain.encode(text) == theirs.encode(text, add_special_tokens=False), text
    folder = folders.folder_of(file)
    again = AutoTokenizer.from_pretrained(folder)
    assert again.encode("a<|im_end|>") == [*ours.encode("a"), 2]
    assert (
        ours.encode_prompt([Message("user", "Hi")])
        == again.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    )
    assert ours.end_ids[0] == 2 and ours.vocab_size == 320, "spare rows are no tokens"


def test_a_beginning_is_added_where_the_file_says_so(tmp_path):
    for rule, says, adds in (
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
        ("gpt-2", None, False),
        ("gpt-2", True, True),
    ):
        file = write(
            tmp_path / f"{rule}-{says}.gguf",
            rule=rule,
            change={"tokenizer.ggml.add_bos_token": says, "tokenizer.ggml.bos_token_id": 1},
        )
        ours = load_tokenizer(file)
        assert ours.beginning == ((1,) if adds else (0,))
        theirs = AutoTokenizer.from_pretrained(folders.folder_of(file))
        assert theirs("house")["input_ids"] == [*([1] if adds else []), *ours.encode("house")]


@pytest.mark.parametrize("like", ["llama", "gemma"])
def test_sentencepiece_s_ids_are_those_of_sentencepiece(like, tmp_path):
    """Llama's begins each text with a blank; Gemma's does not, and has blanks, new lines and tags that are found first,
    which llama.cpp's converter writes with plain blanks."""
    spm = pytest.importorskip("sentencepiece")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    own = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<h1>", "\t"] if like == "gemma" else []
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=str(tmp_path / "s"), vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, character_coverage=1.0, user_defined_symbols=own, add_dummy_prefix=like == "llama",
    )  # fmt: skip
    theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / "s.model"))
    pieces = [theirs.id_to_piece(n) for n in range(theirs.get_piece_size())]
    told = ((theirs.is_unknown, 2), (theirs.is_control, 3), (theirs.is_byte, 6), (lambda n: pieces[n] in own, 4))
    kinds = [next((kind for is_one, kind in told if is_one(n)), 1) for n in range(len(pieces))]
    change = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": [piece.replace("▁", " ") if piece in own else piece for piece in pieces],
        "tokenizer.ggml.scores": [-1000.0 if p in own else theirs.get_score(n) for n, p in enumerate(pieces)],
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.add_bos_token": None if like == "llama" else True,
        "tokenizer.ggml.add_space_prefix": None if like == "llama" else False, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.padding_token_id": None,
    }  # fmt: skip
    ours = load_tokenizer(write(tmp_path / "s.gguf", change=change))
    assert ours.beginning == (1,)
    texts = random_texts(300) + [text.replace("house", "<h1>a  b\n\n\n\nc</h1>\t ") for text in TEXTS[:3]]
    for text in texts:
        if "▁" not in text and "\0" not in text:
            assert ours.encode(text) == theirs.encode(text), text


# ---- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "an architecture": ("bert", {}, "general.architecture='bert' is not supported; read are gemma2, gemma3, gpt2"),
    "an adapter": ("llama", {"general.type": "adapter"}, "general.type='adapter': holds no language model"),
    "a pre-tokenizer": ("llama", {"tokenizer.ggml.pre": "hunyuan"}, "pre='hunyuan' is not supported.*known are gpt-2"),
    "none": ("llama", {"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is missing"),
    "a tokenizer": ("llama", {"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model='bert' is not supported"),
    "experts": ("llama", {"llama.expert_count": 8}, "mixtures of experts"),
    "a window": ("llama", {"llama.attention.sliding_window": 64}, "attention.sliding_window=64 is not supported"),
    "a scale": ("qwen2", {"qwen2.logit_scale": 0.25}, "qwen2.logit_scale=0.25 is not supported in this architecture"),
    "an unknown": ("llama", {"llama.attention.sinks": 4}, "llama.attention.sinks=4 is not known here, and may change"),
    "another base": ("qwen3", {"qwen3.rope.freq_base_swa": 5e3}, "freq_base_swa=5000 is unlike freq_base=50000"),
    "a part": ("llama", {"split.count": 3}, "one part of several"),
    "a stretching": ("llama", {"llama.rope.scaling.type": "longrope"}, "rope.scaling.type='longrope' is not supported"),
    "no factor": ("llama", {"llama.rope.scaling.type": "yarn"}, r"rope.scaling.factor=0.0 should be at least 1"),
    "turns of yarn": ("llama", {"llama.rope.scaling.yarn_beta_fast": 16.0}, "yarn_beta_fast=16.0 is not supported"),
    "a strength": ("llama", {"llama.rope.scaling.attn_factor": 1.5}, "attn_factor=1.5 is not supported"),
    "an encoder": ("llama", {"llama.attention.causal": False}, "attention.causal=false"),
    "layers": ("llama", {"llama.block_count": 2**31 - 1}, "weights are missing"),
    "too many layers": ("llama", {"llama.block_count": 3}, r"blk.2.attn_norm.weight is missing \(and 8 more\)"),
    "too few": ("llama", {"llama.block_count": 1}, "blk.1.*is a tensor that its architecture has not"),
    "no eps": ("llama", {"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
    "a text": ("llama", {"llama.embedding_length": "many"}, "embedding_length='many' should be a whole number"),
    "nothing": ("llama", {"llama.embedding_length": 0}, "embedding_length=0 should be from 1"),
    "a list": ("llama", {"llama.attention.head_count_kv": [1, 2]}, "differs from layer to layer"),
    "a rotation": ("llama", {"llama.rope.dimension_count": 8}, "rope.dimension_count is unlike the heads' 16"),
    "an end": ("llama", {"tokenizer.ggml.eos_token_id": 4000}, "eos_token_id=4000 is no token's id"),
    "merges": ("llama", {"tokenizer.ggml.merges": ["a b c"]}, "merges holds 'a b c'"),
    "tokens twice": ("llama", {"tokenizer.ggml.tokens": ["a", "a"]}, "'a' twice"),
    "types": ("llama", {"tokenizer.ggml.token_type": [1]}, "1 entries for 320 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_one_line_that_names_the_file(what, tmp_path, cache):
    architecture, change, message = REFUSED[what]
    file = write(tmp_path / "small.gguf", architecture, change=change)
    with pytest.raises(UserError, match=message) as error:
        load_model(file)
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)
    assert not cache.exists() or not list(cache.iterdir()), "nothing is left behind"


def test_damaged_cut_and_hostile_files_are_one_line(tmp_path):
    file = write(tmp_path / "small.gguf", "qwen3", "Q8_0")
    whole, draw = file.read_bytes(), random.Random(0)
    head = max(record.begin for record in read_head(file).tensors.values()) // 40
    for number in range(150):
        damaged = bytearray(whole)
        if number % 3 == 0:
            damaged = damaged[: draw.randrange(len(whole))]
        elif number % 3 == 1:  # a huge length somewhere in the head
            struct.pack_into("<Q", damaged, draw.randrange(8, head), draw.choice([2**63, 2**40, 2**32 - 1]))
        else:
            damaged[draw.randrange(head)] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            load_model(file), load_tokenizer(file)
        except UserError as error:
            assert "\n" not in str(error) and str(error), number
    for bad in (b"", b"GGUF", b"PK\3\4", b"GGUF" + struct.pack(">I", 3) + bytes(64), b"GGUF" + struct.pack("<I", 1)):
        file.write_bytes(bad)
        with pytest.raises(UserError, match=r"small\.gguf: "):
            load_model(file)
    with pytest.raises(UserError, match="no such file; give a GGUF file"):
        load_model(tmp_path / "none.gguf")


def test_a_weight_that_is_no_number_is_named(tmp_path):
    bad = np.ones(64, np.float32)
    bad[3] = np.nan
    file = write(tmp_path / "small.gguf", more={"blk.1.ffn_norm.weight": bad})
    with pytest.raises(UserError, match=r"blk.1.ffn_norm.weight has 1 NaN or infinite of 64"):
        load_model(file)
