"""Kubeflow components, one a step: typed inputs and outputs, and a call into `lhcnet.steps`. Nothing else."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = "lhcnet:0.1.0"  # the one image of all components; `pipeline.cluster` replaces it


def component(function: Callable[..., Any]) -> Any:
    """A component that runs in the project's image, which brings kfp and the library along."""
    return dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])(function)
