"""Instructions for instruction tuning: conversations of one or more turns."""

from lit_llm.data.supervised import SupervisedData


class Instructions(SupervisedData):
    """Conversations between users and an assistant. Arguments: ``SupervisedData``."""

    default_path = "installed/instructions"
    default_name = "instructions"
