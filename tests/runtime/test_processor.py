"""Precisions and kernels follow what the processor says of itself."""

from pathlib import Path

import pytest
import torch

from lit_llm.optim.muon import matmul_dtype
from lit_llm.runtime import processor
from lit_llm.training.trainer import precision

CPUINFO = "processor : 0\nmodel name : A chip\nflags : fpu {}\n"


@pytest.fixture
def flags(monkeypatch):
    """As Linux tells them; nothing that was found out before counts."""

    def tell(text):
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO.format(text))
        for each in (processor.has_bf16, processor.has_narrow_vectors):
            each.cache_clear()

    yield tell
    for each in (processor.has_bf16, processor.has_narrow_vectors):
        each.cache_clear()


@pytest.mark.parametrize(
    ("text", "bf16", "units"),
    [
        ("avx2 fma", False, torch.backends.cpu.get_cpu_capability()),
        ("avx2 avx512f", False, torch.backends.cpu.get_cpu_capability()),
        ("avx512f avx512_bf16", True, "AVX512-BF16"),
        ("avx512_bf16 amx_tile amx_bf16", True, "AMX and AVX512-BF16"),
    ],
)
def test_bf16_is_chosen_where_the_processor_multiplies_in_it(flags, text, bf16, units):
    """Emulated on AVX2 it takes longer than float32: nothing that chooses by itself may choose it there."""
    flags(text)
    assert processor.has_bf16() == bf16 and processor.units() == units
    assert precision("auto", "cpu") == ("bf16-mixed" if bf16 else "32-true")
    assert matmul_dtype(torch.device("cpu")) == (torch.bfloat16 if bf16 else torch.float32)
    assert precision("bf16-mixed", "cpu") == "bf16-mixed"  # asked for


@pytest.mark.parametrize(("capability", "narrow"), [("AVX2", True), ("AVX512", False), ("DEFAULT", False)])
def test_narrow_vectors_are_what_torch_computes_with(flags, monkeypatch, capability, narrow):
    flags("")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert processor.has_narrow_vectors() == narrow
