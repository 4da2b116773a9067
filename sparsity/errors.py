"""The error that is meant for users. Light to import: whatever reads files and loads no model raises it too."""


class UserError(ValueError):
    """A mistake that the user can mend: the message says what was got, what was expected, and what to do."""
