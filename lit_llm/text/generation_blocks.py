"""``{% generation %} ... {% endgeneration %}`` in a chat template: transformers' mark of what the assistant writes."""

import re

_BEGIN = re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}")
_END = re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}")


def without_generation_blocks(template: str) -> str:
    """The template without these marks: no engine but transformers knows them; it writes the same.

    A block that is always taken stands in their place: blanks are cut around it as they were.
    """
    return _END.sub(r"{%\1 endif \2%}", _BEGIN.sub(r"{%\1 if true \2%}", template))
