"""Kubeflow components, one for each step: typed inputs and outputs, and a call into `lhcnet.steps`. Nothing else.

kfp copies the source of the decorated function alone into the pipeline, so a component imports in its body. The
descriptions of its arguments appear in the Kubeflow UI.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = "lhcnet:0.1.0"  # the image of all components; `pipeline.cluster` replaces it


def component(function: Callable[..., Any]) -> Any:
    """Decorate a component that runs in the project's image, which contains kfp and the library."""
    return dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])(function)
