"""A few steps of instruction tuning with adapters, without data, evaluation or checkpoints: what they hold, as JSON.

``work.py`` starts it, since what is measured belongs to a whole process.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from lit_llm.runtime.allocator import keep_freed_memory
from lit_llm.runtime.arguments import run_command


@dataclass(frozen=True)
class Alone:
    """Steps of instruction tuning on random tokens, in fp32 on the CPU."""

    model: Annotated[Path, "a model folder"]
    rank: Annotated[int, "of the adapters"]
    rows: Annotated[int, "of a step"]
    length: Annotated[int, "tokens of a row"]
    steps: Annotated[int, "that are timed, after a first one"]
    quantization: Annotated[Literal["nf4"] | None, "of the frozen weights"] = None


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


def measure(a: Alone) -> None:
    """Prints ``bare``, ``made``, ``ready``, ``trained`` and ``weights`` in bytes, and ``seconds`` of a step."""
    keep_freed_memory()
    import lightning as L
    import torch

    from lit_llm.backbone.quantized import is_quantized
    from lit_llm.records import TokenBatch
    from lit_llm.stages.instruction_tuning import InstructionTuning

    bare, peak = held(), Peak()
    options = InstructionTuning.Options(lora_rank=a.rank, lora_quantization=a.quantization)
    stage = InstructionTuning(options, model=a.model)
    begun = peak.since()
    seconds: list[float] = []

    class Clock(L.Callback):
        def on_train_batch_start(self, *args: Any) -> None:  # noqa: ARG002
            seconds.append(time.process_time())

        def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
            seconds[-1] = time.process_time() - seconds[-1]

    tokens = torch.randint(stage.model.config.vocab_size, (a.steps + 1, a.rows, a.length + 1))
    places, zeros = torch.arange(a.length).expand(a.rows, a.length), torch.zeros(a.rows, a.length, dtype=torch.int64)
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
    sizes = {"bare": bare, "made": begun, "ready": now, "trained": trained, "weights": weights}
    print(json.dumps({**sizes, "seconds": statistics.median(seconds[1:])}), flush=True)


if __name__ == "__main__":
    run_command(Alone, measure)
