"""The contract of an error message, whatever its wording."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refuses(error: type[Exception], *named: object) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect `error` with a message of one line that names each of these, as whole words.

    Args:
        error: Type of the exception.
        named: What a user needs to find in it: the argument's name, the value given, a file.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert_names(str(caught.value), *named)


def assert_names(message: str, *named: object) -> None:
    """Check that a message has one line, and each of these in it as whole words."""
    assert len(message.strip().splitlines()) == 1, message
    for each in named:
        assert re.search(rf"(?<!\w){re.escape(str(each))}(?!\w)", message), f"{each!r} is not named in: {message}"
