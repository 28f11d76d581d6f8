"""What does not go with a model spread over processes is one line, before torch is imported."""

import json

import pytest

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.families import write_config
from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.validation import findings_in
from lit_llm.errors import UserError
from lit_llm.runtime import devices

LORA = ["stage=instruction_tuning", "init_from=m", "stage.lora_rank=4"]


def findings(*words):
    schema.register()
    return [line for line in findings_in(schema.plain(compose("train", list(words)))) if "init_from" not in line]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: is torch's first FSDP.*give trainer=fsdp"),
        (["trainer=fsdp", "trainer.shard=all"], "trainer.shard=all: must be one of null, full, grad, hybrid"),
        (["trainer=fsdp", "trainer.strategy=ddp"], "trainer.strategy=ddp: .*leave it out beside trainer.shard=full"),
        (["trainer=fsdp", "trainer.precision=16-mixed"], "precision=16-mixed: .*give trainer.precision=bf16-mixed"),
        (["trainer=fsdp", "trainer.shard=hybrid"], "trainer.shard=hybrid: .*trainer.num_nodes=2"),
        (["trainer=fsdp", "backbone=transformers"], "backbone=transformers: its layers .*give trainer=ddp"),
        (["trainer=fsdp", *LORA, "stage.lora_quantization=nf4"], "lora_quantization=nf4: .*give trainer=ddp"),
        (["trainer=tp", "trainer.devices=3"], "tensor_parallel=2: must divide the 3 devices.*trainer.devices=4"),
        (["trainer=tp", "trainer.devices=4", "trainer.tensor_parallel=3"],
         "tensor_parallel=3: must divide the 4 devices.*give trainer.devices=6, or trainer.tensor_parallel=2"),
        (["trainer=tp", "backbone.dropout=0.1"], "backbone.dropout=0.1: .*give backbone.dropout=0"),
    ],
)
def test_what_does_not_go_together_is_one_line(words, said):
    import re

    found = findings(*words)
    assert any(re.search(said, line) for line in found), found


@pytest.mark.parametrize(
    "words",
    [
        ["trainer=fsdp"],
        ["trainer=tp"],
        ["trainer=fsdp", "trainer.shard=grad", *LORA],
        ["trainer=tp", *LORA, "stage.lora_dora=true"],
        ["trainer=fsdp", "trainer.compile=true", "trainer.activation_memory_budget=0.5"],
        ["trainer=tp", "trainer.compile=true", "trainer.activation_memory_budget=0.5"],
    ],
)
def test_what_goes_together_is_no_finding(words):
    assert findings(*words) == []


def test_who_started_the_processes_is_told_how_to_start_others(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (said,) = findings("trainer=tp", "trainer.devices=2", "trainer.tensor_parallel=3")
    assert said.endswith("give torchrun --nproc-per-node=3 and trainer.devices=auto, or trainer.tensor_parallel=2")


def told(words, command="train"):
    """The lines of the check before anything is started."""
    with pytest.raises(UserError) as caught:
        check(command, hydra_words(command, words))
    return [line for line in str(caught.value).splitlines() if "tensor_parallel" in line]


def test_a_model_that_peers_cannot_share_is_refused_before_anything_is_started(tmp_path):
    """By the numbers of the configuration, of the model's folder, or of the run of a pipeline that makes it."""
    heads = ["backbone.num_heads=3", "backbone.num_kv_heads=3", "backbone.hidden_size=96"]
    assert [line.partition(", which")[0] for line in told(["trainer=tp", *heads])] == [
        "trainer.tensor_parallel=2: the model has 3 heads (backbone.num_heads)",
        "trainer.tensor_parallel=2: the model has 3 key heads (backbone.num_kv_heads)",
    ]
    (units,) = told(["trainer=tp", "backbone.intermediate_size=33"])
    assert "33 units of the MLP (backbone.intermediate_size), which 2 processes cannot share; give" in units
    (fewer, _) = told(["trainer=tp", "trainer.devices=4", "trainer.tensor_parallel=4", "backbone.num_heads=6",
                       "backbone.num_kv_heads=2", "backbone.hidden_size=96"])  # fmt: skip
    assert "6 heads" in fewer and "give trainer.tensor_parallel=2, or trainer=fsdp" in fewer
    shape = from_depth(64, 1, hidden_size=96, num_heads=3, num_kv_heads=3)
    (tmp_path / "config.json").write_text(json.dumps(write_config(shape, "language")))
    assert len(told(["stage=continued_pretraining", "trainer=tp", f"init_from={tmp_path}"])) == 2
    words = [f"stages.pretraining.{one}" for one in heads]
    of_dpo = told([*words, "stages.dpo.trainer.tensor_parallel=2", "stages.dpo.trainer.devices=2"], "pipeline")
    assert of_dpo and all(line.startswith("stages.dpo.trainer.tensor_parallel=2: the model has 3") for line in of_dpo)


def test_peers_take_one_share_of_the_rows():
    def shares(*words):
        return devices.shares(compose("train", ["trainer.accelerator=cpu", *words]).trainer)

    assert shares("trainer=fsdp", "trainer.devices=4") == 4
    assert shares("trainer=tp", "trainer.devices=4") == 2
    assert shares("trainer=tp", "trainer.devices=4", "trainer.num_nodes=3") == 6
