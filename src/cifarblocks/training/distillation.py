"""Distillation of a teacher network into the one that is trained: Hinton et al. 2015, https://arxiv.org/abs/1503.02531."""

from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as shortened

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarblocks.checkpoints.files import file_digest, reading
from cifarblocks.checkpoints.own import OWN, Card, load_weights
from cifarblocks.pretrained import find_weights
from cifarblocks.training.errors import UserError, refusing

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, logits and targets of a batch → the sum over its images


@dataclass(frozen=True)
class Distillation:
    """Loss of a student: the loss on the labels, and the divergence from the teacher's probabilities (section 2).

    loss = (1 - share) · labels' loss + share · T² · KL(softmax(teacher / T) ‖ softmax(student / T))

    Attributes:
        teacher: (b, c, h, w) → (b, classes), on the images that the student sees.
        labels_loss: Loss on the labels.
        share: Share of the teacher, from 0 to 1.
        temperature: T, which divides the logits of both.
    """

    teacher: nn.Module
    labels_loss: Loss
    share: float
    temperature: float

    def __call__(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, summed over the images of a batch."""
        with torch.no_grad():
            taught = self.teacher(images)
        # In the precision of the images: autocast on a CPU would leave log_softmax in bfloat16.
        student, teacher = (F.log_softmax(each.to(images.dtype) / self.temperature, 1) for each in (logits, taught))
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        # The divergence's gradient shrinks as 1 / T²: with T² the share means the same at every temperature.
        softened = self.temperature**2 * divergence
        return (1 - self.share) * self.labels_loss(images, logits, targets) + self.share * softened


class Renormalised(nn.Module):
    """A network for images with another normalisation than in its own training.

    Args:
        model: The network.
        own: Card of the network, with the mean and standard deviation of its training.
        given: Card with the mean and standard deviation of the images.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, own: Card, given: Card) -> None:
        super().__init__()
        self.model = model
        values = torch.tensor([own.mean, own.std, given.mean, given.std], dtype=torch.float64)
        own_mean, own_std, given_mean, given_std = values.view(4, -1, 1, 1)
        self.register_buffer("scale", given_std / own_std)  # 1 and 0, exactly, where both cards say the same
        self.register_buffer("offset", (given_mean - own_mean) / own_std)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * self.scale + self.offset)


def teacher_digest(path_or_name: str) -> str:
    """Return a hash of a teacher's weights file.

    Raises:
        UserError: If there is no such file or name, or it cannot be read.
    """
    with refusing("--teacher "):
        path = find_weights(path_or_name)
        with reading(path, OWN):
            return file_digest(path)


def load_teacher(path_or_name: str, student: Card) -> nn.Module:
    """Return a teacher for a student's images, in eval mode, on the CPU.

    Args:
        path_or_name: Its weights: a file of `cifarblocks train`, or a name of `list_weights`.
        student: Card of the student, with its classes and images.

    Raises:
        UserError: If it cannot be read, or was trained on other classes, channels or sizes of images.
    """
    with refusing("--teacher "):
        model, card = load_weights(find_weights(path_or_name))
    if card.image_size != student.image_size:
        own, given = ("x".join(map(str, each.image_size)) for each in (card, student))
        raise UserError(f"--teacher {path_or_name} expects images of {own}, and the images of the run are {given}")
    if card.classes != student.classes:
        own, given = (f"{len(each.classes)} classes {shortened(each.classes)}" for each in (card, student))
        raise UserError(f"--teacher {path_or_name} must have the classes of the data, {given}, got {own}")
    if card.channels != student.channels:
        raise UserError(f"--teacher {path_or_name} has {card.channels} channels, and the student {student.channels}")
    return Renormalised(model, card, student).eval()
