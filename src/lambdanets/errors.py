"""The exception for user errors."""


class UserError(ValueError):
    """A user error with a one-line message: what is wrong, what was given, what to do.

    The command line prints the message and exits; a program that uses the library can catch it as a ValueError.
    """

    def __init__(self, message: str) -> None:
        # A data loader worker re-raises the error with its whole traceback as the message: keep the message alone.
        super().__init__(message.rsplit("UserError: ", 1)[-1].strip())
