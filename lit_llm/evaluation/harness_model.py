"""A model of this project as lm-evaluation-harness asks it. Only ``harness`` imports this file: it needs lm-eval.

Contexts, windows, left truncation and stop strings are those of the harness's own ``hf`` model
(lm_eval/models/huggingface.py), so that figures compare; the tests hold one to the other. Three things differ:

- A context is read once for all of its continuations: they are branches behind it (``backbone/completions.py``).
- A text of ``loglikelihood_rolling`` is plain text, as everywhere here: no control token is read out of it, and it
  begins once behind ``Tokenizer.beginning`` (``hf`` puts a BOS before the tokenizer's own and scores the second). In
  contexts and continuations, which may be a rendered chat template, names of control tokens are those tokens.
- Where a task asks for as many new tokens as the model's whole context, the prompt keeps half of it (``hf`` refuses).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer as Engine

from lit_llm.backbone.completions import pack
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.generation.stop_strings import StopStrings
from lit_llm.objectives.language import foreseen_tokens
from lit_llm.records import Message
from lit_llm.runtime.progress_bars import Bar

BATCH_TOKENS = {"cpu": 4096}
"""Read at once, contexts with their continuations; elsewhere 16,384."""
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the harness's order
DEFAULT_NEW_TOKENS = 256

Request = tuple[Any, list[int], list[int]]  # texts or None, context, continuation
Answer = tuple[float, bool]  # log-probability of the continuation, whether greedy decoding would write it


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A language model with its tokenizer, on the device where it is.

    Args:
        batch_size: contexts read, or answers generated, at once.
        bf16: compute in bfloat16.
        seed: of what a task samples.
    """

    backend = "causal"

    def __init__(
        self, loaded: LoadedModel, *, batch_size: int = 64, bf16: bool = False, seed: int = 0, progress: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(loaded.model, LanguageModel):
            raise UserError("tasks: a language model answers them, and this is a reward model or a classifier")
        self.model, self.text = loaded.model, loaded.tokenizer
        self.batch_size, self.bf16, self.seed, self.progress = batch_size, bf16, seed, progress
        self._device = self.model.output_weight.device
        self._fingerprint = loaded.tokenizer.fingerprint()
        self._engine = Engine.from_str(self.text.engine.to_str())  # forgets that control tokens are plain text

    # ---- what the harness's base class asks ------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.text.document_end_id

    @property
    def prefix_token_id(self) -> int:
        """Before a continuation without a context, and before each text of ``loglikelihood_rolling``."""
        return self.text.beginning[-1]

    @property
    def max_length(self) -> int:
        return int(self.model.config.max_positions)

    @property
    def tokenizer_name(self) -> str:
        return self._fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.text.chat.source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it; without a generation prompt it ends within the last
        message, which is gone on with."""
        messages = [Message(one["role"], one["content"]) for one in chat_history]  # type: ignore[arg-type]
        written = self.text.chat.written(self.text, messages, prompt=add_generation_prompt)
        if add_generation_prompt:
            return written
        last = messages[-1].content.strip()
        return written[: written.rindex(last) + len(last)] if last else written

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:  # noqa: ARG002
        """Ids behind what the tokenizer itself puts before a text, unless the text has it already."""
        ids = list(self._engine.encode(string, add_special_tokens=False).ids)
        before = [] if add_special_tokens is False else list(self.text.added_before)
        return ids if ids[: len(before)] == before else before + ids

    # ---- the three questions ---------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.text.encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                context, foreseen = make_disjoint_window(window)
                windows.append((None, list(context), list(foreseen)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logp, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += logp
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        texts = [""] * len(requests)
        for numbers in alike.values():
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._written(contexts, requests[numbers[0]].args[1]), strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    # ---- how -------------------------------------------------------------------------------------------------------

    def _written(self, contexts: Sequence[str], wanted: dict[str, Any]) -> list[str]:
        """What the model writes behind each context, up to the first stop string."""
        until = wanted.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        control = self.text.control_tokens
        new = next((int(wanted[key]) for key in NEW_TOKENS if wanted.get(key) is not None), DEFAULT_NEW_TOKENS)
        new = new if new < self.max_length else self.max_length // 2
        temperature, sampled = float(wanted.get("temperature") or 0.0), wanted.get("do_sample")
        if sampled is False:
            temperature = 0.0
        elif sampled and wanted.get("temperature") is None:
            temperature = 1.0
        stop = StopStrings(self.text, [text for text in until if text not in control])
        prompts = [self.tok_encode(context)[new - self.max_length :] for context in contexts]
        rollout = generate(
            self.model,
            [prompt or [self.prefix_token_id] for prompt in prompts],
            max_new_tokens=new,
            end_ids=[*self.text.end_ids, *(control[text] for text in until if text in control)],
            temperature=temperature,
            top_k=wanted.get("top_k") or None,
            top_p=wanted.get("top_p"),
            seed=self.seed,
            batch_size=self.batch_size,
            dtype=torch.bfloat16 if self.bf16 else None,
            stopped=stop if stop.strings else None,
            progress="answers" if self.progress else None,
        )
        return [stop.cut(self.text.decode(ids)) for ids in completions(rollout)]

    def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs: Any) -> list[Answer]:  # noqa: ARG002
        """Each continuation behind its context, of which the left is cut off where both are too long."""
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        answers: list[Answer] = [(0.0, True)] * len(rows)
        bar = Bar(total=len(rows), desc="continuations", disable=not self.progress)
        with self._evaluating(), bar:
            for some in self._batches(rows):
                full = len(rows[some[0]][0]) + len(rows[some[0]][1]) > self.max_length
                found = (self._read_full if full else self._read)([rows[number] for number in some])
                for number, answer in zip(some, found, strict=True):
                    answers[number] = answer
                bar.update(len(some))
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """As much of both as the model reads: all but the continuation's last token."""
        if not continuation or not context:
            raise UserError("tasks: a continuation without a token cannot be scored; see the task's choices or target")
        if len(continuation) > self.max_length:
            raise UserError(
                f"tasks: a continuation of {len(continuation)} tokens; the model's context holds {self.max_length}"
            )
        room = self.max_length + 1 - len(continuation)
        return context[-room:], continuation

    def _batches(self, rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
        """Numbers of rows, those of one context together, of contexts of like length; rows that fill the model's
        context and foresee one token more are by themselves."""
        most = BATCH_TOKENS.get(self._device.type, 16_384)
        of_context: dict[tuple[int, ...], list[int]] = {}
        full: list[int] = []
        for number, (context, continuation) in enumerate(rows):
            if len(context) + len(continuation) > self.max_length:
                full.append(number)
            else:
                of_context.setdefault(tuple(context), []).append(number)
        together = max(1, min(self.batch_size, most // self.max_length))
        yield from (full[start : start + together] for start in range(0, len(full), together))
        sizes = {context: len(context) + sum(len(rows[n][1]) for n in some) for context, some in of_context.items()}
        batch: list[int] = []
        contexts = tokens = 0
        for ids in sorted(of_context, key=lambda one: -sizes[one]):
            if batch and (contexts == self.batch_size or tokens + sizes[ids] > most):
                yield batch
                batch, contexts, tokens = [], 0, 0
            batch, contexts, tokens = batch + of_context[ids], contexts + 1, tokens + sizes[ids]
        if batch:
            yield batch

    def _read(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Answer]:
        """Contexts with their continuations as branches; a continuation's last token is foreseen and not read."""
        longest: dict[bytes, int] = {}
        packed = []
        for context, continuation in rows:
            prompt = np.asarray(context, dtype=np.int64)
            packed.append((prompt, np.asarray(continuation, dtype=np.int64)))
            key = prompt.tobytes()
            longest[key] = longest.get(key, len(context)) + len(continuation)
        batch = pack(packed, self._device.type, row_tokens=max(longest.values())).to(self._device)
        hidden = self.model(batch.input_ids, batch.positions, batch.segments, batch.branches).flatten(0, 1)
        softcap = self.model.logit_softcap
        logps, likeliest = foreseen_tokens(hidden, self.model.output_weight, batch.before, batch.targets, softcap)
        sums, missed = batch.sums(logps.double()).tolist(), batch.sums((~likeliest).double()).tolist()
        return [(value, wrong == 0) for value, wrong in zip(sums, missed, strict=True)]

    def _read_full(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Answer]:
        """Rows of the whole context's length, each foreseeing one token beyond it."""
        ids = torch.tensor([context + continuation for context, continuation in rows], device=self._device)
        starts = torch.tensor([len(context) - 1 for context, _ in rows], device=self._device)
        row, place = (torch.arange(self.max_length, device=self._device) >= starts[:, None]).nonzero(as_tuple=True)
        hidden = self.model(ids[:, :-1]).flatten(0, 1)
        places, targets = row * self.max_length + place, ids[:, 1:][row, place]
        logps, likeliest = foreseen_tokens(hidden, self.model.output_weight, places, targets, self.model.logit_softcap)
        sums = torch.zeros(len(rows), dtype=torch.float64, device=self._device).index_add(0, row, logps.double())
        missed = torch.zeros_like(sums).index_add(0, row, (~likeliest).double())
        return [(value, wrong == 0) for value, wrong in zip(sums.tolist(), missed.tolist(), strict=True)]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No dropout, no gradients; the model's mode is put back."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16) if self.bf16 else nullcontext():
                yield
        finally:
            self.model.train(training)
