"""The steps of the pipeline, and the only place where library and tracking meet.

A step is a plain function: paths and frozen settings in, files out, a small result back. DVC calls it through the
command line, Kubeflow through a thin component, a test or notebook directly; the same inputs give the same bytes.
`execution` names the pipeline execution in MLflow; None logs nothing. torch is loaded by the steps that compute.
"""

from lhcnet.steps.analyse import analyse
from lhcnet.steps.compare import compare
from lhcnet.steps.compare_standalone import compare_standalone
from lhcnet.steps.control import control
from lhcnet.steps.evaluate import evaluate, evaluate_weights
from lhcnet.steps.insert import insert_lhc
from lhcnet.steps.prepare import prepare
from lhcnet.steps.register import register
from lhcnet.steps.select import select
from lhcnet.steps.train import train

__all__ = [
    "analyse",
    "compare",
    "compare_standalone",
    "control",
    "evaluate",
    "evaluate_weights",
    "insert_lhc",
    "prepare",
    "register",
    "select",
    "train",
]
