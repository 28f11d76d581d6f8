"""What is saved of a stage, and how it is made again: its model folder, what a checkpoint holds of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning as L

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.gathering import is_sharded
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.lora import START, has_start, keep_start, merge_lora
from lit_llm.backbone.saved_adapters import save_adapter
from lit_llm.backbone.sharded_folder import save_sharded
from lit_llm.errors import UserError
from lit_llm.stages import checkpoint_contents
from lit_llm.stages.options import StageOptions
from lit_llm.stages.sharding import Sharding


class SavedStage(L.LightningModule):
    """A stage as far as its files go; ``base.Stage`` trains it."""

    Options: ClassVar[type[StageOptions]] = StageOptions
    not_in_checkpoint: ClassVar[tuple[str, ...]] = ()  # frozen submodules: a reference, a reward model
    options: StageOptions
    model: Any
    tokenizer: Any
    sharding: Sharding | None
    lora_rank: int
    lora_merge: bool
    base_model: str
    latest: dict[str, float]

    def save(self, folder: str | Path) -> None:
        """Writes the model folder in the Hugging Face layout, tokenizer included; beside it, where there are adapters,
        ``adapter/`` in PEFT's layout. Without ``lora_merge`` the model folder is that of the adapter.

        Every process calls it where the model is spread over them, and none ever holds the whole: the first one writes
        each file once the tensors in it are gathered."""
        if self.lora_rank and not self.lora_merge:
            save_adapter_folder(folder, self.model, self.tokenizer, self.options.base_model or "")  # type: ignore[attr-defined]
            return
        self.save_whole(folder)
        if self.lora_rank:
            save_adapter(Path(folder).parent / "adapter", self.model, self.base_model)

    def save_whole(self, folder: str | Path) -> None:
        """The model folder with adapters merged. Every process of a sharded run calls it, as ``save``."""
        if is_sharded(self.model):
            save_sharded(folder, self.model, self.tokenizer)
        else:
            save_model(folder, self.exported(), self.tokenizer)

    def evaluated(self, folder: Path, heldout: Mapping[str, Mapping[str, Any]]) -> None:
        """What a model folder is to hold of its held-out scores, {set: {measure: {"mean", "se", "n"}}}: nothing."""

    def exported(self) -> Any:
        """The network of the model folder, as it is read from there: adapters are merged into a copy."""
        if not self.lora_rank:
            return self.model
        merged = merge_lora(copy.deepcopy(self.model))
        if not self.lora_merge:
            merged.stored = None  # in memory, where nothing is rounded
        return merged

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights and options are there; adds what else ``load_from_checkpoint`` makes the stage from."""
        checkpoint["latest"] = {name: float(value) for name, value in self.latest.items()}
        checkpoint[checkpoint_contents.KEY] = checkpoint_contents.contents(self.model, self.tokenizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The last step's numbers too: a run that had ended, and is resumed to be reported, makes no step more."""
        self.latest = dict(checkpoint.get("latest", {}))
        if any(key.endswith(f".{START[0]}") for key in checkpoint.get("state_dict", {})) and not has_start(self.model):
            keep_start(self.model)  # of the right shapes: what they hold is read next

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **live: Any
    ) -> Self:
        """The stage of a checkpoint, ready to evaluate, to predict and to train on.

        Args:
            checkpoint_path: a file that a Trainer wrote; it is read with ``weights_only=True``.
            live: the stage's live objects by the names of its arguments. ``model``: what training started from; without
                it a network of the shape that the checkpoint tells is made. It is needed where the stage holds its
                model to a frozen reference (DPO, KTO, PPO, GRPO) and is to learn on: a checkpoint does not hold the
                reference. ``tokenizer``: without it the checkpoint's, or the folder's where ``model`` is one. The
                optimizer, schedule, loss and rewards are in no checkpoint: those that are not the defaults are given.

        Raises UserError for a file that is no checkpoint of this stage, and for an old one, which does not tell the
        network.
        """
        checkpoint = checkpoint_contents.read(checkpoint_path, map_location)
        given = live.get("model")
        if given is None:
            live["model"] = checkpoint_contents.network_of(checkpoint, checkpoint_path)
        if live.get("tokenizer") is None and not isinstance(given, str | Path):
            live["tokenizer"] = checkpoint_contents.tokenizer_of(checkpoint)
        stage = cls(checkpoint_contents.options_of(checkpoint, cls.Options), **live)
        stage.has_moved_on(start_known=given is not None)
        stage.on_load_checkpoint(checkpoint)
        stage.load_state_dict(checkpoint["state_dict"])
        return stage

    def has_moved_on(self, start_known: bool) -> None:
        """Called before trained weights are loaded into a new stage.

        Args:
            start_known: whether the network as it is now is what training started from; else copies of it are no
                reference.
        """

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for key in [key for key in state if self._is_not_in_checkpoint(key.removeprefix(prefix))]:
            del state[key]
        return state

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads a checkpoint's weights; all but what is ``not_in_checkpoint`` must be there, and nothing else."""
        if self.sharding is not None:
            state_dict = self.sharding.shared_out(state_dict)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not self._is_not_in_checkpoint(key)]
        if strict and (missing or result.unexpected_keys):
            raise UserError(
                f"the checkpoint is not of this stage and model: missing {missing[:3]}, unexpected "
                f"{list(result.unexpected_keys)[:3]}"
            )
        return result

    def _is_not_in_checkpoint(self, key: str) -> bool:
        return key.split(".", 1)[0] in self.not_in_checkpoint
