"""A run's held-out sets as tasks of lm-evaluation-harness, which read local files alone.

Each set gives a JSONL and a YAML that the harness takes as it is, also with ``--model hf`` and a model from elsewhere:

- documents: the text's bits per byte, and its perplexity by word and byte (``loglikelihood_rolling``);
- responses: bits per byte of what the assistant says, and exact match of a generated last turn;
- rankings: of each strict pair, whether the better one is the likelier.

Conversations are written out in the chat template of the model that is given, control tokens by their names. Nothing
of the harness measures labels, flags or prompts without an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lit_llm.evaluation.heldout import MAX_DOCUMENT_TOKENS, selection
from lit_llm.records import Comparison, Document, Example, Heldout
from lit_llm.runtime.atomic_files import write_text
from lit_llm.text.tokenizer import Tokenizer

FUNCTIONS = "scores.py"
FUNCTIONS_SOURCE = '''"""How the tasks of this folder are scored."""


def bits_per_byte(doc, results):
    """Of the text behind the blanks that end the prompt: where there are any, the first choice is those alone."""
    logps = [logp for logp, _ in results]
    return {"bits_per_byte": (logps[-1] - sum(logps[:-1]), doc["bytes"])}


def exact_match(doc, results):
    """White space counts as single."""
    return {"exact_match": float(" ".join(results[0].split()) == " ".join(doc["answer"].split()))}
'''
ROLLING = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
LIKELIHOOD = """\
output_type: multiple_choice
doc_to_text: prompt
doc_to_target: right
doc_to_choice: choices
target_delimiter: ""
process_results: !function scores.bits_per_byte
metric_list:
  - metric: bits_per_byte
"""
GENERATED = """\
output_type: generate_until
doc_to_text: prompt
doc_to_target: answer
process_results: !function scores.exact_match
generation_kwargs: {{until: [{end}], max_gen_toks: {new_tokens}, do_sample: false}}
metric_list:
  - metric: exact_match
"""
PAIRS = """\
output_type: multiple_choice
doc_to_text: prompt
doc_to_target: right
doc_to_choice: choices
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def export(
    folder: Path, sets: Iterable[Heldout], tokenizer: Tokenizer, *, max_items: int | None, max_new_tokens: int
) -> list[Path]:
    """Writes the tasks of each set, of the items that an evaluation takes, and returns their YAML files."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for heldout in sets:
        items = [heldout.items[n] for n in selection(len(heldout.items), max_items)]
        for name, rows, how in _tasks(heldout, items, tokenizer, max_new_tokens):
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            if lines:
                written.append(_write(folder, name, lines, how))
    if any("!function" in path.read_text(encoding="utf-8") for path in written):
        write_text(folder / FUNCTIONS, FUNCTIONS_SOURCE)
    return written


def _tasks(
    heldout: Heldout, items: Sequence[Any], tokenizer: Tokenizer, max_new_tokens: int
) -> Iterator[tuple[str, Iterable[dict[str, Any]], str]]:
    """The name, the rows and the YAML's end of each task."""
    name = f"heldout_{heldout.name}"
    if heldout.kind == "documents":
        yield name, [{"text": _measured_part(tokenizer, item)} for item in items], ROLLING
    elif heldout.kind == "responses":
        yield name, (row for item in items for row in _said(tokenizer, item)), LIKELIHOOD
        end = json.dumps(str(tokenizer.engine.id_to_token(tokenizer.turn_end_id)), ensure_ascii=False)
        how = GENERATED.format(end=end, new_tokens=max_new_tokens)
        yield f"{name}_answers", (row for item in items for row in _asked(tokenizer, item)), how
    elif heldout.kind == "rankings":
        yield name, (row for item in items for row in _pairs(tokenizer, item)), PAIRS


def _write(folder: Path, name: str, lines: list[str], how: str) -> Path:
    data, task = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    write_text(data, "".join(line + "\n" for line in lines))
    files = json.dumps({"test": str(data)}, ensure_ascii=False)
    quoted = json.dumps(name, ensure_ascii=False)
    head = f"task: {quoted}\ndataset_path: json\ndataset_kwargs:\n  data_files: {files}\ntest_split: test\n"
    write_text(task, head + how + "num_fewshot: 0\nmetadata:\n  version: 1.0\n")
    return task


def _measured_part(tokenizer: Tokenizer, document: Document) -> str:
    """As much of the text as an evaluation reads, in whole characters."""
    ids = tokenizer.encode(document.text)
    if len(ids) <= MAX_DOCUMENT_TOKENS:
        return document.text
    ids = ids[:MAX_DOCUMENT_TOKENS]
    while not document.text.startswith(text := tokenizer.decode(ids, skip_special=False)) and ids:
        ids = ids[:-1]
    return text


def _said(tokenizer: Tokenizer, example: Example) -> Iterator[dict[str, Any]]:
    """A row for each stretch that an assistant says, its end token with it, behind all that stands before."""
    ids, trained = tokenizer.encode_chat(example.messages)
    control, at = set(tokenizer.control_tokens.values()), 0
    for said, stretch in groupby(trained):
        begin, at = at, at + len(list(stretch))
        if said and begin:
            prompt, blanks = _without_blanks(tokenizer.decode(ids[:begin], skip_special=False))
            text = tokenizer.decode(ids[begin:at], skip_special=False)
            size = sum(len(tokenizer.token_bytes(one)) for one in ids[begin:at] if one not in control)
            choices = [blanks, blanks + text] if blanks else [text]
            yield {"prompt": prompt, "choices": choices, "right": len(choices) - 1, "bytes": size}


def _asked(tokenizer: Tokenizer, example: Example) -> Iterator[dict[str, Any]]:
    """The conversation up to its last turn, where an assistant has that."""
    *before, last = example.messages
    if before and last.role == "assistant":
        ids = tokenizer.encode_prompt(before)
        yield {
            "prompt": tokenizer.decode(ids, skip_special=False),
            "answer": tokenizer.written_answer(example.messages),
        }


def _pairs(tokenizer: Tokenizer, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each two completions with different ranks, the better one first."""
    ids = tokenizer.encode_prompt(comparison.prompt)
    prompt, blanks = _without_blanks(tokenizer.decode(ids, skip_special=False))
    texts = [
        blanks + tokenizer.decode(tokenizer.encode_completion(text), skip_special=False)
        for text in comparison.completions
    ]
    ranked = list(zip(comparison.ranks, texts, strict=False))
    for better, first in ranked:
        for worse, second in ranked:
            if better < worse:
                yield {"prompt": prompt, "choices": [first, second], "right": 0}


def _without_blanks(prompt: str) -> tuple[str, str]:
    """A prompt and the blanks that end it, which the harness counts with what follows them."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :]
