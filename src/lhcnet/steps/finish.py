"""The end of a pipeline execution, whatever its status."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lhcnet.steps.task import execution_name_of_task

log = logging.getLogger("lhcnet")


def finish(status: str, *, failed_task: str = "", error: str = "", links: Mapping[str, str] = {}) -> None:
    """Write the final status of an execution to the log of the task.

    Args:
        status: SUCCEEDED, FAILED, CANCELLED, or UNKNOWN where Kubeflow does not know it.
        failed_task: name of the task that failed, if it is known.
        error: its message.
        links: name -> address of what else shows the execution.
    """
    known = {"failed task": failed_task, "error": error, **links}
    more = "".join(f"; {name}: {value}" for name, value in known.items() if value)
    log.info("execution %s: %s%s", execution_name_of_task(), status, more)
