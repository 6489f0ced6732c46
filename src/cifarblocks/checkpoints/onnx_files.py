"""Run ONNX files of `cifarblocks export`; only this file of the core needs ONNX Runtime, and `load` imports it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from cifarblocks.checkpoints.files import reading
from cifarblocks.checkpoints.own import DIGEST, Card, card_of, require_card

INPUT, OUTPUT = "images", "logits"
TYPES = {"tensor(uint8)": torch.uint8, "tensor(float)": torch.float32}
FATAL = 4  # messages of lower severity are raised as errors anyway


class OnnxModel(nn.Module):
    """A classifier that ONNX Runtime computes on the CPU; it takes images from 0 to 1, (b, c, h, w).

    Args:
        data: An ONNX file of `cifarblocks export`.

    Raises:
        ValueError: If it is damaged or of another kind, or its card does not fit it.
        Exception: One of ONNX Runtime's own, if it cannot run the graph.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        if data != with_digest(data[: -len(with_digest(b""))]):
            raise ValueError("its digest does not match: it is damaged, or another program changed or wrote it")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        require_card(metadata)
        card = card_of(metadata)
        self.card = replace(card, mean=[0.0] * card.channels, std=[1.0] * card.channels)  # the graph normalises
        self.dtype = TYPES[self.session.get_inputs()[0].type]
        # Says device and type, as the parameters of any model do.
        self.like = nn.Parameter(torch.empty(0, device="cpu"), requires_grad=False)

        found = [(each.name, each.shape[1:]) for each in self.session.get_inputs() + self.session.get_outputs()]
        expected = [(INPUT, [card.channels, *card.image_size]), (OUTPUT, [len(card.classes)])]
        if found != expected:
            raise ValueError(f"its inputs and outputs must be {expected}, got {found}")

    def forward(self, x: Tensor) -> Tensor:
        images = (255 * x).round() if self.dtype == torch.uint8 else x
        return self.run(images.to(self.dtype)).to(x)

    def run(self, images: Tensor) -> Tensor:
        """Return the logits of images of the graph's own type."""
        (logits,) = self.session.run([OUTPUT], {INPUT: images.cpu().contiguous().numpy()})
        return torch.from_numpy(logits)


def with_digest(data: bytes) -> bytes:
    """Append to an ONNX file the last entry of its metadata: a hash of all bytes before it.

    A protobuf message may be written in consecutive pieces, so the bytes before the entry do not change.
    """
    entry = field(1, DIGEST.encode()) + field(2, hashlib.sha256(data).hexdigest().encode())
    return data + field(14, entry)  # metadata_props of ModelProto


def field(number: int, content: bytes) -> bytes:
    """Return a field of a message of protobuf: the number, the length, and fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def load_onnx(path: Path) -> tuple[OnnxModel, Card]:
    """Load an ONNX file of `cifarblocks export` and its card, with mean 0 and std 1 because the graph normalises.

    Raises:
        ValueError: If the file cannot be read, is damaged or is of another kind.
    """
    with reading(path, "used as an ONNX file that cifarblocks export wrote"):
        model = OnnxModel(path.read_bytes())
    return model.eval(), model.card
