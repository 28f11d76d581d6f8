"""Task pairs for fine-tuning: a source and the target that answers it."""

from lit_llm.data.supervised import SupervisedData


class TaskPairs(SupervisedData):
    """Pairs of source and target, as conversations of one turn each. Arguments: ``SupervisedData``."""

    default_path = "installed/task_pairs"
    default_name = "task_pairs"
