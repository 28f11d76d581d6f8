"""What a tokenizer itself puts before and behind a text: its post-processor's tokens."""

from __future__ import annotations

from tokenizers import Encoding
from tokenizers import Tokenizer as Engine
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing


def added_around(engine: Engine) -> tuple[list[int], list[int]]:
    """The ids before and behind a text."""
    if engine.post_processor is None:
        return [], []
    around = engine.post_processor.process(_one_token(), None, True)
    own = around.special_tokens_mask.index(0)
    return list(around.ids[:own]), list(around.ids[own + 1 :])


def always_add(engine: Engine, bos: int | None, eos: int | None) -> None:
    """Writes ``add_bos_token`` and ``add_eos_token`` into the post-processor, where they are true.

    They count beside it; false does not undo it. Some readers take the switches (transformers 4 for Llama's classes),
    some the post-processor (transformers 5): with the one written into the other, all read the saved files alike.

    Args:
        bos, eos: the ids to put there; None where the post-processor stays as it is.
    """
    before, behind = found = added_around(engine)
    for own, ends in ((bos, before), (eos, behind)):
        if own is not None:
            ends[:] = [own]
    if found == added_around(engine):
        return
    names = {i: str(engine.id_to_token(i)) for i in (*before, *behind)}
    first, second = (
        [*(f"{names[i]}:{n}" for i in before), f"${text}:{n}", *(f"{names[i]}:{n}" for i in behind)]
        for n, text in enumerate("AB")
    )
    known = [(name, i) for i, name in names.items()]
    engine.post_processor = TemplateProcessing(single=first, pair=first + second, special_tokens=known)


def _one_token() -> Encoding:
    """A text of one token, of no vocabulary."""
    return Engine(WordLevel({"x": 0}, "x")).encode("x")
