"""The steps of the pipeline, and the only place where library and tracking meet.

A step is a plain function: paths and frozen settings in, files out, a small result back. DVC calls it through the
command line, Kubeflow through a thin component, a test or notebook directly; the same inputs give the same bytes.
Steps that compute take a `RunContext`. torch is imported only when such a step runs.
"""

from lhcnet.steps import supervised
from lhcnet.steps.analyse import analyse
from lhcnet.steps.audit_data import audit_data
from lhcnet.steps.compare import compare
from lhcnet.steps.compare_standalone import compare_standalone
from lhcnet.steps.context import RunContext, task_settings
from lhcnet.steps.control import control
from lhcnet.steps.evaluate import confusion_matrix, evaluate, evaluate_weights
from lhcnet.steps.finish import finish
from lhcnet.steps.insert import insert_lhc
from lhcnet.steps.prepare import prepare
from lhcnet.steps.register import register
from lhcnet.steps.select import select
from lhcnet.steps.start_weights import start_weights
from lhcnet.steps.task import (
    execution_name_of_task,
    final_status,
    model_metadata,
    model_metrics,
    score_metrics,
    start_task,
)
from lhcnet.steps.train import train_backbone, train_stage, train_standalone
from lhcnet.tracking.handover import hand_over_journals, take_over_journals

__all__ = [
    "RunContext",
    "analyse",
    "audit_data",
    "compare",
    "compare_standalone",
    "confusion_matrix",
    "control",
    "evaluate",
    "evaluate_weights",
    "execution_name_of_task",
    "final_status",
    "finish",
    "hand_over_journals",
    "insert_lhc",
    "model_metadata",
    "model_metrics",
    "prepare",
    "register",
    "score_metrics",
    "select",
    "start_task",
    "start_weights",
    "supervised",
    "take_over_journals",
    "task_settings",
    "train_backbone",
    "train_stage",
    "train_standalone",
]
