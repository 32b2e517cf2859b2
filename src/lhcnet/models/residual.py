"""What stands in an attention slot: LHC with its residual sum, or a baseline attention module, made from settings."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lhcnet.models.baseline_attention import baseline_attention
from lhcnet.models.initialisation import Conv2d
from lhcnet.models.lhc import LHC, crop_to_same
from lhcnet.models.resnetv2 import BN_EPS

ModuleSettings = Mapping[str, int | float | str | bool]
"""Keyword arguments of one module: those of `LHC` (without the sizes) and `norm` and `second_conv` of
`ResidualLHC`; or `attention` alone, the name of a baseline (`se`, `cbam`, `eca`)."""

NORMS = ("none", "before", "after", "both")
NOT_SETTINGS = {"bn_momentum", "generator"}


class ResidualLHC(nn.Module):
    """x + LHC(x), or x + (1 + tanh(w)) * LHC(x) with one trainable number w (LHC-NetC).

    The options `norm` and `second_conv` are left open by section 5 of the paper. With all of them the module
    computes x + norm(conv(LHC(norm(x)))).

    Args:
        lhc: the LHC module.
        w: initial value of w, or None for the plain sum.
        norm: where BatchNorm is added: `none` (the paper), `before` LHC, `after` it, or `both`.
        second_conv: whether a convolution of LHC's kernel size follows LHC.
        bn_momentum: momentum of these BatchNorms, as in `lhcnet.models.resnetv2.ResNetV2`.
        generator: initialises the second convolution; None draws from torch's global generator.

    Raises:
        ValueError: an option has another value.
    """

    def __init__(
        self,
        lhc: LHC,
        w: float | None = None,
        *,
        norm: Literal["none", "before", "after", "both"] = "none",
        second_conv: bool = False,
        bn_momentum: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} must be one of {', '.join(NORMS)}")
        if not isinstance(second_conv, bool):
            raise ValueError(f"second_conv={second_conv!r} must be true or false")
        C, s = lhc.channels, lhc.kernel
        before, after = norm in ("before", "both"), norm in ("after", "both")
        self.norm1 = nn.BatchNorm2d(C, eps=BN_EPS, momentum=bn_momentum) if before else None
        self.lhc = lhc
        self.conv2 = Conv2d(C, C, s, padding=s // 2) if second_conv else None
        self.norm2 = nn.BatchNorm2d(C, eps=BN_EPS, momentum=bn_momentum) if after else None
        self.w = None if w is None else nn.Parameter(lhc.w1.new_tensor(w))
        self._reset_convolution(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise LHC, then the norms and the second convolution; w keeps its value.

        LHC draws first, so its weights do not depend on the options.
        """
        self.lhc.reset_parameters(generator)
        for norm in (self.norm1, self.norm2):
            if norm is not None:
                norm.reset_parameters()
        self._reset_convolution(generator)

    def _reset_convolution(self, generator: torch.Generator | None) -> None:
        if self.conv2 is not None:
            nn.init.xavier_uniform_(self.conv2.weight, generator=generator)
            if self.conv2.bias is not None:
                nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in and out."""
        y = self.branch(x)
        if self.w is not None:
            y = y * (1 + self.w.tanh()).to(y.dtype)
        return x + y

    def branch(self, x: Tensor) -> Tensor:
        """The summand that is added to x, before it is multiplied by 1 + tanh(w): (B, C, H, W) in and out."""
        y: Tensor = self.lhc(x if self.norm1 is None else self.norm1(x))
        if self.conv2 is not None:
            y = crop_to_same(self.conv2(y), self.lhc.kernel)
        return y if self.norm2 is None else self.norm2(y)


def attention_module(
    settings: ModuleSettings,
    shape: tuple[int, int, int],
    slot: str,
    *,
    bn_momentum: float = 0.01,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A new attention module for one slot.

    Args:
        settings: keyword arguments of the module, one row of Table 2.
        shape: (C, H, W) of the feature maps.
        slot: name of the slot, for error messages.
        bn_momentum: momentum of its BatchNorms.
        generator: initialises the weights; None draws from torch's global generator.

    Raises:
        ValueError: unknown or missing key, or a value out of range; the message begins with the slot.
        LhcnetError: a baseline is asked for and timm is not installed.
    """
    try:
        if "attention" in settings:
            _require_keys(settings, {"attention": True})
            return baseline_attention(channels=shape[0], generator=generator, **_any(settings))
        lhc_keys, residual_keys = _setting_keys(LHC), _setting_keys(ResidualLHC)
        _require_keys(settings, lhc_keys | residual_keys)
        of_lhc, of_residual = (
            {key: value for key, value in settings.items() if key in keys} for keys in (lhc_keys, residual_keys)
        )
        lhc = LHC(*shape, generator=generator, **_any(of_lhc))
        return ResidualLHC(lhc, bn_momentum=bn_momentum, generator=generator, **_any(of_residual))
    except ValueError as error:
        raise ValueError(f"{slot}: {error}") from None


def _setting_keys(constructor: type[nn.Module]) -> dict[str, bool]:
    """Keyword-only arguments of a constructor that are settings, and whether each is required."""
    parameters = inspect.signature(constructor).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in NOT_SETTINGS}


def _require_keys(settings: ModuleSettings, keys: Mapping[str, bool]) -> None:
    for key in settings:
        if key not in keys:
            raise ValueError(f"{key}: unknown key")
    for key, required in keys.items():
        if required and key not in settings:
            raise ValueError(f"{key}: required key is missing")


def _any(settings: ModuleSettings) -> dict[str, Any]:
    """Keyword arguments whose types the constructor checks."""
    return dict(settings)
