"""What all stages share: steps, normalisation of the loss, logging, optimizers, what is saved.

A stage says which batch it takes and ``loss(batch) -> (sum, count, metrics)``. A stage that drives its own updates
(PPO) sets ``automatic_optimization = False``, writes ``training_step`` and calls ``finish_gradients`` before each
``optimizer.step()``.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.adapter_folder import go_on
from lit_llm.backbone.lora import START, adapted, apply_lora, has_start, keep_start, without_adapters
from lit_llm.backbone.quantized import has_quantized
from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import can_evaluate, evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.optim.adamw import adamw
from lit_llm.optim.gradient_norm import scale as scale_gradients
from lit_llm.optim.gradient_norm import total_norm
from lit_llm.optim.schedules import constant
from lit_llm.records import Heldout
from lit_llm.runtime.distributed import peers
from lit_llm.runtime.lightning_loops import is_trial, leave_inference_mode, logs_are_due
from lit_llm.stages import checkpoint_contents, saving
from lit_llm.stages.initial_model import Network, initial_model
from lit_llm.stages.metric_sums import MetricSums, Sums
from lit_llm.stages.options import AdapterOptions, StageOptions
from lit_llm.stages.prediction import answers
from lit_llm.stages.sharding import Sharding, sharding_of

log = logging.getLogger("lit_llm")

PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


class Stage(L.LightningModule):
    """A stage of training around ``model``, which is what is saved.

    Args:
        options: what the stage is told apart from live objects; None: the defaults of ``Options``.
        model: the network to train, a ``LanguageModel`` unless the stage says otherwise; or a model folder.
        optimizer: makes the optimizer from a module (its frozen parameters are left out); None: ``optim.adamw`` at
            the class's ``default_lr``: 3e-4 for pretraining, continued pretraining, instruction tuning and flag
            classification, 2e-4 for fine-tuning, 9e-6 for reward modelling, 3e-6 for PPO, 1e-6 for DPO, KTO and
            GRPO. The small ones are for models of a billion weights; a few millions want 30 to 100 times as much.
        schedule: makes the learning-rate schedule from the optimizer and the number of optimizer steps; None:
            ``optim.schedules.constant``.
        tokenizer: the model's; saved beside it, and used for bits per byte; None: the folder's where one is given.
    """

    Options: ClassVar[type[StageOptions]] = StageOptions
    name: ClassVar[str]
    batch_type: ClassVar[type]
    head: ClassVar[Literal["language", "score"]] = "language"  # which head the model folder must have
    default_lr: ClassVar[float] = 3e-4  # of AdamW, where no optimizer is given
    from_scratch: ClassVar[bool] = False  # whether it is meant for random weights
    not_in_checkpoint: ClassVar[tuple[str, ...]] = ()  # frozen submodules: a reference, a reward model
    shared_out: ClassVar[tuple[str, ...]] = ("model", "reference")  # networks that several processes can hold together

    def __init__(
        self,
        options: StageOptions | None = None,
        *,
        model: Network,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.options = options or self.Options()
        network, tokenizer = initial_model(model, tokenizer, self.head, self.options)
        self.save_hyperparameters(plain(self.options), logger=False)
        self.model = network
        self.reference: Any = None  # a frozen copy of it, where the stage keeps one
        self.tokenizer = tokenizer
        self.make_optimizer = optimizer or partial(adamw, lr=self.default_lr)
        self.make_schedule = schedule or constant
        self.lora_rank, self.lora_merge, self.base_model = 0, True, ""
        self.sharding: Sharding | None = None  # of the networks over processes, where the Trainer asks for it
        self.latest: dict[str, float] = {}  # the last step's numbers: for the progress bar and the report
        self._window = MetricSums()
        self._validation: list[MetricSums] = []

    def adapt(self, options: AdapterOptions, dropout: float = 0.0) -> None:
        """Freezes ``model`` and puts LoRA adapters beside its layers, where there are to be any; those that it was read
        with are trained on. A score head stays trainable.

        Args:
            dropout: share of the adapters' input that is left out while training.

        Raises UserError for a value that makes no sense, or a layer that the model has not.
        """
        self.lora_rank, self.base_model = options.lora_rank or 0, options.base_model or ""
        self.lora_merge = options.lora_merge
        if options.lora_rank and adapted(self.model):
            go_on(self.model, **options.adapters(dropout))
            keep_start(self.model)
        elif options.lora_rank:
            apply_lora(self.model, **options.adapters(dropout))

    def forward(self, input_ids: Tensor) -> Tensor:
        """The model's answer to rows of tokens, as it is in use: logits (B, T, V) for (B, T)."""
        logits: Tensor = self.model.logits(self.model(input_ids))
        return logits

    # Several processes

    def configure_model(self) -> None:
        """Spreads the networks over the processes where the Trainer's strategy asks for it; once."""
        if self.sharding is None:
            self.sharding = sharding_of(self, self.shared_out)
        if self.sharding is not None:
            leave_inference_mode(self.trainer)  # what is gathered within it could not be trained with later

    @contextmanager
    def whole(self, name: str = "model", everywhere: bool = True) -> Iterator[Any]:
        """A network with all its weights, for what runs it in its own time: generation, an evaluation. Where it is
        spread over processes a copy of it, while this lasts, for which every process calls this alike; without
        ``everywhere`` it is None but in the first one."""
        if self.sharding is None:
            yield getattr(self, name)
            return
        with self.sharding.whole(name, everywhere) as network:
            yield network

    def gather(self) -> None:
        """After training: puts ``model`` with all its weights in the place of the first process's part of it, to be
        evaluated and saved there. Every process calls this alike; nothing is done where the model is whole anyway."""
        if self.sharding is None:
            return
        sharding, self.sharding = self.sharding, None
        model = sharding.gather("model")
        if model is not None:
            self.model, self.reference = model, None

    # What a stage adds

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, Sums]:
        """The loss summed over a batch's items, their count, and metrics summed over the same items (or their own).

        Metrics are tensors () of the device, or numbers where the host knows them: a tensor made of one on the CPU
        would be copied, and the device waited for."""
        raise NotImplementedError

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """What is logged, from the sums over a window or a validation set: by default every sum over the count."""
        count = max(totals["count"], 1.0)
        return {name: value / count for name, value in totals.items() if name != "count"}

    def loss_of(self, totals: dict[str, float]) -> float:
        """The sum over items whose mean is ``val/loss``: what training lowers, unless the stage says otherwise."""
        return totals["loss"]

    def tokens_in(self, batch: Any) -> int:
        """How many tokens a batch trains on, for tokens/s."""
        completions = getattr(batch, "completions", None)
        return int(batch.input_ids.numel()) if completions is None else int(completions.tokens)

    def total_steps(self) -> int:
        """The number of optimizer steps that the schedule spans."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError("trainer.max_steps: not set; the schedule needs max_steps, max_tokens or max_epochs")
        return int(steps)

    # Optimisation

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self)
        schedule = self.make_schedule(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        total, count, metrics = self.loss(batch)
        self._window.add(total, count, metrics)
        return total  # the sum: what divides it is known only when the window is complete

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning lets go of gradients after the next forward pass, which would be held beside them."""
        super().optimizer_step(*args, **kwargs)
        if self.sharding is not None:
            self.sharding.drop_gradients()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Called once per accumulation window, before the update: divides by the window's count, clips, logs.

        Lightning has divided each micro-batch's loss by the accumulation, and the strategy has averaged over ranks:
        both are undone, so that the gradient is that of one big batch, also for uneven counts and a short last window.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            value = getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm)
            raise UserError(f"trainer.gradient_clip_algorithm: {value}; only norm is supported")
        totals = self._window.reduced()
        count = totals["count"]
        shares = self.trainer.world_size // peers()
        scale = self.trainer.accumulate_grad_batches * shares / count if count else math.nan
        values = self.derived(totals)
        # A fused optimizer under fp16 takes the loss scale off the gradients itself, after this.
        fused = getattr(optimizer, "_step_supports_amp_scaling", False) and self._loss_scaler is not None
        loss_scale = self._loss_scaler.get_scale() if fused else 1.0
        norm = self.finish_gradients(self._trained(optimizer), scale, gradient_clip_val, values["loss"], loss_scale)
        values |= {"grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}
        self.log_training(values)

    def finish_gradients(
        self,
        parameters: Iterable[nn.Parameter],
        scale: float,
        max_norm: float | None,
        loss: float,
        loss_scale: float = 1.0,
    ) -> float:
        """Multiplies the gradients by ``scale`` and clips their norm at ``max_norm``, in one pass over them.

        When the loss or the norm is not finite the gradients are dropped, so that ``optimizer.step()`` changes nothing,
        and callbacks that have ``on_bad_update(trainer, stage, loss, norm)`` are told.

        ``loss_scale`` is a factor that is still in the gradients and stays there. Returns the norm before clipping.
        """
        parameters = list(parameters)
        if self.sharding is not None:
            self.sharding.reshard()
            self.sharding.average_plain(parameters)
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(gradients) * scale / loss_scale
        if not (math.isfinite(norm) and math.isfinite(loss)):
            if self._loss_scaler is not None:
                return norm  # fp16: an overflow is how the loss scale is found, and the scaler skips the step itself
            for parameter in parameters:
                parameter.grad = None
            self._tell_bad_update(loss, norm)
            return norm
        if max_norm and norm > max_norm:
            scale *= max_norm / norm
        scale_gradients(gradients, scale)
        return norm

    def _tell_bad_update(self, loss: float, norm: float) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_bad_update"):
                callback.on_bad_update(self.trainer, self, loss, norm)

    @property
    def _loss_scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    @staticmethod
    def _trained(optimizer: Optimizer) -> list[nn.Parameter]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    # Logging

    def log_training(self, values: dict[str, float]) -> None:
        """Keeps ``train/<name>`` in ``latest`` every step. Lightning's log, 0.4 ms a key, gets it every N steps."""
        self.latest = {name if "/" in name else f"train/{name}": value for name, value in values.items()}
        if logs_are_due(self.trainer) or is_trial(self.trainer):
            self.log_dict(self.latest)

    # Validation: one loader per source of text

    def on_validation_epoch_start(self) -> None:
        self._validation = [MetricSums() for _ in self.validation_names()]

    def validation_names(self) -> list[str]:
        """A name for each validation loader: the datamodule's sources where there is one loader for each."""
        loaders = self.trainer.num_val_batches or self.trainer.num_sanity_val_batches
        names = list(getattr(self.trainer.datamodule, "source_names", ()))  # type: ignore[attr-defined]
        return names if len(names) == len(loaders) else [f"set{index}" for index in range(len(loaders))]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        self._validation[dataloader_idx].add(*self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<source>/<metric>`` and ``val/loss``, the mean over all items of all sources."""
        loss = count = 0.0
        for name, totals in zip(self.validation_names(), self._validation, strict=True):
            sums = totals.reduced()
            if not sums.get("count"):
                continue
            loss, count = loss + self.loss_of(sums), count + sums["count"]
            self.log_dict({f"val/{name}/{key}": value for key, value in self.derived(sums).items()})
        if count:
            self.log("val/loss", loss / count)

    # Held-out sets and prompts: trainer.test and trainer.predict

    def test_step(self, batch: Heldout, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Logs ``test/<set>/<measure>`` of a held-out set, the means of ``scores_on``. Every process measures all."""
        if not isinstance(batch, Heldout):
            raise UserError(
                f"test: a {type(batch).__name__} is no held-out set; give datamodule=, or loaders of Heldout"
            )
        if not can_evaluate(self.model, batch):
            log.warning("test: %s is a set of %s, which %s does not take", batch.name, batch.kind, self.name)
            return
        summary = self.scores_on(batch).summary
        values = {f"test/{batch.name}/{measure}": estimate.mean for measure, estimate in summary.items()}
        self.log_dict(values, batch_size=1, add_dataloader_idx=False)

    def scores_on(self, heldout: Heldout) -> Scores:
        """The held-out evaluation of one set with its own defaults (200 items, answers of 64 tokens); a subclass that
        wants others calls ``evaluation.heldout.evaluate`` here. Raises UserError without a tokenizer."""
        if self.tokenizer is None:
            raise UserError("test: the stage has no tokenizer; give it tokenizer=")
        trained = getattr(self.trainer.datamodule, "training_answers", None)  # type: ignore[attr-defined]
        beside = self.reference is not None and self.is_measured_beside_its_start(heldout.kind)
        with self.whole() as model, self.whole("reference") if beside else nullcontext() as reference:
            return evaluate(
                model,
                self.tokenizer,
                heldout,
                scorers=self.scorers() if heldout.kind == "prompts" else None,
                training_answers=Counter(trained()) if trained is not None and heldout.kind == "responses" else None,
                reference=reference,
            )

    def scorers(self) -> dict[str, Any]:
        """What judges answers to held-out prompts, by name: nothing."""
        return {}

    @classmethod
    def is_measured_beside_its_start(cls, kind: str) -> bool:  # noqa: ARG003
        """Whether the trained model is measured beside the one that it started from on a kind of held-out set."""
        return False

    def started_from(self) -> Any:
        """The network that training began with, where the stage has it still: its frozen copy, or with adapters a new
        one; else None. Full weights are trained in place, and weights in 4 bits were rounded."""
        if has_quantized(self.model):
            return None
        return without_adapters(self.model) if self.lora_rank else self.reference

    @property
    def answer_length(self) -> int:
        """Tokens of the longest answer that ``trainer.predict`` gives."""
        return 128

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG002
        """The likeliest answers, a list of texts: to a ``PromptBatch``, or to a list of texts (each a user's turn),
        ``Prompt``s or conversations."""
        with self.whole() as model:
            return answers(model, self.tokenizer, batch, self.answer_length)

    # What is saved

    def save(self, folder: str | Path) -> None:
        """Writes the model folder in the Hugging Face layout, tokenizer included; beside it, where there are adapters,
        ``adapter/`` in PEFT's layout. Without ``lora_merge`` the model folder is that of the adapter.

        Every process calls it where the model is spread over them, and none ever holds the whole: the first one writes
        each file once the tensors in it are gathered."""
        saving.save(self, folder)

    def save_whole(self, folder: str | Path) -> None:
        """The model folder with adapters merged. Every process of a sharded run calls it, as ``save``."""
        saving.save_whole(self, folder)

    def evaluated(self, folder: Path, heldout: Mapping[str, Mapping[str, Any]]) -> None:
        """What a model folder is to hold of its held-out scores, {set: {measure: {"mean", "se", "n"}}}: nothing."""

    def exported(self) -> Any:
        """The network of the model folder, as it is read from there: adapters are merged into a copy."""
        return saving.exported(self)

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
        stage: Self = saving.from_checkpoint(cls, checkpoint_path, map_location, live)
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
        if strict:
            saving.check_keys(missing, list(result.unexpected_keys))
        return result

    def _is_not_in_checkpoint(self, key: str) -> bool:
        return key.split(".", 1)[0] in self.not_in_checkpoint


def plain(options: StageOptions) -> dict[str, Any]:
    """The options as a checkpoint keeps them. Live objects would break weights-only loading."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not isinstance(value, PLAIN):
            raise TypeError(f"{field.name} is a {type(value).__name__}: only plain values are kept as hyper-parameters")
    return dataclasses.asdict(options)
