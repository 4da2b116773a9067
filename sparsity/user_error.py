"""The error of whoever uses this program. It has a file of its own, without torch, because --help and the report need it too."""


class UserError(ValueError):
    """A mistake that the user can mend: the message says what was got, what was expected, and what to do."""
