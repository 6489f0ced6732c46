"""The arguments that every classifier takes."""

from dataclasses import dataclass

from cifarblocks.blocks.sizes import Size


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments that every classifier takes, if its docstring says nothing else of them.

    Attributes:
        num_classes: classes; 0 leaves what the last layer would see.
        in_channels: channels of the images.
        image_size: height and width of the images it is used for, or one number for both.
        drop_path: drop path rate of the last block; it grows linearly from 0 at the first.
        dropout: dropout rate before the last layer.
    """

    num_classes: int = 100
    in_channels: int = 3
    image_size: Size = 32
    drop_path: float = 0.0
    dropout: float = 0.0
