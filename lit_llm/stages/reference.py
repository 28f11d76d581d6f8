"""Learning beside a frozen reference: what DPO's family and KTO share."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.completions import completion_logps, pack
from lit_llm.backbone.lora import lora_disabled
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.weights import weights_hash
from lit_llm.data.completion_checks import check_fits
from lit_llm.errors import UserError
from lit_llm.records import PackedCompletions
from lit_llm.runtime.distributed import gathered
from lit_llm.runtime.progress_bars import Bar
from lit_llm.stages import reference_store as store
from lit_llm.stages.base import Stage
from lit_llm.stages.checkpoint_contents import NO_REFERENCE
from lit_llm.stages.initial_model import Policy
from lit_llm.stages.options import PreferenceOptions
from lit_llm.stages.reference_store import KnownLogps, Origin

log = logging.getLogger("lit_llm")

MARGIN_TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.05, torch.float32: 1e-3, torch.float64: 1e-6}
"""How far policy and reference may differ at the start, in nats a completion's token: the arithmetic's noise, by its
precision. In other batches the same completion stands in another row, and is rounded otherwise."""


class AgainstReference(Stage):
    """A policy and its log-probabilities under the model that it was at the start.

    The reference is a frozen copy of ``model`` as given, left out of checkpoints. With adapters it is the policy with
    them switched off, and with ``reference_cache`` or ``reference_logps`` there is none in memory. A completion's
    log-probability is computed once, and reused in later epochs.

    Args:
        options: ``PreferenceOptions``.
        model: a language model, the instruction-tuned one.
        needs_reference: False: none is kept, and every log-probability under it reads as 0.
    """

    Options: ClassVar[type[PreferenceOptions]] = PreferenceOptions
    not_in_checkpoint: ClassVar[tuple[str, ...]] = ("reference",)
    default_lr: ClassVar[float] = 1e-6
    options: PreferenceOptions
    model: LanguageModel

    def __init__(
        self,
        options: PreferenceOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
        needs_reference: bool = True,
    ) -> None:
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        options = self.options
        file = options.reference_logps
        if file and not needs_reference:
            raise UserError(f"stage.reference_logps={file}: this loss needs no reference; leave it out")
        self.needs_reference = needs_reference
        stored = needs_reference and (options.reference_cache or file is not None)
        self._stored = stored
        self._reference_hash = weights_hash(self.model) if stored else ""  # before any adapter is added
        self.reference: LanguageModel | None = None
        if needs_reference and not stored and not options.lora_rank:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.adapt(options)
        self._known = KnownLogps({})
        self._checked = self._forgotten = False
        self.train()

    def train(self, mode: bool = True) -> AgainstReference:  # noqa: ARG002
        """Stays in evaluation mode: with dropout on, policy and reference would differ from the start."""
        return super().train(False)

    def completions_in(self, batch: Any) -> list[PackedCompletions]:
        """All completions of a batch whose log-probability under the reference is asked for."""
        raise NotImplementedError

    def logps_beside_reference(self, completions: PackedCompletions, what: str) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N,) of completions, summed over their tokens, under the policy and under the reference.

        Raises UserError where the model cannot read them, naming them as one of ``what`` ("rankings"), or where the two
        differ before the first update.
        """
        check_fits(completions, self.model.config, what)
        logps = completions.sums(completion_logps(self.model, completions))
        reference = self.under_reference(completions)
        self._check_start(logps, reference, completions.sizes)
        return logps, reference

    # The reference

    @torch.no_grad()
    def under_reference(self, completions: PackedCompletions) -> Tensor:
        """The reference's log-probabilities (N,) of completions, float32: known, or computed now; zeros without one."""
        device, keys = completions.sizes.device, [key.tobytes() for key in completions.host.keys]
        if not self.needs_reference:
            return torch.zeros(len(keys), device=device)
        missing = [row for row, key in enumerate(keys) if key not in self._known]
        if self.sharding is not None and not self._stored and self.sharding.in_any(bool(missing)):
            missing = missing or [0]  # a pass of one process is one of all
        if missing:
            if self._reference_hash and self._checked and self.reference is None and not self.lora_rank:
                lacking = "the stored log-probabilities of the reference lack a completion of this data"
                raise UserError(lacking if len(self._known) or not self._forgotten else NO_REFERENCE)
            if len(missing) < len(keys):  # the others are not read again
                completions = pack([completions.rows[row] for row in missing], device.type).to(device)
            self._known.add([keys[row] for row in missing], self._by_reference(completions))
        return self._known.of(keys, device)

    def has_moved_on(self, start_known: bool) -> None:
        """Where the start is not known and there are no adapters, the reference is gone: what is known of it stays,
        more cannot be computed."""
        self._checked = True
        if not start_known:
            self._forgotten = not self.lora_rank and self.needs_reference
            self.reference, self._reference_hash = None, ""  # of random weights; the checkpoint tells the right one
        elif self._stored and not self.lora_rank:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()  # until all is stored

    def _by_reference(self, completions: PackedCompletions) -> Tensor:
        if self._forgotten:
            raise UserError(NO_REFERENCE)
        if self.reference is not None:
            return completions.sums(completion_logps(self.reference, completions))
        with lora_disabled(self.model) if self.lora_rank else nullcontext():
            return completions.sums(completion_logps(self.model, completions))

    def _check_start(self, logps: Tensor, reference: Tensor, tokens: Tensor) -> None:
        """Before the first update policy and reference are one: every margin must be 0. All (N,)."""
        if self._checked or not self.needs_reference:
            return
        self._checked = True
        if self.trainer.global_step > 0:
            return
        gap = ((logps.detach() - reference) / tokens).abs().max().item()
        if not gap < MARGIN_TOLERANCES[self._arithmetic()]:
            raise UserError(
                f"the start of {self.name}: policy and reference differ by {gap:.3g} nats a token before the first "
                "update, and should not at all; was one of them changed since the stage was made?"
            )

    def _arithmetic(self) -> torch.dtype:
        """What the forward pass computes in."""
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return next(self.model.parameters()).dtype

    @classmethod
    def is_measured_beside_its_start(cls, kind: str) -> bool:  # noqa: ARG003
        """Everywhere: its log-probabilities stand for a reward only beside the reference's."""
        return True

    # The whole data's log-probabilities, before the first step

    def setup(self, stage: str) -> None:
        """The policy is still as it was given here, also when a checkpoint is about to be loaded into it."""
        if not self._reference_hash or len(self._known) or stage not in ("fit", "validate"):
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None or not hasattr(data, "prepared"):
            raise UserError("stage.reference_cache: needs a data module that knows its fingerprint")
        origin = Origin(data.fingerprint(), self._reference_hash, str(self.trainer.precision))
        if self.options.reference_logps is not None:
            self._known, self.reference = KnownLogps(store.read(self.options.reference_logps, origin)), None
            return
        path = origin.file_in(data.options.cache_dir)
        if all(gathered(path.is_file(), self.trainer.world_size)):  # a node may have a disk of its own
            self._known = KnownLogps(store.read(path, origin))
        else:
            self.to(self.trainer.strategy.root_device)
            self._compute_all(data)
            self._write(path, origin)
        self.reference = None
        log.info("reference log-probabilities: %s (%d completions)", path, len(self._known))

    def _compute_all(self, data: Any) -> None:
        """Every process computes its share of the batches, and gets the others'."""
        sources = [data.prepared.train, *data.prepared.validation.values()]
        rank, world = self.trainer.global_rank, self.trainer.world_size
        total = sum(map(len, sources)) // world
        with Bar(total=total, desc="reference", unit=" rows", leave=False) as bar:
            for rows in map(data.placed, sources):
                for size, batch in _batches(rows, data.options.rows_at_once, rank, world):
                    with self.trainer.precision_plugin.forward_context():
                        for completions in self.completions_in(batch):
                            self.under_reference(completions.to(self.device))
                    bar.update(size)
        everyone: dict[bytes, float] = {}
        for share in gathered(self._known.as_dict(), self.trainer.world_size):
            everyone |= share  # in the same order everywhere: a completion in two shares may be rounded in two ways
        self._known = KnownLogps(everyone)

    def _write(self, path: Path, origin: Origin) -> None:
        """The first process writes, and then the first of each node whose disk does not show it."""
        for turn in (self.trainer.is_global_zero, self.trainer.local_rank == 0):
            if turn and not path.is_file():
                store.write(path, origin, self._known.as_dict())
            self.trainer.strategy.barrier()

    # What is saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With each process's log-probabilities that no file holds: computed anew, in other batches, they would be
        rounded otherwise. Where a file holds them, with the hash of the reference that it is found by."""
        super().on_save_checkpoint(checkpoint)
        if self._reference_hash:
            checkpoint["reference_hash"] = self._reference_hash
        elif self.needs_reference:
            everyone = gathered(self._known.as_dict(), self.trainer.world_size)
            checkpoint["reference_logps"] = [store.as_tensors(known) for known in everyone]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._stored and not self._reference_hash:
            self._reference_hash = checkpoint.get("reference_hash", "")
        kept = checkpoint.get("reference_logps", [])
        if kept:
            self._known = KnownLogps(store.from_tensors(kept[self.global_rank % len(kept)]))


def _batches(rows: Any, size: int, rank: int, world: int) -> Iterator[tuple[int, Any]]:
    """Every ``world``-th batch, from number ``rank`` on."""
    for first in range(rank * size, len(rows), size * world):
        items = [rows[index] for index in range(first, min(first + size, len(rows)))]
        yield len(items), rows.collate(items)
