"""``scripts/chat.py``: a conversation in the terminal, in the model's own chat template."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.command import load
from lit_llm.generation.streaming import decoder_of, stream, stream_text
from lit_llm.generation.transformers_decoder import AnyDecoder
from lit_llm.records import Message
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.devices import Device
from lit_llm.runtime.terminal import utf8_output
from lit_llm.text.tokenizer import Tokenizer

HELP = "/reset forgets the conversation, /quit ends; Ctrl+C stops an answer"


@dataclass
class ChatOptions:
    """Chats with a model in the terminal; without one, each line of standard input is a turn."""

    model: Annotated[Path, "the model: a folder, FILE.gguf, installed/smollm2, hub:OWNER/NAME"]
    system: Annotated[str, "a system message to begin with"] = ""
    max_new_tokens: Annotated[int, "of an answer"] = 200
    temperature: Annotated[float, "0 takes the likeliest token each time"] = 0.7
    top_k: Annotated[int | None, "choose among the k likeliest tokens"] = None
    top_p: Annotated[float | None, "choose among the likeliest tokens that reach this probability"] = 0.95
    seed: Annotated[int, "of the sampling"] = 0
    device: Annotated[Device, "where to compute"] = "auto"


@dataclass
class Chat:
    """A conversation. ``answer`` streams the next turn and keeps it."""

    model: InitVar[LanguageModel | AnyDecoder]
    tokenizer: Tokenizer
    options: ChatOptions
    messages: list[Message] = field(default_factory=list)
    turns: int = 0
    dropped: int = 0  # earliest messages that the context had no room for, at the last answer

    def __post_init__(self, model: LanguageModel | AnyDecoder) -> None:
        self.decoder = decoder_of(model) if isinstance(model, LanguageModel) else model
        self.reset()

    def reset(self) -> None:
        self.messages = [Message("system", self.options.system)] if self.options.system else []

    def answer(self, text: str) -> Generator[str, None, None]:
        """Pieces of the answer to ``text``. Whatever was said when the reader stops is kept.

        Raises UserError for a turn that alone fills the context.
        """
        self.messages.append(Message("user", text))
        try:
            prompt = self._fitting_prompt()
        except UserError:
            self.messages.pop()
            raise
        self.turns += 1
        said: list[str] = []
        options = self.options
        ids = stream(
            self.decoder,
            prompt,
            max_new_tokens=options.max_new_tokens,
            end_ids=self.tokenizer.end_ids,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed + self.turns,
        )
        try:
            for piece in stream_text(self.tokenizer, ids):
                said.append(piece)
                yield piece
        finally:
            self.messages.append(Message("assistant", "".join(said)))

    def _fitting_prompt(self) -> list[int]:
        """The conversation's ids, earliest exchanges left out until there is room for an answer."""
        context = self.decoder.positions
        room = context - min(self.options.max_new_tokens, context // 4)
        first = 1 if self.options.system else 0
        kept, self.dropped = list(self.messages), 0
        while True:
            ids = self.tokenizer.encode_prompt(kept)
            if len(ids) <= room:
                self.messages = kept
                return ids
            if len(kept) <= first + 1:
                raise UserError(f"this turn has {len(ids)} tokens: the model's context of {context} holds {room} of it")
            del kept[first : first + 2]
            self.dropped += 2


def main() -> None:
    """The command line (lit-llm-chat)."""
    run_command(ChatOptions, run)


def run(options: ChatOptions) -> None:
    """Reads turns until /quit or the end of the input."""
    utf8_output()
    model, tokenizer = load(options.model, options.device)
    chat = Chat(decoder_of(model, consume=True), tokenizer, options)
    del model  # of no use any more
    asked = sys.stdin is not None and sys.stdin.isatty()
    if asked:
        print(HELP)
    for line in _lines(asked):
        command = line.strip()
        if command == "/quit":
            break
        if command == "/reset":
            chat.reset()
            print("(forgotten)")
        elif command in ("/help", "/?"):
            print(HELP)
        elif command:
            _say(chat, command)


def _say(chat: Chat, text: str) -> None:
    pieces = chat.answer(text)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        pieces.close()
        print(" (stopped)")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    if chat.dropped:
        print(f"({chat.dropped} earlier messages no longer fit the context and were left out)", file=sys.stderr)


def _lines(asked: bool) -> Iterator[str]:
    """Turns: typed at a prompt where somebody is there, else line by line; the end of the input ends them."""
    if asked:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and history in input())
    while True:
        try:
            line = input("> ") if asked else sys.stdin.readline() if sys.stdin is not None else ""
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not asked and not line:
            return
        yield line
