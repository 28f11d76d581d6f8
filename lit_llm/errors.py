"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the file, line or key; the value; what would be right.

    The commands print it as ``error: ...`` and exit with status 2, without a traceback.
    """


class NothingToLearn(UserError):  # noqa: N818 (it is what was found)
    """Data that holds only one of the things that are to be told apart. A pipeline leaves such a step out."""
