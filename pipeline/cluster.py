"""Settings of a cluster, apart from the experiment: image, resources, volumes, limits, where MLflow is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from kfp import dsl, kubernetes
from kfp.dsl.structures import convert_duration_to_seconds
from kubernetes.utils.quantity import parse_quantity
from pydantic import Field, field_validator, model_validator

from components import IMAGE
from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_text
from lhcnet.io.yaml import read_yaml

MINIMUM_BACK_END = (2, 14)  # older ones hand only the first artifact of a list to a task
CHECKPOINTS, SCRATCH = "/checkpoints", "/scratch"
EXECUTION_VARIABLE, RUN_VARIABLE, TIME_LIMIT_VARIABLE = "LHCNET_EXECUTION", "LHCNET_KUBEFLOW_RUN", "LHCNET_TIME_LIMIT"
IMAGE_VARIABLE = "LHCNET_IMAGE"
RUN_LABEL = "metadata.labels['pipeline/runid']"
_MARGIN = 3600  # seconds for moving models and writing the record, beside the training
_MAX_YAML = 1 << 20  # bytes
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=1000)]  # names of Kubernetes and of images
_NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"  # of an object in Kubernetes
ObjectName = Annotated[str, Field(pattern=rf"^{_NAME}$")]
ObjectNameOrNothing = Annotated[str, Field(pattern=rf"^({_NAME})?$")]
Cpu = Annotated[str, Field(pattern=r"^((0\.[0-9]{0,5}[1-9]|[1-9][0-9]{0,5}(\.[0-9]{1,6})?)m?)?$")]
Bytes = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,6}[KMGT]i?)?$")]
Duration = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}[smhd])?$")]  # "" is none
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# beyond these numbers kfp's compiler raises, or waits for years
MaxGpus, MaxRetries, MaxBudget = Field(ge=0, le=1000), Field(ge=0, le=1000), Field(ge=1, le=10_000)

Step = Literal[
    "prepare",
    "start_weights",
    "train",  # all trainings: stages 1-4
    "insert",
    "select",
    "control",
    "evaluate",
    "analyse",
    "compare",
    "compare_standalone",
    "register",
    "finish",
]
STEPS: tuple[Step, ...] = get_args(Step)
TRAINING_STEPS = ("train", "control")  # they obey LHCNET_TIME_LIMIT and resume from checkpoints
NETWORK_STEPS = (*TRAINING_STEPS, "evaluate", "analyse", "compare_standalone")


# what an MLflow server, an S3 store and a source behind a token need; a key that the secret lacks stays unset
SECRET_KEYS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "MLFLOW_S3_ENDPOINT_URL",
    "LHCNET_SOURCE_TOKEN",
)


class Resources(FrozenModel):
    """Limits and requests of the tasks of a step, as Kubernetes writes them. "" takes the default of the step.

    Args:
        cpu: CPU limit; a step uses as many threads.
        memory: memory limit.
        cpu_request: CPU that the node must have free.
        memory_request: memory that the node must have free.
    """

    cpu: Cpu = ""
    memory: Bytes = ""
    cpu_request: Cpu = ""
    memory_request: Bytes = ""

    @model_validator(mode="after")
    def _requests_are_below_limits(self) -> Resources:
        for name in ("cpu", "memory"):
            limit, request = getattr(self, name), getattr(self, f"{name}_request")
            if limit and request and parse_quantity(request) > parse_quantity(limit):
                raise ValueError(f"{name}_request: {request} is more than the limit {name}: {limit}")
        return self


_SMALL = Resources(cpu="1", memory="2Gi", cpu_request="250m", memory_request="512Mi")
_LARGE = Resources(cpu="2", memory="8Gi", cpu_request="1", memory_request="2Gi")
# measured: docs/kubeflow-reference.md, "What each step needs"
DEFAULT_RESOURCES: dict[Step, Resources] = {
    **{step: _LARGE if step in NETWORK_STEPS else _SMALL for step in STEPS},
    "start_weights": _SMALL.model_copy(update={"memory_request": "1Gi"}),  # it builds the network
    "compare": _SMALL.model_copy(update={"memory_request": "1Gi"}),  # it draws the figures
}


class Cluster(FrozenModel):
    """Settings of a cluster, read from a YAML file. The defaults ask for one GPU for every task that runs a network.

    Args:
        image: image of all tasks.
        gpu: resource name of the accelerator.
        gpus: accelerators for each task that runs a network; 0 asks for none.
        resources: limits and requests by step, where they differ from the defaults.
        shm: size of /dev/shm in tasks that run a network; "" keeps the 64 MB of the container engine.
        budget: how many models are trained at the same time, over all loops; at least one in each loop.
        node_selector: labels of the nodes that GPU tasks run on.
        tolerations: taints of those nodes.
        node_affinity: for all tasks: label of a node -> values, one of which it must have.
        labels: labels of all pods, for example of a queue.
        pull_secrets: Kubernetes secrets for the registry of the image.
        service_account: of the run; "" takes the one of the installation.
        run_as_user: user id of the tasks. None takes the one of the installation, or of the image.
        run_as_group: group id of the tasks.
        retries: how often a failed task is retried.
        backoff: pause before the first retry; it doubles with every retry.
        retry_window: time after the first attempt in which a task is retried. Longer than the longest training.
        time_limits: time limits by step. A training that exceeds its limit ends with the status "time limit".
        deadline: time limit of the whole run, waiting included.
        env: environment variables of all tasks. Their values are written into the compiled file: no secrets here.
        secret: name of a Kubernetes secret whose keys become environment variables.
        secret_keys: the keys of that secret. A variable in `env` takes the place of the key of its name.
        checkpoints: persistent volume claim for checkpoints (ReadWriteMany where tasks run on several nodes). Without
            one, a task that is retried in a new pod starts from the beginning.
        tracking_injected: the back end gives every task its MLflow run.
    """

    image: Word = IMAGE
    gpu: Word = "nvidia.com/gpu"
    gpus: Annotated[int, MaxGpus] = 1
    resources: dict[Step, Resources] = {}
    shm: Bytes = ""
    budget: Annotated[int, MaxBudget] = 4
    node_selector: dict[Word, str] = {}
    tolerations: tuple[Word, ...] = ("nvidia.com/gpu",)
    node_affinity: dict[Word, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    labels: dict[Word, str] = {}
    pull_secrets: tuple[ObjectName, ...] = ()
    service_account: ObjectNameOrNothing = ""
    run_as_user: UserId | None = None
    run_as_group: UserId | None = None
    retries: Annotated[int, MaxRetries] = 2
    backoff: Annotated[str, Field(pattern=r"^[0-9]{1,5}[smh]$")] = "60s"
    retry_window: Annotated[Duration, Field(min_length=1)] = "30d"
    time_limits: dict[Step, Duration] = {}
    deadline: Duration = ""
    env: dict[EnvironmentName, str] = {}
    secret: ObjectNameOrNothing = ""
    secret_keys: tuple[EnvironmentName, ...] = SECRET_KEYS
    checkpoints: ObjectNameOrNothing = ""
    tracking_injected: bool = False

    @field_validator("env")
    @classmethod
    def _variables_of_the_pipeline(cls, env: dict[str, str]) -> dict[str, str]:
        for name in (EXECUTION_VARIABLE, RUN_VARIABLE, TIME_LIMIT_VARIABLE, IMAGE_VARIABLE):
            if name in env:
                raise ValueError(f"{name} is set by the pipeline itself; remove it")
        return env

    def resources_of(self, step: Step) -> Resources:
        """Resources of the tasks of a step: the settings, with the default of the step where they say nothing.

        A limit below the default request lowers the request too.
        """
        default, given = DEFAULT_RESOURCES[step].to_dict(), self.resources.get(step, Resources()).to_dict()
        merged = default | {key: value for key, value in given.items() if value}
        for name in ("cpu", "memory"):
            limit, request = merged[name], merged[f"{name}_request"]
            if parse_quantity(request) > parse_quantity(limit):
                if given[f"{name}_request"]:  # without a limit of its own
                    merged[name] = request
                else:
                    merged[f"{name}_request"] = limit
        return Resources(**merged)

    def time_limit(self, step: Step) -> int:
        """Time limit of a step in seconds; 0 without one."""
        return seconds(self.time_limits.get(step, ""))

    def shares(self, a: int, other: int) -> tuple[int, int]:
        """Split the budget between set A and the sets B and C, one of which is trained at the same time as A.

        Args:
            a: number of models of set A.
            other: number of models of the larger one of the sets B and C.

        Returns:
            how many models of A, and of B or C, are trained at once. Each is at least 1.
        """
        share = min(max(1, round(self.budget * a / max(1, a + other))), max(1, self.budget - 1))
        return share, max(1, self.budget - share)


class Local(Cluster):
    """This machine: kfp's local runner gives no resources."""

    retries: Annotated[int, MaxRetries] = 0
    backoff: str = "1s"


def step_of(component: str) -> Step:
    """The step whose settings a component uses: `train_backbone` and `train_best` are trainings, for example.

    Raises:
        ValueError: no step has such a component.
    """
    name = component.replace("-", "_")
    for step in sorted(STEPS, key=len, reverse=True):
        if name == step or name.startswith(f"{step}_"):
            return step
    if name == "best_of_b":
        return "select"
    raise ValueError(f"{component}: no step of this name; expected one of {', '.join(STEPS)}")


def seconds(duration: str) -> int:
    """A duration such as 90s, 15m, 12h or 2d in seconds; 0 for ""."""
    return convert_duration_to_seconds(duration) if duration else 0


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


def pipeline_config(cluster: Cluster) -> dsl.PipelineConfig | None:
    """Settings of the whole run: its deadline. None without one."""
    if isinstance(cluster, Local) or not cluster.deadline:
        return None
    return dsl.PipelineConfig(active_deadline_seconds=seconds(cluster.deadline))


def back_end_needed(cluster: Cluster) -> tuple[int, int]:
    """(major, minor) version of the oldest Kubeflow Pipelines back end that obeys these settings."""
    if cluster.deadline:
        return (2, 17)
    return (2, 16) if cluster.run_as_user is not None or cluster.run_as_group is not None else MINIMUM_BACK_END


def configure_task(
    task: dsl.PipelineTask, cluster: Cluster, execution: str, *, step: str = "", gpu: bool = False
) -> dsl.PipelineTask:
    """Set image, environment, retries, resources and placement of a task.

    Args:
        task: the task, changed in place.
        cluster: settings of the cluster.
        execution: name of the pipeline execution in MLflow, for LHCNET_EXECUTION.
        step: name of the step or of its component, for example "train" or "train_backbone"; default: of the task.
        gpu: whether the task gets the accelerator.

    Returns:
        `task`.
    """
    name = step_of(step or task.name)
    task.set_container_image(cluster.image)
    environment = {} if isinstance(cluster, Local) else _writable_folders(task, cluster)
    environment |= {**cluster.env, EXECUTION_VARIABLE: execution}
    if name in TRAINING_STEPS and (limit := cluster.time_limit(name)):
        environment[TIME_LIMIT_VARIABLE] = str(limit)
    for variable, value in environment.items():
        task.set_env_variable(variable, value)
    if cluster.retries:
        # by default Argo counts an hour from the start of the first attempt, and does not retry after that
        window = f"{seconds(cluster.retry_window)}s"
        task.set_retry(cluster.retries, cluster.backoff, backoff_factor=2.0, backoff_max_duration=window)
    if not isinstance(cluster, Local):
        kubernetes.use_field_path_as_env(task, RUN_VARIABLE, RUN_LABEL)
        _resources(task, cluster, name, gpu=gpu)
        _identity(task, cluster)
        _placement(task, cluster, gpu=gpu)
    return task


def _writable_folders(task: dsl.PipelineTask, cluster: Cluster) -> dict[str, str]:
    """Mount the volumes of a task. The root file system may be read-only, so all that is written lies on them.

    Returns:
        the environment variables that name them, and the image.
    """
    kubernetes.empty_dir_mount(task, "scratch", SCRATCH)
    root = SCRATCH
    if cluster.checkpoints:
        kubernetes.mount_pvc(task, pvc_name=cluster.checkpoints, mount_path=CHECKPOINTS)
        root = CHECKPOINTS
    return {
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,  # kfp's command calls mktemp before anything could make a folder
        "LHCNET_CHECKPOINTS": CHECKPOINTS if cluster.checkpoints else f"{SCRATCH}/checkpoints",
        "LHCNET_JOURNAL": f"{root}/journal",
        IMAGE_VARIABLE: cluster.image,  # for the record
    }


def _resources(task: dsl.PipelineTask, cluster: Cluster, step: Step, *, gpu: bool) -> None:
    wanted = cluster.resources_of(step)
    task.set_cpu_limit(wanted.cpu).set_memory_limit(wanted.memory)
    task.set_cpu_request(wanted.cpu_request).set_memory_request(wanted.memory_request)
    if gpu and cluster.gpus:
        task.set_accelerator_type(cluster.gpu).set_accelerator_limit(cluster.gpus)
    if cluster.shm and step in NETWORK_STEPS:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=cluster.shm)
    if limit := cluster.time_limit(step):
        # a training ends itself at its limit; this ends a pod that hangs elsewhere
        kubernetes.set_timeout(task, limit + _MARGIN if step in TRAINING_STEPS else limit)


def _identity(task: dsl.PipelineTask, cluster: Cluster) -> None:
    if cluster.secret:
        # a variable with a value and a key of a secret makes a pod that Kubernetes refuses
        keys = {key: key for key in cluster.secret_keys if key not in cluster.env}
        kubernetes.use_secret_as_env(task, cluster.secret, keys, optional=True)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    if cluster.run_as_user is not None or cluster.run_as_group is not None:
        root = True if cluster.run_as_user else None  # user 0 is root
        kubernetes.set_security_context(task, cluster.run_as_user, cluster.run_as_group, run_as_non_root=root)


def _placement(task: dsl.PipelineTask, cluster: Cluster, *, gpu: bool) -> None:
    for key, value in cluster.labels.items():
        kubernetes.add_pod_label(task, key, value)
    if cluster.node_affinity:
        wanted = [
            {"key": key, "operator": "In", "values": list(values)} for key, values in cluster.node_affinity.items()
        ]
        kubernetes.add_node_affinity(task, match_expressions=wanted)
    if gpu and cluster.gpus:
        for key, value in cluster.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for key in cluster.tolerations:
            kubernetes.add_toleration(task, key=key, operator="Exists", effect="NoSchedule")
