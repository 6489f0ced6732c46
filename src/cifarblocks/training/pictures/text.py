"""Names of classes, runs and folders as text of a picture."""

from matplotlib.font_manager import FontProperties, findfont, get_font

TITLE = 120  # characters that fit above a picture


def drawable(text: str, most: int = 60) -> str:
    r"""Escape characters that the font lacks, which are drawn as boxes, and `$`, which begins a formula.

    A long text would leave no room for the axes, so its middle is left out.

    >>> print(drawable("猫, 5 $"), drawable("a very long name of a class", 14))
    \u732b, 5 \$ a very … class
    """
    font = get_font(findfont(FontProperties()))
    shown = "".join(char if font.get_char_index(ord(char)) else ascii(char)[1:-1] for char in text)
    if len(shown) > most:
        shown = f"{shown[: most // 2]}…{shown[most // 2 + 1 - most :]}"
    return shown.replace("$", r"\$")
