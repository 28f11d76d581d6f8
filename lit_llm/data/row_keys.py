"""Which keys of a row say nothing about what is trained: every other key is used by the row's format, or refused.

A key that is dropped in silence trains something else than the data says: a turn that was not to be learned, an
instruction without its system message. So a key is let pass only if it is listed here, if what stands under it is empty
(null, "", [], {}), if it says again what is trained anyway, or if ``data.ignore_keys`` names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lit_llm.data.row_errors import RowError
from lit_llm.runtime.suggestions import nearest


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ABOUT = _words("""
    id _id idx index uuid uid guid key row row_id hash sha sha1 sha256 md5 __index_level_0__
    source sources dataset dataset_name dataset_source data_source origin subset split config collection corpus
    file files filename file_name file_path filepath path repo repo_name repository page pages line url urls uri link
    title author authors publisher license licence copyright citation domain host country
    time timestamp date year month created created_at updated updated_at modified submitted_at added crawled_at
    version schema dump crawl snapshot revision meta metadata attributes info provenance
    lang language languages locale language_score language_confidence language_code lang_code dialect
    category categories subcategory topic topics subject subjects genre type kind task tasks task_type task_name
    tag tags keywords level difficulty grade wording function
    length num_chars num_tokens n_tokens tokens token_count text_token_length token_length char_count
    num_turns turn turns turn_id turn_identifier views likes upvotes downvotes
    model models model_name model_id generator engine checkpoint checkpoints sampling temperature top_p seed
""")
"""Where a row (or a message, or a completion) is from and what it is about: in every kind of data."""

_ABOUT_ENDS = re.compile(r".+[-_.](id|uuid|hash|sha256|date|timestamp|model|version|type)")
_ABOUT_WHERE = re.compile(
    r"(source|src|origin|original|detected|native|main|primary|text|doc|document|page|web|repo|file|data|dataset|article"
    r"|post|book|warc|dump|license|user|author|crawl)[-_.](url|lang|language|file|path)"
)
"""A place or a language is about the row where its name says whose: ``img_path`` is a picture, ``tgt_lang`` a task."""
_ELSE_THAN_TEXT = re.compile(
    r"(.*[-_.])?(images?|img|pictures?|photos?|screenshots?|videos?|audios?|wav|speech|voice|media|tools?|functions?|system"
    r"|target|tgt|output|reference|expected|winner|better|best|preferred|preference|choice)([-_.].*)?",
    re.IGNORECASE,
)
_FREE = _words("""
    title author authors publisher license licence copyright citation source sources path file files filename file_name
    file_path filepath url urls uri link meta metadata attributes info provenance keywords key id guid
    topic topics subject subjects
""")
"""Names that may hold any text: under every other one a sentence would be an instruction."""
_LABELS = _words("task tasks task_type task_name type kind function")
"""Short names of something, which no object describes: that would be a function's schema."""
_MEASURES = _words("""
    length num_chars num_tokens n_tokens tokens token_count text_token_length token_length char_count num_turns turn
    turns views likes upvotes downvotes seed temperature top_p
""")
_SENTENCE = re.compile(r"[.!?:]\s|\n|[.!?:]$")
_TOOL_OR_MEDIA = re.compile(
    r"(tool|function|image|video|audio)s?([-_](use|call|output|result|response|url)s?)?", re.IGNORECASE
)

_JUDGING = _words("""
    score scores rating ratings rule gold seconds duration agreement adjudicated too_fast comment comments notes
    positions unranked repeat_of completion_hashes worker annotators words num_completions
""")
"""Who judged how, and what else was said: rankings and labels say themselves what is better."""

OF_KIND: dict[str, frozenset[str]] = {
    # What a filter measured of a text that was kept.
    "texts": _words("""
        score int_score quality quality_score perplexity ppl toxicity rating fasttext_score edu_score warc_type format
        audience style redpajama_set_name pile_set_name ext size stars seed_data
    """),
    "examples": _words("words simulated annotator annotators"),
    "comparisons": _JUDGING | _words("score_chosen score_rejected"),
    "labels": _JUDGING | _words("margin"),
    # Answers are left out of prompts, and so is what is said of them.
    "prompts": _JUDGING
    | _words("""
        answers response responses outputs ranks label margin flags all_bad weight annotator annotator_id simulated
        score_chosen score_rejected
    """),
}
_OF_ANSWERS = re.compile(
    r"(chosen|rejected|completion)[-_](hash|model|checkpoint|position|rank|ratings?|flags|scores?|avg_rating)"
)
"""What exported rankings and public pairs say of each answer."""

OF_MESSAGES = _words("redacted toxic hashed_ip header state message_id parent_id")
_NAMED = ABOUT | OF_MESSAGES

CHANGES = {
    **dict.fromkeys(
        ("thinking", "reasoning_content", "reasoning", "thoughts", "thought"),
        "reasoning is not trained there; it belongs to an assistant's message, or into its text",
    ),
    **dict.fromkeys(
        ("tools", "functions", "tool_calls", "function_call", "tool_choice", "tool_call_id", "tool_responses"),
        "tools are not trained there; a row has tools, an assistant's message tool_calls, a tool's a tool_call_id",
    ),
    **dict.fromkeys(
        ("image", "images", "image_url", "video", "videos", "audio", "audios"), "text alone is trained, and not media"
    ),
    **dict.fromkeys(("weight", "train", "loss", "training"), "this kind of data has no weight there"),
    **dict.fromkeys(
        ("label", "labels", "kto_tag"), "it tells good from bad, which stage=kto (data=labelled_answers) learns"
    ),
}
"""Keys that are known to change what a row means, and why they are not used where they are refused."""
_HIDDEN = {key for key, why in CHANGES.items() if "trained" in why} | {"system", "system_prompt", "history", "messages"}


def known(key: Any, kind: str | None) -> bool:
    """Whether a key of a row (``kind``: of which data) or of a part of one (None) is known to say nothing."""
    if not isinstance(key, str):
        return False
    if kind is not None and key in OF_KIND[kind]:
        return True
    if key in ABOUT:
        return True
    if key in CHANGES or _ELSE_THAN_TEXT.fullmatch(key):
        return False
    if _ABOUT_ENDS.fullmatch(key) or _ABOUT_WHERE.fullmatch(key):
        return True
    if kind is None:
        return key in OF_MESSAGES
    return kind in ("comparisons", "labels", "prompts") and bool(_OF_ANSWERS.fullmatch(key))


def _is_about(key: str, value: Any) -> bool:
    """Whether what stands under a key that is ``known`` is what its name promises, and hides nothing else."""
    if key == "unranked":  # in exported rankings the list of what nobody ranked
        return isinstance(value, list)
    if key in _NAMED and _hides(value):
        return False
    held = value if isinstance(value, list | tuple) else [value]
    if key in _MEASURES:
        return all(not isinstance(one, Mapping) and _is_number(one) for one in held)
    if key in _LABELS and any(
        isinstance(one, Mapping) or (isinstance(one, str) and _TOOL_OR_MEDIA.fullmatch(one)) for one in held
    ):
        return False
    if key not in _NAMED or key in _FREE:
        return True
    return not any(isinstance(one, str) and _is_sentence(one) for one in held)


def _is_number(value: Any) -> bool:
    if not isinstance(value, str):
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_sentence(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and (len(text) > 100 or (len(words) > 3 and bool(_SENTENCE.search(text))))


def _hides(value: Any) -> bool:
    """Whether an object, at any depth, has a key that would change the row if it stood in it."""
    if isinstance(value, Mapping):
        return any((key in _HIDDEN and not empty(one)) or _hides(one) for key, one in value.items())
    return isinstance(value, list | tuple) and any(map(_hides, value))


def empty(value: Any) -> bool:
    """Whether a value says nothing: null, blanks, or a list or object of such. False and 0 say something."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(empty(one) for one in value.values())
    return isinstance(value, list | tuple) and all(empty(one) for one in value)


def unused(value: Mapping[str, Any], read: Collection[str], kind: str | None) -> list[str]:
    """The keys that are neither read nor known to say nothing, in their order."""
    return [
        key
        for key, held in value.items()
        if key not in read and not empty(held) and not (known(key, kind) and _is_about(key, held))
    ]


def refusal(keys: Collection[str], read: Collection[str], where: str, part: str = "") -> RowError:
    """The line for keys that nobody uses. ``part``: the place in the row that has them."""
    first = str(next(iter(keys)))
    near = nearest(first, read, cutoff=0.75) if first not in CHANGES else None
    why = f"did you mean '{near}'?" if near else CHANGES.get(first, "nothing is known of it")
    named = ", ".join(f"'{part}.{key}'" if part else f"'{key}'" for key in map(_short, keys))
    ignore = ",".join(map(_short, keys))
    many = "keys" if len(keys) > 1 else "key"
    return RowError(
        "unknown_key",
        f"{where}: {many} {named} would be dropped: {why}; take it out, or set data.ignore_keys=[{ignore}] to train as "
        "if it were not there",
    )


def check_part(value: Mapping[str, Any], read: Collection[str], where: str, part: str) -> None:
    """Raises RowError for a key of a message, a part or a completion that is neither read nor known to say nothing."""
    if keys := unused(value, read, None):
        raise refusal(keys[:8], read, where, part)


def without(value: Any, keys: Collection[str]) -> Any:
    """A row without the keys of ``data.ignore_keys``, at every depth."""
    if isinstance(value, Mapping):
        return {key: without(one, keys) for key, one in value.items() if key not in keys}
    return [without(one, keys) for one in value] if isinstance(value, list) else value


def _short(key: Any) -> str:
    return " ".join(str(key).split())[:40]
