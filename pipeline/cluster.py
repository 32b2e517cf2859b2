"""Settings of a cluster, apart from the experiment: image, resources, where MLflow is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kfp import dsl, kubernetes
from pydantic import Field

from components import IMAGE
from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_text
from lhcnet.io.yaml import read_yaml

_MAX_YAML = 1 << 20  # bytes
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=1000)]  # names of Kubernetes and of images
_NAME_OR_NOTHING = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"  # of an object in Kubernetes
# beyond these numbers kfp's compiler raises, or waits for years
MaxGpus, MaxRetries, MaxParallelism = Field(ge=0, le=1000), Field(ge=0, le=1000), Field(ge=1, le=10_000)


class Cluster(FrozenModel):
    """Settings of a cluster, read from a YAML file. The defaults ask for one GPU for every task that runs a network.

    Args:
        image: image of all tasks.
        gpu: resource name of the accelerator.
        gpus: accelerators for each task that runs a network; 0 asks for none.
        cpu: CPU limit of a task.
        memory: memory limit of a task.
        node_selector: labels of the nodes that GPU tasks run on.
        tolerations: taints of those nodes.
        retries: how often a failed task is retried.
        backoff: pause before the first retry; it doubles with every retry.
        parallelism: how many models of a set are trained at once.
        env: environment variables of all tasks. Their values are written into the compiled file: no secrets here.
        secret: name of a Kubernetes secret whose keys become environment variables.
        secret_keys: the keys of that secret.
        checkpoints: persistent volume claim for checkpoints (ReadWriteMany where tasks run on several nodes). Without
            one, a task that is retried in a new pod starts from the beginning.
        tracking_injected: the back end gives every task its MLflow run.
    """

    image: Word = IMAGE
    gpu: Word = "nvidia.com/gpu"
    gpus: Annotated[int, MaxGpus] = 1
    cpu: Annotated[str, Field(pattern=r"^(0\.[0-9]{0,5}[1-9]|[1-9][0-9]{0,5}(\.[0-9]{1,6})?)m?$")] = "4"
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}[KMGT]i?$")] = "16G"
    node_selector: dict[Word, str] = {}
    tolerations: tuple[Word, ...] = ("nvidia.com/gpu",)
    retries: Annotated[int, MaxRetries] = 2
    backoff: Annotated[str, Field(pattern=r"^[0-9]{1,5}[smh]$")] = "60s"
    parallelism: Annotated[int, MaxParallelism] = 4
    env: dict[EnvironmentName, str] = {}
    secret: Annotated[str, Field(pattern=_NAME_OR_NOTHING)] = ""
    secret_keys: tuple[EnvironmentName, ...] = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    checkpoints: Annotated[str, Field(pattern=_NAME_OR_NOTHING)] = ""
    tracking_injected: bool = False


class Local(Cluster):
    """This machine: kfp's local runner gives no resources."""

    retries: Annotated[int, MaxRetries] = 0
    backoff: str = "1s"
    parallelism: Annotated[int, MaxParallelism] = 2


CHECKPOINTS = "/checkpoints"


def load_cluster(path: Path) -> Cluster:
    """Read cluster settings from a YAML file.

    Raises:
        LhcnetError: the file cannot be read, or a key is unknown or has a wrong value.
    """
    try:
        text = read_text(path, _MAX_YAML)
    except (OSError, UnicodeDecodeError) as error:
        raise LhcnetError(f"{path}: cannot be read as cluster settings: {error}") from None
    return parse(Cluster, read_yaml(text, str(path)), str(path))


def configure_task(task: dsl.PipelineTask, cluster: Cluster, execution: str, *, gpu: bool = False) -> dsl.PipelineTask:
    """Set image, environment, retries and resources of a task.

    Args:
        task: the task, changed in place.
        cluster: settings of the cluster.
        execution: name of the pipeline execution in MLflow, for LHCNET_EXECUTION.
        gpu: whether the task gets the accelerator.

    Returns:
        `task`.
    """
    task.set_container_image(cluster.image)
    for name, value in {**cluster.env, "LHCNET_EXECUTION": execution}.items():
        task.set_env_variable(name, value)
    if cluster.retries:
        task.set_retry(cluster.retries, backoff_duration=cluster.backoff, backoff_factor=2.0)
    if isinstance(cluster, Local):
        return task
    task.set_cpu_limit(cluster.cpu).set_memory_limit(cluster.memory)
    if cluster.checkpoints:
        kubernetes.mount_pvc(task, pvc_name=cluster.checkpoints, mount_path=CHECKPOINTS)
        task.set_env_variable("LHCNET_CHECKPOINTS", CHECKPOINTS)
    if cluster.secret:
        keys = {key: key for key in cluster.secret_keys}
        kubernetes.use_secret_as_env(task, cluster.secret, keys, optional=True)
    if gpu and cluster.gpus:
        task.set_accelerator_type(cluster.gpu).set_accelerator_limit(cluster.gpus)
        for key, value in cluster.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for key in cluster.tolerations:
            kubernetes.add_toleration(task, key=key, operator="Exists", effect="NoSchedule")
    return task
