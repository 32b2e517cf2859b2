"""ResNet34v2, the backbone of LHC-Net: the pre-activation ResNet in the MXNet arrangement.

Structure: He et al., "Identity Mappings in Deep Residual Networks" (2016), arranged as `resnet34` of the
Keras package image-classifiers, whose ImageNet weights the paper starts from. torchvision's resnet34 is another network
(post-activation), and so is timm's `resnetv2_34` (no BatchNorm on the input, another shortcut).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhcnet.estimate import LARGEST
from lhcnet.geometry import map_sides
from lhcnet.models.initialisation import Conv2d, Linear, named_generator
from lhcnet.models.memory_format import memory_format
from lhcnet.models.slots import SLOTS, SlotNetwork

BN_EPS = 2e-5
RESNET34_DEPTHS = (3, 4, 6, 3)  # units of the four stages
RESNET34_WIDTHS = (64, 128, 256, 512)  # channels of the four stages


class InputNorm(nn.BatchNorm2d):
    """`bn_data`: BatchNorm of the raw pixels with a learnt shift and no learnt scale."""

    bias: nn.Parameter

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x) + self.bias[:, None, None]

    def normalised(self, x: Tensor) -> Tensor:
        """Normalise without the shift; in training mode this updates the moving statistics."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        moving = (self.running_mean, self.running_var)
        return F.batch_norm(x, *moving, training=self.training, momentum=self.momentum or 0.0, eps=self.eps)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:  # BatchNorm2d's constructor calls this before the bias exists
            nn.init.zeros_(self.bias)


class Unit(nn.Module):
    """One pre-activation residual unit: BN-ReLU-conv-BN-ReLU-conv plus the shortcut.

    The first unit of *every* stage (also of stage 1, where no shape changes) has a 1x1 convolution as shortcut, which
    follows the first BN-ReLU; the shortcut of the other units is the identity.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, first: bool, bn_momentum: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=BN_EPS, momentum=bn_momentum)
        self.conv1 = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=bn_momentum)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = Conv2d(inputs, outputs, 1, stride=stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x), inplace=True)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(a)), inplace=True))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(a)
        return y + shortcut


class ResNetV2(SlotNetwork):
    """Pre-activation ResNet with a dense head and five slots for attention modules.

    `attention[i]` maps a tensor to one of the same shape: slot 0 (LHC1) follows the stem's max-pool, slot i the last
    unit of stage i, after its addition. The plain ResNet has identities there, LHC-Net its LHC modules.

    Args:
        input_size: side S of the square images in pixels. The ResNet itself takes any size; the modules in the slots
            take this one.
        depths: units of the four stages; (3, 4, 6, 3) is ResNet34.
        widths: channels of the four stages; the stem has `widths[0]`.
        head: sizes of the hidden dense layers, each followed by ReLU and dropout.
        dropout: probability of dropping, 0 <= dropout < 1.
        classes: number of logits.
        bn_momentum: weight of the new batch in BatchNorm's moving statistics (0.01 here is 0.99 in Keras);
            schedules of a few hundred steps need more.
        seed: equal seeds give equal initial weights, to the byte; None draws from torch's global generator.

    Raises:
        ValueError: not four stages, or a value is out of range.
    """

    def __init__(
        self,
        *,
        input_size: int = 224,
        depths: Sequence[int] = RESNET34_DEPTHS,
        widths: Sequence[int] = RESNET34_WIDTHS,
        head: Sequence[int] = (4096, 1024),
        dropout: float = 0.4,
        classes: int = 7,
        bn_momentum: float = 0.01,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, stages in (("depths", depths), ("widths", widths)):
            if len(stages) != 4:
                raise ValueError(f"{name}={tuple(stages)} must have four numbers, one for each stage")
        if min(input_size, *depths, *widths, *head, classes) < 1:
            raise ValueError(
                f"input_size={input_size}, depths={tuple(depths)}, widths={tuple(widths)}, "
                f"head={tuple(head)} and classes={classes} must all be at least 1"
            )
        if max(input_size, *depths, *widths, *head, classes) >= LARGEST:
            raise ValueError(f"all sizes of the network must be less than {LARGEST:,}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and less than 1")
        if not 0 < bn_momentum <= 1:
            raise ValueError(f"bn_momentum={bn_momentum} must be more than 0 and at most 1")
        self.input_size, self.depths, self.widths = input_size, tuple(depths), tuple(widths)
        self.classes, self.bn_momentum = classes, bn_momentum

        self.bn_data = InputNorm(3, eps=BN_EPS, momentum=bn_momentum)
        self.stem_conv = Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
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
            self.hidden.append(Linear(inputs, size))
            inputs = size
        self.dropout = nn.Dropout(dropout)
        self.logits = Linear(inputs, classes)
        self.reset_parameters(named_generator(seed, "backbone"))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise as Keras does: He-uniform convolutions, Glorot-uniform dense layers, zero biases.

        BatchNorm starts with mean 0 and variance 1. The modules in the attention slots keep their weights.
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
        """Images (B, 3, S, S), values 0..255, to the maps after the last BN-ReLU, (B, widths[3], S/32, S/32)."""
        x = x.contiguous(memory_format=memory_format(*self.widths))  # the later maps inherit the format
        x = F.max_pool2d(self.stem_bn(self._stem(x)), 3, stride=2, padding=1)
        # Max-pool before ReLU gives the same values as the reference's ReLU before max-pool, for a quarter of the work;
        # so does PyTorch's padding with -inf instead of Keras' zeros after the ReLU.
        return self.features_from(0, F.relu(x, inplace=True))

    def _stem(self, x: Tensor) -> Tensor:
        """`stem_conv(bn_data(x))`, computed as the convolution of the normalised images plus that of the shift.

        The sum is the same because a convolution is linear. Only the shift needs a gradient with respect to the
        convolution's input, so the backward pass through it costs one image instead of the batch.
        """
        shift = self.bn_data.bias[:, None, None].expand_as(x[:1])  # (1, 3, S, S)
        y: Tensor = self.stem_conv(self.bn_data.normalised(x)) + self.stem_conv(shift)
        return y

    def features_from(self, slot: int, x: Tensor) -> Tensor:
        """The rest of `forward_features`, given the input x of `attention[slot]`, (B, C, H, W)."""
        x = self.attention[slot](x)
        for stage, attention in zip(self.stages[slot:], self.attention[slot + 1 :], strict=True):
            x = attention(stage(x))
        return F.relu(self.bn(x), inplace=True)

    @property
    def slot_shapes(self) -> Sequence[tuple[int, int, int]]:
        """(64, 56, 56), ..., (512, 7, 7) at 224 (Figure 1)."""
        return slot_shapes(self.input_size, self.widths)

    def logits_from(self, slot: int, x: Tensor, images: Tensor) -> Tensor:
        return self.forward_head(self.features_from(slot, x))

    def forward_head(self, features: Tensor) -> Tensor:
        """Feature maps (B, widths[3], H, W) to logits (B, classes), in float32 also under autocast: it is cheap."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.logits.weight.dtype).mean(dim=(2, 3))  # (B, widths[3])
            for layer in self.hidden:
                x = self.dropout(F.relu(layer(x)))
            logits: Tensor = self.logits(x)
        return logits


def slot_shapes(input_size: int, widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(C, H, W) of the feature maps at the five slots: (64, 56, 56), ..., (512, 7, 7) at 224 (Figure 1).

    Args:
        input_size: side of the square images in pixels.
        widths: channels of the four stages.
    """
    channels = (widths[0], *widths)
    return [(c, side, side) for c, side in zip(channels, map_sides(input_size), strict=True)]
