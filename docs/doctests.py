"""For mkdocstrings: what a docstring shows to type, `>>> `, becomes a block of code."""

import re
from typing import Any

from griffe import Extension


class Doctests(Extension):
    """Fence every paragraph that begins with a prompt."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> (?:.+\n?)+", r"```pycon\n\g<0>\n```\n", obj.docstring.value, flags=re.MULTILINE
            )
