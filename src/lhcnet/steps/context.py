"""Run context: the settings of a run that do not describe the experiment itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lhcnet.code_version import execution_name, execution_name_of_task
from lhcnet.config import Checkpoints, Compute, Config, FrozenModel, parse

if TYPE_CHECKING:
    from lhcnet.runtime import Device


class RunContext(FrozenModel):
    """Where a step computes, where it keeps checkpoints, and the execution that it is recorded under.

    Every step that runs a network takes one. Steps that run none (prepare, select, compare, register) take the name of
    the execution alone.

    Args:
        compute: device, precision and threads.
        checkpoints: where an unfinished training is kept; None keeps nothing.
        execution: name of the pipeline execution in MLflow; None logs nothing.
    """

    compute: Compute
    checkpoints: Checkpoints | None = None
    execution: str | None = None

    @classmethod
    def of_config(cls, config: Config) -> RunContext:
        """Context of a command: everything from `params.yaml`."""
        return cls(compute=config.compute, checkpoints=config.checkpoints, execution=execution_name(config))

    @classmethod
    def of_task(cls, settings: Mapping[str, Any]) -> RunContext:
        """Context of a pipeline task: sections from its argument `context`, the execution from the environment.

        Args:
            settings: the sections `compute` and `checkpoints` as plain values, see `task_settings`.

        Raises:
            LhcnetError: a key is unknown, missing or has a wrong value.
        """
        return parse(cls, {**settings, "execution": execution_name_of_task()}, "context")

    def with_device(self, device: str) -> RunContext:
        """The same context on the device `device`, cpu or cuda."""
        compute = parse(Compute, {**self.compute.to_dict(), "device": device}, "--device")
        return self.model_copy(update={"compute": compute})

    def device(self) -> Device:
        """Apply the compute settings to this process and return the device.

        Raises:
            LhcnetError: a GPU is asked for and torch sees none.
        """
        from lhcnet.runtime import open_device

        return open_device(self.compute)


def task_settings(config: Config) -> dict[str, Any]:
    """The argument `context` of a pipeline's tasks. The execution is not in it: it would defeat Kubeflow's cache."""
    return {"compute": config.compute.to_dict(), "checkpoints": config.checkpoints.to_dict()}
