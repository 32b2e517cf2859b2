from kfp import dsl

from components import component


@component
def finish(status: dsl.PipelineTaskFinalStatus):
    """Close the record of the execution with its true status. Runs at the end of every run, a failed one too.

    Args:
        status: State of the pipeline's body. A back end says neither which task failed nor why.
    """
    from lhcnet import steps

    steps.start_task()
    steps.finish(
        steps.final_status(status.state),
        error=status.error_message or "",
        links={"kubeflow_job": status.pipeline_job_resource_name},
    )
