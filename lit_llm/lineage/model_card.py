"""The README.md of a model folder, written from its lineage alone, so that it says nothing that cannot be verified."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_llm.rewards.validation.wording import Row, validation_texts
from lit_llm.runtime.counted import counted

SIMULATED = (
    "> **Simulated preferences.** The rankings behind this model were made by simulated annotators (a visible rule "
    "plus noise), not by people. It shows that the method works; it says nothing about what people prefer."
)


PEOPLE_1 = "> **People's preferences.** People made rankings that this model learned from (simulated: {simulated})."
PEOPLE = (
    "> **People's preferences.** This model learned from judgements that are not marked as simulated: they are taken "
    "for people's (simulated: {simulated})."
)


def render(lineage: Mapping[str, Any]) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    parts = [*_front(lineage), "", f"# {_title(lineage['stage'])}", "", *_made(lineage)]
    if lineage["simulated_preferences"]:
        parts += ["", SIMULATED]
    if lineage.get("people_preferences"):
        words = PEOPLE_1 if lineage["version"] == 1 else PEOPLE  # a card is that of its lineage, also an older one
        parts += ["", words.format(simulated="also, in part" if lineage["simulated_preferences"] else "false")]
    parts += ["", "## Data", "", *_data(lineage["data"])]
    taken = lineage["config"].get("pretrained_defaults")
    if isinstance(taken, Mapping):
        parts += ["", "## Values chosen by size", "", *_chosen(taken)]
    parts += ["", "## Held-out results", "", *_results(lineage["metrics"])]
    for key, heading in (("reward_validation", "Validation as a reward"), ("exam", "Exam as a reward")):
        if found := lineage["metrics"].get(key):  # a card is that of its lineage, also an older one
            parts += ["", f"## {heading}", "", *_validated(found)]
    parts += ["", "## Made from", "", *_parents(lineage)]
    parts += ["", "## Made with", "", *_code(lineage)]
    return "\n".join(parts) + "\n"


def _title(stage: str) -> str:
    return stage.replace("_", " ").capitalize()


def _front(lineage: Mapping[str, Any]) -> list[str]:
    tags = ["lit-llm", lineage["stage"].replace("_", "-")]
    tags += ["simulated-preferences"] if lineage["simulated_preferences"] else []
    bases = lineage.get("base_models") or []
    about = [f"base_model: {json.dumps(bases[0]['name'])}", f"license: {json.dumps(_license(bases))}"] if bases else []
    return ["---", "library_name: transformers", *about, "tags:", *(f"- {tag}" for tag in tags), "---"]


def _license(bases: Sequence[Mapping[str, str]]) -> str:
    """The base's; where there are several that differ, it takes a person to say."""
    found = {base["license"] for base in bases}
    return found.pop() if len(found) == 1 else "unknown"


def _made(lineage: Mapping[str, Any]) -> list[str]:
    metrics = lineage["metrics"]
    size = metrics.get("parameters")
    lines = [f"Made by the stage `{lineage['stage']}` on {lineage['created']}."]
    if size:
        took = [counted(metrics.get(f"{what}s", 0), what) for what in ("step", "token")]
        lines.append(f"{size:,} parameters; {', '.join(took)}, {metrics.get('seconds', 0):.0f} seconds.")
    return lines


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("fingerprint"):
        yield f"Fingerprint `{data['fingerprint'][:16]}`."
    counts = data.get("counts") or {}
    if counts:
        yield ""
        yield from (f"- {key}: {_shown(value)}" for key, value in counts.items())
    if data.get("files"):
        yield ""
        yield "| file | bytes | sha256 |"
        yield "|---|---|---|"
        yield from (f"| {item['path']} | {item['bytes']:,} | `{item['sha256'][:12]}` |" for item in data["files"][:50])
        if len(data["files"]) > 50:
            yield f"| and {len(data['files']) - 50} more in lineage.json | | |"
    if data.get("elsewhere"):
        yield ""
        yield from (f"- {item['place']}" for item in data["elsewhere"][:50])
        if len(data["elsewhere"]) > 50:
            yield f"- and {len(data['elsewhere']) - 50} more in lineage.json"


def _chosen(taken: Mapping[str, Any]) -> Iterator[str]:
    """What nobody gave, and a pretrained model of this size takes."""
    yield f"For a pretrained model of {taken['weights']:,} weights ({taken['trained']} trained), where none were given."
    yield ""
    yield from (f"- `{key}={value}`" for key, value in taken["values"].items())


def _results(metrics: Mapping[str, Any]) -> Iterator[str]:
    after, before = metrics.get("heldout") or {}, metrics.get("before") or {}
    if not after:
        yield "None were measured."
        return
    yield "Mean ± standard error; before is the model it was made from."
    yield ""
    yield "| held-out set | measure | before | after | items |"
    yield "|---|---|---|---|---|"
    for name, scores in after.items():
        for measure, value in scores.items():
            old = (before.get(name) or {}).get(measure)
            yield f"| {name} | {measure} | {_score(old)} | {_score(value)} | {value.get('n', '')} |"
    if merge := metrics.get("merge"):
        yield ""
        yield (
            f"Merging the adapters into {merge['stored']} changed {merge['measure']} of {merge['set']} by "
            f"{merge['difference']:+.2g}, from {merge['adapters']:.5g} to {merge['merged']:.5g}."
        )
    if vocabulary := metrics.get("vocabulary"):
        yield ""
        yield (
            f"The vocabulary has {vocabulary['new_tokens']:,} new tokens. Grown: with their rows, before they were "
            "trained."
        )
        yield from _grown(vocabulary["sets"])


def _grown(sets: Mapping[str, Any]) -> Iterator[str]:
    """Tokens and bits a byte of held-out text by the old vocabulary and the new one."""
    yield ""
    yield "| held-out set | tokens per byte before | after | bits per byte before | grown | after |"
    yield "|---|---|---|---|---|---|"
    for name, one in sets.items():
        tokens = [f"{one['tokens_per_byte'][when]:.4g}" for when in ("before", "after")]
        found = [one["bits_per_byte"].get(when) for when in ("before", "grown", "after")]
        bits = ["" if value is None else f"{value:.4g}" for value in found]
        yield f"| {name} | {' | '.join([*tokens, *bits])} |"


def _validated(values: Mapping[str, Any]) -> Iterator[str]:
    """Whether a policy may learn from the model: floors, attacks with their limits, and why it failed."""
    found = validation_texts(values)
    accuracy = found.accuracy or "could not be measured"
    yield f"{'Passed' if found.passed else 'Failed'}. Accuracy {accuracy}. {found.training}"
    if found.reasons:
        yield ""
        yield from (f"- {reason}" for reason in found.reasons)
    yield from _validation_table(("floor", "accuracy", "the model's lead"), found.floors)
    yield from _validation_table(("attack", "outscores the best answer", "limit"), found.attacks)


def _validation_table(columns: tuple[str, str, str], rows: tuple[Row, ...]) -> Iterator[str]:
    if rows:
        yield ""
        yield f"| {' | '.join(columns)} | items | result |"
        yield "|---|---|---|---|---|"
        yield from (f"| {row.name} | {row.value} | {row.beside} | {row.n} | {row.result} |" for row in rows)


def _parents(lineage: Mapping[str, Any]) -> Iterator[str]:
    if not lineage["parents"]:
        yield "Nothing: trained from scratch."
    for parent in lineage["parents"]:
        digest = f", lineage `{parent['digest'][:12]}`" if parent["digest"] else ", from elsewhere"
        yield f"- {parent['role']}: {parent['stage'] or 'model'} at `{parent['path']}`{digest}"
    for base in lineage.get("base_models") or ():
        licence = base["license"] if base["license"] != "unknown" else "unknown: ask its makers before you pass this on"
        yield (
            f"- base model: {base['name']}, from elsewhere{_source(base)}; licence {licence}; the data that it was "
            "trained on are unknown here"
        )


def _source(base: Mapping[str, str]) -> str:
    """What was named, and the bytes or the revision that this was."""
    if "source" not in base:
        return ""
    digest = f", SHA-256 `{base['sha256'][:12]}`" if "sha256" in base else ""
    revision = f", revision `{base['revision'][:12]}`" if "revision" in base else ""
    return f" (`{base['source']}`{digest}{revision})"


def _code(lineage: Mapping[str, Any]) -> Iterator[str]:
    code = lineage["code"]
    if code.get("commit"):
        yield f"- commit `{code['commit']}`{' with local changes' if code['changed'] else ''}"
    yield f"- code, SHA-256 `{code['digest'][:12]}`"
    yield f"- {', '.join(f'{name} {version}' for name, version in lineage['packages'].items())}"
    yield f"- seed {lineage['config'].get('seed')}; the whole configuration is in lineage.json"


def _score(value: Mapping[str, Any] | None) -> str:
    if not value or value.get("mean") is None:
        return ""
    error = value.get("se")
    return f"{value['mean']:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
