"""Task pairs for fine-tuning: a source and the target that answers it."""

from typing import ClassVar

from lit_llm.data.options import TaskPairsOptions
from lit_llm.data.supervised import SupervisedData


class TaskPairs(SupervisedData):
    """Pairs of source and target, as conversations of one turn each. Options: ``TaskPairsOptions``."""

    Options: ClassVar[type[TaskPairsOptions]] = TaskPairsOptions
    options: TaskPairsOptions
