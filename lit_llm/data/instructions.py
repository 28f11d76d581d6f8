"""Instructions for instruction tuning: conversations of one or more turns."""

from typing import ClassVar

from lit_llm.data.options import InstructionsOptions
from lit_llm.data.supervised import SupervisedData


class Instructions(SupervisedData):
    """Conversations between users and an assistant. Options: ``InstructionsOptions``."""

    Options: ClassVar[type[InstructionsOptions]] = InstructionsOptions
    options: InstructionsOptions
