"""ResNet34v2, the host of the LHC modules: the pre-activation ResNet in the MXNet arrangement.

Structure: He et al., "Identity Mappings in Deep Residual Networks" (2016), arranged as ``resnet34`` of the
Keras package image-classifiers, whose ImageNet weights the paper starts from. It is neither torchvision's
resnet34 (post-activation) nor timm's ``resnetv2_34`` (no BatchNorm on the input, another shortcut).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhcnet.models.memory_format import memory_format

BN_EPS = 2e-5
SLOTS = ("LHC1", "LHC2", "LHC3", "LHC4", "LHC5")  # Figure 1: after the stem, then after each stage


class InputNorm(nn.BatchNorm2d):
    """``bn_data``: BatchNorm on the raw pixels with a learned shift and no learned scale."""

    bias: nn.Parameter

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x) + self.bias[:, None, None]

    def normalised(self, x: Tensor) -> Tensor:
        """Without the shift. In training the moving statistics take in the batch."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        moving = (self.running_mean, self.running_var)
        return F.batch_norm(x, *moving, training=self.training, momentum=self.momentum or 0.0, eps=self.eps)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:  # BatchNorm2d's own constructor calls this before there is a bias
            nn.init.zeros_(self.bias)


class Unit(nn.Module):
    """One pre-activation residual unit: BN-ReLU-conv-BN-ReLU-conv plus the shortcut.

    The first unit of *every* stage, also of the first where nothing changes shape, takes its shortcut after
    the first BN-ReLU through a 1x1 convolution; the others pass their input on untouched.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, first: bool, bn_momentum: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=BN_EPS, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x), inplace=True)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(a)), inplace=True))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(a)
        return y + shortcut


class ResNetV2(nn.Module):
    """Pre-activation ResNet with a dense head and five places for attention.

    ``attention[i]`` maps a tensor to one of the same shape: slot 0 follows the stem's max-pool, slot i the
    last unit of stage i, after its addition. The plain ResNet has identities there, LHC-Net its modules.

    Args:
        input_size: side S of the square images. The network itself takes any size; modules put into the slots
            are tied to this one.
        depths: units of the four stages; (3, 4, 6, 3) is ResNet34.
        widths: channels of the four stages; the stem has ``widths[0]``.
        head: sizes of the hidden dense layers, each followed by ReLU and dropout.
        dropout: probability of dropping, 0 <= dropout < 1.
        classes: number of logits.
        bn_momentum: weight of the new batch in BatchNorm's moving statistics (0.01 here is 0.99 in Keras);
            schedules of a few hundred steps need more.

    Raises:
        ValueError: not four stages, or a value out of range.
    """

    def __init__(
        self,
        *,
        input_size: int = 224,
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        head: Sequence[int] = (4096, 1024),
        dropout: float = 0.4,
        classes: int = 7,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        for name, stages in (("depths", depths), ("widths", widths)):
            if len(stages) != 4:
                raise ValueError(f"{name}={tuple(stages)} must have four numbers, one a stage")
        if min(input_size, *depths, *widths, *head, classes) < 1:
            raise ValueError(
                f"input_size={input_size}, depths={tuple(depths)}, widths={tuple(widths)}, "
                f"head={tuple(head)} and classes={classes} must all be at least 1"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and less than 1")
        if not 0 < bn_momentum <= 1:
            raise ValueError(f"bn_momentum={bn_momentum} must be more than 0 and at most 1")
        self.input_size, self.depths, self.widths = input_size, tuple(depths), tuple(widths)

        self.bn_data = InputNorm(3, eps=BN_EPS, momentum=bn_momentum)
        self.stem_conv = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.stem_bn = nn.BatchNorm2d(widths[0], eps=BN_EPS, momentum=bn_momentum)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            units = []
            for unit in range(depth):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(Unit(inputs, width, stride=stride, first=unit == 0, bn_momentum=bn_momentum))
                inputs = width
            self.stages.append(nn.Sequential(*units))
        self.attention = nn.ModuleList(nn.Identity() for _ in SLOTS)
        self.bn = nn.BatchNorm2d(inputs, eps=BN_EPS, momentum=bn_momentum)
        self.hidden = nn.ModuleList()
        for size in head:
            self.hidden.append(nn.Linear(inputs, size))
            inputs = size
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(inputs, classes)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start as Keras does: He-uniform convolutions, Glorot-uniform dense layers, zero biases.

        BatchNorm goes back to mean 0 and variance 1. The attention slots are left alone.
        """
        for name, module in self.named_modules():
            if name.startswith("attention."):
                continue
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, S, S) with raw values 0..255."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) to the last feature maps after BN and ReLU, (B, widths[3], S/32, S/32)."""
        x = x.contiguous(memory_format=memory_format(*self.widths))  # all maps after it follow
        x = F.max_pool2d(self.stem_bn(self._stem(x)), 3, stride=2, padding=1)
        # Pooled before the ReLU: the same numbers from a quarter of the work. Keras pads with zeros after it, PyTorch
        # with -inf: the same again.
        return self.features_from(0, F.relu(x, inplace=True))

    def _stem(self, x: Tensor) -> Tensor:
        """``stem_conv(bn_data(x))``, with the shift of ``bn_data`` convolved for itself.

        The sum is the same, as a convolution is linear. But only the shift needs a gradient through it, which now
        costs that of one image instead of that of the batch.
        """
        shift = self.bn_data.bias[:, None, None].expand_as(x[:1])  # (1, 3, S, S)
        y: Tensor = self.stem_conv(self.bn_data.normalised(x)) + self.stem_conv(shift)
        return y

    def features_from(self, place: int, x: Tensor) -> Tensor:
        """The rest of ``forward_features``, from the input of ``attention[place]`` on."""
        x = self.attention[place](x)
        for stage, attention in zip(self.stages[place:], self.attention[place + 1 :], strict=True):
            x = attention(stage(x))
        return F.relu(self.bn(x), inplace=True)

    def forward_head(self, features: Tensor) -> Tensor:
        """Feature maps to logits, in float32 also under autocast: it is cheap and the loss reads it."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.logits.weight.dtype).mean(dim=(2, 3))  # (B, widths[3])
            for layer in self.hidden:
                x = self.dropout(F.relu(layer(x)))
            logits: Tensor = self.logits(x)
        return logits
