"""A small training in float64 around the real backbone: in one process, by DDP, or sharded by FSDP2."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.models import LanguageModel
from lit_llm.callbacks.checkpoints import Checkpoints
from lit_llm.checkpointing.random_state import RandomState
from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.checkpointing.sharded_checkpoints import ShardedCheckpoints
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.runtime.shared_tensors import whole
from tests.stages.training_run import LENGTH, VOCABULARY, trainer_for

ROWS, BATCH = 40, 4  # of all processes: 10 steps an epoch


class FSDP(ShardedCheckpoints, ModelParallelStrategy):
    pass


def network(seed: int = 0, tied: bool = True, dropout: float = 0.0, hidden: int = 16, layers: int = 2) -> LanguageModel:
    torch.manual_seed(seed)
    config = BackboneConfig(
        family="qwen3", vocab_size=VOCABULARY, hidden_size=hidden, num_layers=layers, num_heads=2, num_kv_heads=1,
        head_dim=8, intermediate_size=2 * hidden, max_positions=32, dropout=dropout, tie_embeddings=tied,
    )  # fmt: skip
    return LanguageModel(config)


def shard(model: nn.Module, mesh: Any = None) -> None:
    for layer in model.backbone.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


class Rows:
    """Rows of random tokens, which say which they are."""

    def __init__(self) -> None:
        self.tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor(items), self.tokens[list(items)]


class Small(L.LightningModule):
    """Mean cross-entropy of the next token; also a weight with one row, which all processes but one hold nothing of."""

    def __init__(self, sharded: bool = False, tied: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.model = network(tied=tied, dropout=dropout).double()
        self.scale = nn.Linear(16, 1, bias=False).double()
        self.sharded, self.seen = sharded, []

    def configure_model(self) -> None:
        if self.sharded:
            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            shard(self.model, mesh)
            fully_shard(self.scale, mesh=mesh)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        rows, tokens = batch
        hidden = self.model(tokens[:, :-1])
        logits = self.model.logits(hidden) + self.scale(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        both = self.all_gather(loss.detach())
        self.seen.append((self.trainer.global_step, rows.tolist(), float(both.mean())))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def weights(self) -> dict[str, Tensor]:
        """Whole, in every process."""
        return {name: whole(each).clone() for name, each in self.named_parameters()}


def train(
    folder: Path, kind: str, processes: int, steps: int, more: list[L.Callback] | None = None, **options: Any
) -> dict[str, Any]:
    """Train to so many steps, on from what the folder holds. ``kind``: one, ddp, fsdp. ``options``: of the module and
    of ``Checkpoints``. Returns (step, rows, loss over all processes) of each step of this process, and all weights."""
    made = {key: options.pop(key) for key in ("tied", "dropout") if key in options}
    module = Small(sharded=kind == "fsdp", **made)
    strategy: Any = {"one": "auto", "ddp": "ddp", "fsdp": None}[kind] or FSDP(
        data_parallel_size=processes, tensor_parallel_size=1
    )
    trainer = trainer_for(
        folder, [RandomState(), Checkpoints(**{"keep": 20} | options), *(more or [])],
        max_steps=steps, devices=processes, strategy=strategy, use_distributed_sampler=False,
    )  # fmt: skip
    loader = ResumableLoader(Rows(), BATCH // processes, order=shuffled(ROWS, 3))
    found = find_checkpoint(folder) if folder.exists() else None
    trainer.fit(module, loader, ckpt_path=found, weights_only=True)
    return {"seen": module.seen, "weights": module.weights()}
