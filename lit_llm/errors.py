"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the file, line or key; the value; what would be right.

    The commands print it as ``error: ...`` and exit with status 2, without a traceback.
    """
