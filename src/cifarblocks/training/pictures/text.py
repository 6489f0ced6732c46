"""Names of classes, runs and folders as text of a picture."""

from matplotlib.font_manager import FontProperties, findfont, get_font


def drawable(text: str) -> str:
    r"""Escape characters that the font lacks, which are drawn as boxes, and `$`, which begins a formula.

    >>> print(drawable("猫, 5 $"))
    \u732b, 5 \$
    """
    font = get_font(findfont(FontProperties()))
    shown = (char if font.get_char_index(ord(char)) else char.encode("unicode_escape").decode() for char in text)
    return "".join(shown).replace("$", r"\$")
