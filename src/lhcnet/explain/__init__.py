"""Why a model answers as it does: class activation, occlusion, and where its attention works in a picture."""

from lhcnet.explain.maps import (
    METHODS,
    Explanation,
    Method,
    available,
    captum_is_installed,
    explain,
    explained,
    require_class,
)
from lhcnet.explain.overlay import overlay

__all__ = [
    "METHODS",
    "Explanation",
    "Method",
    "available",
    "captum_is_installed",
    "explain",
    "explained",
    "overlay",
    "require_class",
]
