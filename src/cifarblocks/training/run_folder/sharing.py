"""Options and commands for files that people share, without folders that name a user or a machine."""

import hashlib
import re
from typing import Any

BEGIN = r"(?<![^\s=:,'\"])"  # beginning of a path, at the start of the text or of a word
SERVER = r"://(?:\S*@)?[^\s/'\"]*"  # user, password and host of a URL
HOME = BEGIN + r"(?:~|((?:\.\./)*\.\.)?/(?:home|Users)/)[^\s/=:,'\"]*"
FOLDERS = BEGIN + r"(?:~|\.\.)?/(?:[^=:]*/)?(?=[^/=:])"


def without_folders(text: str) -> str:
    """Shorten every path in an argument that begins at the root, at home or above this folder to its last part.

    >>> without_folders("folder:/home/ann/flowers"), without_folders("--output=~/runs"), without_folders("runs/first")
    ('folder:.../flowers', '--output=.../runs', 'runs/first')
    >>> without_folders("../../home/ann/flowers"), without_folders("'/home/ann'")
    ('.../flowers', "'.../~'")
    >>> without_folders("postgresql://ann:secret@host/studies")
    'postgresql:.../studies'
    """
    return re.sub(FOLDERS, ".../", re.sub(HOME, r"\1/~", re.sub(SERVER, "://", text)))


def shareable(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with their absolute paths shortened; a hash tells folders of one name apart.

    >>> shareable({"data": "folder:/home/ann/flowers", "lr": 0.1})
    {'data': 'folder:.../flowers (9d2fca95)', 'lr': 0.1}
    """
    return {name: _shortened(value) if isinstance(value, str) else value for name, value in options.items()}


def _shortened(text: str) -> str:
    short = without_folders(text)
    return text if short == text else f"{short} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
