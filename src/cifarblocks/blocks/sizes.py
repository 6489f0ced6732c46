"""Checks of sizes, which refuse a wrong one by its name."""

Size = int | tuple[int, int]  # height and width of a map, or one number for both


def require_at_least(minimum: int, **values: float) -> None:
    """Refuse, by its name, the first value below `minimum`.

    >>> require_at_least(1, channels=64, stride=0)
    Traceback (most recent call last):
    ValueError: stride must be at least 1, got 0
    """
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def require_odd(**sizes: int) -> None:
    """Refuse, by its name, the first size of a kernel that has no middle.

    >>> require_odd(kernel_size=4)
    Traceback (most recent call last):
    ValueError: kernel_size must be odd and positive, got 4
    """
    for name, size in sizes.items():
        if size < 1 or size % 2 == 0:
            raise ValueError(f"{name} must be odd and positive, got {size}")


def height_and_width(size: Size, name: str = "size") -> tuple[int, int]:
    """One number or two → (h, w).

    Raises:
        ValueError: if they are not one or two, or one of them is below 1.

    >>> height_and_width(8), height_and_width((8, 5))
    ((8, 8), (8, 5))
    """
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2:
        raise ValueError(f"{name} must be one number or a height and a width, got {size}")
    if min(both) < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return both


def mlp_width(channels: int, mlp_ratio: float) -> int:
    """Hidden channels of an MLP that is `mlp_ratio` times as wide as its input, rounded down.

    Raises:
        ValueError: if that is below 1.

    >>> mlp_width(64, 4)
    256
    """
    width = int(mlp_ratio * channels)
    if width < 1:
        raise ValueError(f"mlp_ratio must be at least 1 / channels ({channels}), got {mlp_ratio}")
    return width
