"""A small tokenizer with a chat template of the test's own."""

from lit_llm.text.bpe import train_bpe
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import Tokenizer


def base_of(words, names):
    """Trained on these words, with these control tokens."""
    made = train_bpe([words * 30], 500, show_progress=False)
    made.engine.add_special_tokens(list(names))
    return made


def with_template(base, source):
    return Tokenizer(base.engine, base.config | {"bos_token": "<s>", "eos_token": "</s>"}, ChatTemplate(source))
