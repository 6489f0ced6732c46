"""What a person is told in one clear sentence, without a traceback."""


class UserError(Exception):
    """What was typed cannot work; the message is one sentence that names the option or the file, and the value."""


class RunError(Exception):
    """What went wrong in a run that could have worked; its message is one sentence."""
