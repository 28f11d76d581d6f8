"""What a run hands to its parts."""

import json

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.heads import LanguageModel
from lit_llm.backbone.huggingface import save_model
from lit_llm.command_line import compose
from lit_llm.parts import load
from lit_llm.text.bpe import train_bpe
from tests.chain_data import write_data


def test_an_adapter_names_the_folder_that_the_run_started_from(tmp_path):
    write_data(tmp_path / "data")
    tokenizer = train_bpe(["It returns the file."] * 4, vocab_size=270, show_progress=False)
    base = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=64))
    save_model(tmp_path / "base", base, tokenizer)
    words = ["stage=fine_tuning", f"init_from={tmp_path}/base", f"data.path={tmp_path}/data/task_pairs"]
    words += [f"data.cache_dir={tmp_path}/cache", "data.max_length=64", "stage.lora_rank=2", "callbacks=none"]

    def named(*more):
        load(compose("train", [*words, *more]), tmp_path / "run").stage.save(tmp_path / "run/model")
        return json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"]

    assert named() == f"{tmp_path}/base"
    assert named("stage.base_model=some/base") == "some/base"
