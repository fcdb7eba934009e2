"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """A mistake that its maker can mend, told in one sentence: what is wrong, what was given, what to do.

    The command line prints the sentence and exits; a program that uses the library can catch it as a ValueError.
    """

    def __init__(self, sentence: str) -> None:
        # A data loader's worker re-raises with its whole traceback as the message: keep what stands after the name.
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())
