"""Invariant: a pipeline's last model is exported once for what it is made of, and ledger and report say how it went."""

import json
import logging
import shutil

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.config import schema
from lit_llm.config.command_line import compose
from lit_llm.config.validation import findings_in
from lit_llm.errors import UserError
from lit_llm.evaluation.sets import write_heldout
from lit_llm.lineage import code_hash
from lit_llm.pipeline import model_export
from lit_llm.pipeline.model_export import export_model
from lit_llm.records import Document, Heldout, Message, Prompt
from lit_llm.report.exported import exported_file
from lit_llm.report.page import render
from lit_llm.report.reading import read_pipeline
from lit_llm.report.verification import verify_chain
from tests.export.conftest import NODE, needs_llama_cpp, small_tokenizer

pytest.importorskip("gguf")


@pytest.fixture
def run(tmp_path):
    """A pipeline's folder with one finished stage and a ledger."""
    tokenizer, place = small_tokenizer(), tmp_path / "pipeline/ppo"
    torch.manual_seed(0)
    shape = from_depth(tokenizer.vocab_size, 1, hidden_size=64, num_heads=2, max_positions=96)
    save_model(place / "model", LanguageModel(shape), tokenizer)
    write_heldout(place / "heldout", Heldout("general", "documents", (Document("قطة صغيرة on the mat. " * 4),)))
    (place / "metrics.json").write_text("{}")
    (tmp_path / "pipeline/ledger.json").write_text('{"entries": []}')
    return place


def config(tmp_path, **export):
    told = {"to": "gguf", "quantization": "q8_0", "node_llama_cpp": str(tmp_path / "no_node"), **export}
    return {"export": told, "cache_dir": str(tmp_path / "cache")}


def test_the_export_is_cached_and_shown_with_what_was_not_run(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lit_llm")
    folder = run.parent
    assert export_model(config(tmp_path, to=None), folder, "ppo", run) is None and not (folder / "export").exists()
    place = export_model(config(tmp_path), folder, "ppo", run)
    assert (folder / "export/ppo-Q8_0.gguf").is_file() and (folder / "export").is_symlink()
    told = json.loads((folder / "ledger.json").read_text())["export"]
    assert (
        not told["passed"]
        and not told["failed"]
        and "reading the file, llama.cpp: node-llama-cpp" in told["not_run"][0]
    )
    found = exported_file(read_pipeline(folder))
    assert found.state == "not certified" and found.words.startswith("Not certified: llama.cpp was not asked")
    page = render(read_pipeline(folder), verify_chain(read_pipeline(folder).stages))
    assert "ppo-Q8_0.gguf" in page and 'href="export/certificate.json"' in page and found.sha256 in page
    assert export_model(config(tmp_path), folder, "ppo", run) == place and "export: unchanged, reused" in caplog.text
    assert export_model(config(tmp_path, quantization="f16"), folder, "ppo", run) != place


def test_the_loss_is_taken_on_another_step_s_texts_where_the_last_one_held_out_prompts(run, tmp_path):
    shutil.rmtree(run / "heldout")
    write_heldout(run / "heldout", Heldout("prompts", "prompts", (Prompt((Message("user", "Hello?"),)),)))
    first = run.parent / "continued_pretraining/heldout"
    write_heldout(first, Heldout("general", "documents", (Document("The cat sat on the mat. " * 4),)))
    place = export_model(config(tmp_path), run.parent, "ppo", run)
    checks = {one["name"]: one for one in json.loads((place / "certificate.json").read_text())["checks"]}
    assert " before, " in checks["bits per byte on held-out text"]["value"]
    shutil.rmtree(first)
    assert export_model(config(tmp_path), run.parent, "ppo", run) != place


def test_an_export_that_drifted_is_made_anew(run, tmp_path, caplog):
    place = export_model(config(tmp_path), run.parent, "ppo", run)
    file = place / "ppo-Q8_0.gguf"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\0\0")
    anew = export_model(config(tmp_path), run.parent, "ppo", run)
    assert anew != place and "made anew: " in caplog.text and (run.parent / "export").resolve() == anew.resolve()
    assert (anew / file.name).read_bytes() == whole
    assert export_model(config(tmp_path), run.parent, "ppo", run) == anew


def test_nothing_is_left_of_an_export_before(run, tmp_path):
    folder = run.parent
    for asked in (config(tmp_path, to=None), config(tmp_path, node_llama_cpp="~no_such_user_here/x")):
        export_model(config(tmp_path), folder, "ppo", run)
        assert exported_file(read_pipeline(folder)).file
        assert export_model(asked, folder, "ppo", run) is None
        found = exported_file(read_pipeline(folder))
        assert not (folder / "export").is_symlink() and (found is None or not found.file)
        assert ("export" in json.loads((folder / "ledger.json").read_text())) == (found is not None)


@pytest.mark.parametrize(
    "error", [KeyError("vocabulary"), OSError("no\nroom"), RuntimeError("gguf: two\nlines"), UserError("too old")]
)
def test_no_error_of_an_export_costs_the_report(run, tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(model_export, "export_gguf", fails)
    assert export_model(config(tmp_path), run.parent, "ppo", run) is None
    told = json.loads((run.parent / "ledger.json").read_text())["export"]
    assert "\n" not in told["error"] and str(error.args[0]).split()[0] in told["error"]
    found = exported_file(read_pipeline(run.parent))
    assert found.state == "failed" and told["error"] in found.words
    assert "No file was made" in render(read_pipeline(run.parent), verify_chain(read_pipeline(run.parent).stages))


def test_all_code_that_computes_the_file_and_its_certificate_counts(run, monkeypatch):
    def hashed():
        return model_export._inputs(run, None, "q8_0", None)["code"]

    before, plain = hashed(), code_hash._hash
    assert {"lit_llm.export.certificate", "lit_llm.model_sources.gguf_header", "llama_cpp.mjs"} <= set(before)
    for module in ("lit_llm.backbone.attention", "lit_llm.evaluation.likelihood", "lit_llm.text.tokenizer"):
        monkeypatch.setattr(code_hash, "_hash", lambda one, m=module: "changed" if one == m else plain(one))
        after = hashed()
        assert {name for name in before if before[name] != after[name]} == {module}


def test_what_cannot_be_exported_costs_no_report(run, tmp_path, caplog):
    (run / "model/config.json").write_text(
        (run / "model/config.json")
        .read_text()
        .replace("Qwen3ForCausalLM", "Olmo3ForCausalLM")
        .replace("qwen3", "olmo3")
    )
    assert export_model(config(tmp_path), run.parent, "ppo", run) is None and "export of ppo: " in caplog.text
    found = exported_file(read_pipeline(run.parent))
    assert found.state == "failed" and found.words.startswith("No file was made: ") and not found.rows


def test_a_damaged_certificate_is_told_in_the_report(run, tmp_path):
    place = export_model(config(tmp_path), run.parent, "ppo", run)
    (place / "certificate.json").write_text('{"checks": 3}')
    chain = read_pipeline(run.parent)
    found = exported_file(chain)
    assert found.state == "failed" and "certificate.json: is no certificate" in found.words and not found.rows
    assert "is no certificate of an exported file" in render(chain, verify_chain(chain.stages))


@needs_llama_cpp
def test_with_llama_cpp_it_is_certified(run, tmp_path):
    export_model(config(tmp_path, node_llama_cpp=str(NODE)), run.parent, "ppo", run)
    found = exported_file(read_pipeline(run.parent))
    assert found.state == "passed", found.rows
    assert json.loads((run.parent / "ledger.json").read_text())["export"]["passed"] is True


def test_wrong_words_are_found_before_training():
    values = schema.plain(compose("pipeline", []))
    values["export"] = {"to": "gufg", "quantization": "q8", "node_llama_cpp": None}
    lines = [line for line in findings_in(values) if line.startswith("export.")]
    assert lines[0].startswith("export.to=gufg: is not one of gguf") and "did you mean q8_0?" in lines[1]
    values["export"]["quantization"] = "zzz"
    (told,) = [line for line in findings_in(values) if line.startswith("export.quantization")]
    assert told.count("bf16") == 1
