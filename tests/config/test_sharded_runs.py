"""What does not go with a model spread over processes is one line, before torch is imported."""

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import compose
from lit_llm.config.validation import findings_in
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


def test_peers_take_one_share_of_the_rows():
    def shares(*words):
        return devices.shares(compose("train", ["trainer.accelerator=cpu", *words]).trainer)

    assert shares("trainer=fsdp", "trainer.devices=4") == 4
    assert shares("trainer=tp", "trainer.devices=4") == 2
    assert shares("trainer=tp", "trainer.devices=4", "trainer.num_nodes=3") == 6
