"""The card of a weights file that tests share."""

from cifarblocks.checkpoints.own import Card

CARD = Card(
    model="eca_resnet_20",
    arguments={"num_classes": 2, "image_size": [6, 8]},
    classes=["dark", "light"],
    image_size=(6, 8),
    mean=[0.5] * 3,
    std=[0.25] * 3,
    precision="float32",
    data="shades",
    epoch=3,
)
