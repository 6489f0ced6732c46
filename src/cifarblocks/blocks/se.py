"""Squeeze-and-excitation: Hu et al. 2018, https://arxiv.org/abs/1709.01507."""

from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, require_part


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that an MLP computes from all channel averages (section 3, equations 2-4).

    Both 1×1 convolutions have a bias, as in the authors' code. Other papers change the parts: EfficientNet takes
    `activation=nn.SiLU`, GhostNet `gate=nn.Hardsigmoid`.

    Formula: y = x ⊙ σ(W₂ ReLU(W₁ mean(x)))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        hidden_channels: hidden width of the MLP. Default: a sixteenth of `channels` as in the paper, at least 1.
        activation: builds the activation between the two convolutions.
        gate: builds the activation of the gates.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 2·c·r + c + r parameters, 2·c·r multiply-adds; r is the hidden width.

    Raises:
        ValueError: if `channels` or `hidden_channels` is below 1.

    >>> SqueezeExcite(64, 16)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        hidden_channels = max(1, channels // 16) if hidden_channels is None else hidden_channels
        require_int(1, hidden_channels=hidden_channels)
        require_part(activation=activation, gate=gate)
        self.reduce = nn.Conv2d(channels, hidden_channels, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(hidden_channels, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        averages = x.mean((2, 3), keepdim=True)
        hidden = self.activation(self.reduce(averages))
        return x * self.gate(self.expand(hidden))
