"""The one exception that means: the user's input is wrong, and here is what to do about it."""


class UserError(Exception):
    """Bad input by the user. The message is one clear sentence; the CLI prints it as one line and exits with code 2."""
