"""Errors that are told in one clear sentence, without a traceback."""


class UserError(Exception):
    """A command that cannot work; the message is one sentence that names the option or the file, and the value."""


class RunError(Exception):
    """A failure of a run that could have worked; the message is one sentence."""


class StoppedError(RunError):
    """A signal ended a run that can go on later.

    Args:
        number: Number of the signal.
        sentence: Where the run stands, and how to go on.
    """

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(number, sentence)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[1])


def first_line(error: BaseException) -> str:
    r"""Return another library's message of an error, on one line.

    >>> first_line(KeyError("model")), first_line(ValueError()), first_line(RuntimeError("one\ntwo"))
    ("'model'", 'ValueError', 'one')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
