"""Options and commands as they stand in files that people share: without the folders that name a user or a machine."""

import hashlib
import re
from typing import Any


def without_folders(text: str) -> str:
    """Shorten every absolute path in an argument to its last part.

    >>> without_folders("folder:/home/ann/flowers"), without_folders("--output=~/runs"), without_folders("runs/first")
    ('folder:.../flowers', '--output=.../runs', 'runs/first')
    """
    return re.sub(r"(?<![^=:])[~/](?:[^=:]*/)?(?=[^/=:])", ".../", text)


def shareable(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with their absolute paths shortened; a hash tells folders of one name apart.

    >>> shareable({"data": "folder:/home/ann/flowers", "lr": 0.1})
    {'data': 'folder:.../flowers (9d2fca95)', 'lr': 0.1}
    """
    return {name: _shortened(value) if isinstance(value, str) else value for name, value in options.items()}


def _shortened(text: str) -> str:
    short = without_folders(text)
    return text if short == text else f"{short} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
