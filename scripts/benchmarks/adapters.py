"""Memory and time of a few steps of instruction tuning with LoRA and with QLoRA, each in a process of its own.

    python -m benchmarks.adapters FOLDER [null|nf4]     (in scripts/; without the last word both, one after the other)

FOLDER is a model folder. Printed: the largest memory that the process held until the stage stood and while it trained,
what of it the network's weights are, and seconds of processor time of the median step of one row of 256 tokens.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lit_llm.runtime.allocator import keep_freed_memory

ROWS, LENGTH, STEPS = 1, 256, 3


def held() -> int:
    """Bytes that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak(threading.Thread):
    """The most that was held since it was asked last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, held())
            time.sleep(0.005)

    def since(self) -> int:
        most, self.most = max(self.most, held()), 0
        return most


def measure(folder: str, quantization: str | None) -> None:
    keep_freed_memory()
    import lightning as L
    import torch

    from lit_llm.backbone.quantized import is_quantized
    from lit_llm.records import TokenBatch
    from lit_llm.stages.instruction_tuning import InstructionTuning

    bare, peak = held(), Peak()
    options = InstructionTuning.Options(lora_rank=16, lora_quantization=quantization)  # type: ignore[arg-type]
    stage = InstructionTuning(options, model=folder)
    begun = peak.since()
    seconds: list[float] = []

    class Clock(L.Callback):
        def on_train_batch_start(self, *args: Any) -> None:  # noqa: ARG002
            seconds.append(time.process_time())

        def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
            seconds[-1] = time.process_time() - seconds[-1]

    tokens = torch.randint(stage.model.config.vocab_size, (STEPS + 1, ROWS, LENGTH + 1))
    places, zeros = torch.arange(LENGTH).expand(ROWS, LENGTH), torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    batches = [TokenBatch(each[:, :-1], each[:, 1:], places, zeros, zeros) for each in tokens]
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, callbacks=[Clock()], **quiet)
    now = held()
    trainer.fit(stage, loader)
    trained = peak.since()
    scales = 0
    for each in stage.model.parameters():
        if is_quantized(each):
            state = each.quant_state
            scales += state.absmax.nbytes + state.state2.absmax.nbytes
    weights = scales + sum(each.nbytes for each in stage.model.parameters())
    mib = {"process": bare, "made": begun, "before the first step": now, "trained": trained, "weights": weights}
    said = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in mib.items())
    print(f"{'QLoRA' if quantization else 'LoRA'}: {said}; {statistics.median(seconds[1:]):.2f} s a step", flush=True)


def main() -> None:
    folder, *chosen = sys.argv[1:]
    if chosen:
        measure(folder, None if chosen[0] == "null" else chosen[0])
        return
    for quantization in ("null", "nf4"):
        subprocess.run([sys.executable, "-m", "benchmarks.adapters", folder, quantization], check=True)


if __name__ == "__main__":
    main()
