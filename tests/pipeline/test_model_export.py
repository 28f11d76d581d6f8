"""Invariant: a pipeline's last model is exported once for what it is made of, and ledger and report say how it went."""

import json
import logging

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
from lit_llm.pipeline.model_export import export_model
from lit_llm.records import Document, Heldout
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
    file = place / "ppo-Q8_0.gguf"
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(UserError, match="the cached stage was changed since it was made"):
        export_model(config(tmp_path), folder, "ppo", run)


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


def test_a_damaged_certificate_is_one_line(run, tmp_path):
    place = export_model(config(tmp_path), run.parent, "ppo", run)
    (place / "certificate.json").write_text('{"checks": 3}')
    with pytest.raises(UserError, match=r"certificate\.json: is no certificate"):
        exported_file(read_pipeline(run.parent))


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
