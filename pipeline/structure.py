"""Structural check of a compiled pipeline: what the back end's drivers would refuse, or change, before a task runs.

kfp's compiler accepts pipelines that no back end can run. The rules here are those of `backend/src/v2/driver` in
kubeflow/pipelines: how it resolves the inputs of a task, and which types it lets through.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_spec
from kfp.pipeline_spec import pipeline_spec_pb2 as spec

from pipeline.footprint import value_of

Node = Mapping[str, Any]  # a mapping of the intermediate representation (IR)
# a constant of exactly this text is replaced, on purpose: kfp's placeholders for the run and the task
_PLACEHOLDER = re.compile(
    r"\{\{\$\.pipeline_(job_(name|resource_name|uuid|create_time_utc|schedule_time_utc)|"
    r"task_(name|uuid))\}\}"
)
_FIELD = re.compile(r'parseJson\(string_value\)\["(\w+)"\]')  # kfp's form of `item.name`
_EXPANDED = re.compile(r"(?<!\$)\$\([A-Za-z_][A-Za-z0-9_]*\)")  # Kubernetes puts the value of a variable there
_WORKSPACE = "/kfp-workspace"  # a task with this text among its parameters gets a volume that does not exist
_MAX_ARGUMENT = 120_000  # bytes: all parameters of a task are one argument of its command, at most 128 KiB on Linux
_EXACT = 2**53  # numbers are doubles
_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def structure_problems(ir: Node, platform: Node | None = None) -> list[str]:
    """Check a compiled pipeline.

    Args:
        ir: its first YAML document, the pipeline spec.
        platform: its second one, the settings for Kubernetes; None without one.

    Returns:
        one sentence for each problem; an empty list for a pipeline that a back end accepts.
    """
    executors = ir.get("deploymentSpec", {}).get("executors", {})
    problems = [*_executors(executors), *_platform(platform or {}, executors)]
    for name, parameter in _parameters(ir["root"]).items():
        if "defaultValue" in parameter:
            problems += _literal(f"parameter {name}", parameter["defaultValue"], parameter["parameterType"])
    components = ir.get("components", {})
    defaults = {name: parameter.get("defaultValue") for name, parameter in _parameters(ir["root"]).items()}
    problems += _dag("root", ir["root"], components, defaults)
    labels = {name: component.get("executorLabel") for name, component in components.items() if "dag" not in component}
    for name, label in labels.items():
        if label not in executors:
            problems.append(f"component {name}: executorLabel {label!r} names no executor")
    problems += [f"executor {name}: no component uses it" for name in executors if name not in labels.values()]
    return problems


def _executors(executors: Node) -> Iterator[str]:
    for name, executor in executors.items():
        if why := _unparsable(executor, spec.PipelineDeploymentConfig.ExecutorSpec()):
            yield f"executor {name}: is not an ExecutorSpec: {why}"
        container = executor.get("container", {})
        if "{{" in container.get("image", ""):
            yield f"executor {name}: image {container['image']!r} has braces, which the back end would replace"
        for variable in container.get("env", []):
            text = str(variable.get("value", ""))
            if "{{" in text or _EXPANDED.search(text):
                yield (
                    f"executor {name}: environment variable {variable['name']}: {text!r} would be changed: Argo "
                    "replaces {{...}}, Kubernetes $(NAME); write $$(NAME) for the text itself"
                )


def _platform(platform: Node, executors: Node) -> Iterator[str]:
    if platform and (why := _unparsable(platform, spec.PlatformSpec())):
        yield f"platform document: is not a PlatformSpec: {why}"
    for kind, settings in platform.get("platforms", {}).items():
        for name, executor in settings.get("deploymentSpec", {}).get("executors", {}).items():
            if name not in executors:
                yield f"platform {kind}: {name} names no executor"
            if kind == "kubernetes" and (why := _unparsable(executor, kubernetes_spec.KubernetesExecutorConfig())):
                yield f"platform {kind}: {name} is not a KubernetesExecutorConfig: {why}"


def _unparsable(values: Node, message: Any) -> str:
    try:
        json_format.ParseDict(values, message)
    except json_format.ParseError as error:
        return " ".join(str(error).split())[:200]
    return ""


def _parameters(component: Node) -> dict[str, Any]:
    return dict(component.get("inputDefinitions", {}).get("parameters", {}))


def _artifacts(component: Node, which: str = "inputDefinitions") -> dict[str, Any]:
    return dict(component.get(which, {}).get("artifacts", {}))


def _dag(group: str, component: Node, components: Node, values: Node) -> Iterator[str]:
    """Problems of a group of tasks and of the groups in it. `values` are those of its parameters, where known."""
    for name, artifact in _artifacts(component).items():
        if artifact.get("isArtifactList"):
            yield f"{group}: artifact {name} is a list, of which only one artifact would enter the group"
    tasks = component["dag"].get("tasks", {})
    refs = {name: components.get(task.get("componentRef", {}).get("name")) for name, task in tasks.items()}
    for name, task in tasks.items():
        where = f"{group}: task {name}"
        if (inner := refs[name]) is None:
            yield f"{where}: componentRef {task.get('componentRef', {}).get('name')!r} names no component"
            continue
        for before in task.get("dependentTasks", []):
            if before not in tasks:
                yield f"{where}: dependentTask {before} is no task of {group}"
        inputs = task.get("inputs", {}).get("parameters", {})
        known = {key: value_of(source, values) for key, source in inputs.items()}
        yield from _loop(name, where, task, inner, components, known)
        yield from _task_parameters(where, task, inner, component, refs)
        yield from _task_artifacts(where, task, inner, component, refs)
        if (size := len(json.dumps(known))) > _MAX_ARGUMENT:
            yield f"{where}: its parameters have {size:,} bytes; expected at most {_MAX_ARGUMENT:,}"
        if "dag" in inner:
            yield from _dag(task["componentRef"]["name"], inner, components, known)
    for problem in _outputs(group, component, refs):
        yield f"{group}: {problem}"


def _loop(name: str, where: str, task: Node, inner: Node, components: Node, known: Node) -> Iterator[str]:
    if "artifactIterator" in task:
        yield f"{where}: loops over artifacts, which no back end can do"
    if "parameterIterator" not in task:
        return
    if (shown := task.get("taskInfo", {}).get("name", name)) != name:
        yield f"{where}: the loop is named {shown!r}; back ends before 2.16 do not find its outputs: remove it"
    iterator, types = task["parameterIterator"], _parameters(inner)
    item, items = iterator["itemInput"], iterator["items"]
    if item not in types:
        yield f"{where}: loop item {item} is no input of its component"
    if "raw" in items:
        values, source = json.loads(items["raw"]), "the list"
    else:
        source = items.get("inputParameter", "")
        if source not in known or types.get(source, {}).get("parameterType") != "LIST":
            yield f"{where}: loop over {source}, which is no list among its inputs"
            return
        values = known[source]
    if values == []:
        yield f"{where}: loop over an empty list: the tasks that collect its outputs would fail"
    for value in values or []:
        yield from _literal(f"{where}: item of {source}", value, types.get(item, {}).get("parameterType", ""))
        if isinstance(value, dict):
            yield from _fields(where, item, value, inner, components)


def _fields(where: str, item: str, value: Mapping[str, object], group: Node, components: Node) -> Iterator[str]:
    """Problems of the fields of a loop's item that the tasks in the loop take."""
    for name, task in group.get("dag", {}).get("tasks", {}).items():
        wanted = _parameters(components.get(task.get("componentRef", {}).get("name")) or {})
        for parameter, source in task.get("inputs", {}).get("parameters", {}).items():
            selected = _FIELD.fullmatch(source.get("parameterExpressionSelector", ""))
            if selected is None or source.get("componentInputParameter") != item:
                continue
            if selected[1] not in value:
                yield f"{where}: item of the loop has no {selected[1]!r}, which task {name} takes"
                continue
            expected = wanted.get(parameter, {}).get("parameterType", "")
            yield from _literal(f"{where}: {selected[1]!r} of an item", value[selected[1]], expected)


def _task_parameters(where: str, task: Node, inner: Node, outer: Node, refs: Node) -> Iterator[str]:
    given, wanted = task.get("inputs", {}).get("parameters", {}), _parameters(inner)
    item = task.get("parameterIterator", {}).get("itemInput")
    for name, parameter in wanted.items():
        if name not in given and name != item and "defaultValue" not in parameter and not parameter.get("isOptional"):
            yield f"{where}: parameter {name} has no value"
    for name, source in given.items():
        if name not in wanted:
            yield f"{where}: parameter {name} is no input of its component"
            continue
        expected, found = wanted[name]["parameterType"], ""
        if "componentInputParameter" in source:
            key = source["componentInputParameter"]
            offered = _parameters(outer).get(key)
            if offered is None:
                yield f"{where}: parameter {name} comes from {key}, which is no input of the group"
                continue
            found = offered["parameterType"]
        elif "taskOutputParameter" in source:
            producer, key = (
                source["taskOutputParameter"]["producerTask"],
                source["taskOutputParameter"]["outputParameterKey"],
            )
            offered = ((refs.get(producer) or {}).get("outputDefinitions", {}).get("parameters", {})).get(key)
            if offered is None or producer not in task.get("dependentTasks", []):
                yield f"{where}: parameter {name} comes from {producer}.{key}, which no task before it has"
                continue
            found = offered["parameterType"]
        elif "taskFinalStatus" in source:
            found = "TASK_FINAL_STATUS" if task.get("dependentTasks") else "nothing: no task comes before it"
        else:
            value = source.get("runtimeValue", {}).get("constant")
            if not (isinstance(value, str) and _PLACEHOLDER.fullmatch(value)):
                yield from _literal(f"{where}: parameter {name}", value, expected)
            continue
        if "parameterExpressionSelector" in source:  # a field of the value, parsed out of it
            if found not in ("STRUCT", "LIST"):
                yield f"{where}: parameter {name} is a field of {found}; expected STRUCT"
        elif found != expected:
            yield f"{where}: parameter {name} gets {found}; expected {expected}"


def _task_artifacts(where: str, task: Node, inner: Node, outer: Node, refs: Node) -> Iterator[str]:
    given, wanted = task.get("inputs", {}).get("artifacts", {}), _artifacts(inner)
    for name, artifact in wanted.items():
        if name not in given and not artifact.get("isOptional"):
            yield f"{where}: artifact {name} has no value"
    for name, source in given.items():
        if name not in wanted:
            yield f"{where}: artifact {name} is no input of its component"
            continue
        if "taskOutputArtifact" in source:
            producer, key = (
                source["taskOutputArtifact"]["producerTask"],
                source["taskOutputArtifact"]["outputArtifactKey"],
            )
            offered = _artifacts(refs.get(producer) or {}, "outputDefinitions").get(key)
            if producer not in task.get("dependentTasks", []):
                offered = None
            origin = f"{producer}.{key}"
        else:
            origin = source.get("componentInputArtifact", "")
            offered = _artifacts(outer).get(origin)
        if offered is None:
            yield f"{where}: artifact {name} comes from {origin}, which neither a task before it nor the group has"
            continue
        types = [one.get("artifactType", {}).get("schemaTitle") for one in (offered, wanted[name])]
        if types[1] not in (types[0], "system.Artifact"):
            yield f"{where}: artifact {name} gets {types[0]}; expected {types[1]}"
        lists = [bool(one.get("isArtifactList")) for one in (offered, wanted[name])]
        if lists[0] != lists[1]:
            yield f"{where}: artifact {name} gets {'a list' if lists[0] else 'one artifact'}; expected the other"


def _outputs(group: str, component: Node, refs: Node) -> Iterator[str]:
    outputs = component["dag"].get("outputs", {})
    selectors = [
        (name, selector["producerSubtask"], selector["outputArtifactKey"], "artifacts")
        for name, output in outputs.get("artifacts", {}).items()
        for selector in output.get("artifactSelectors", [])
    ]
    for name, output in outputs.get("parameters", {}).items():
        found = [output["valueFromParameter"]] if "valueFromParameter" in output else []
        found += output.get("valueFromOneof", {}).get("parameterSelectors", [])
        selectors += [(name, one["producerSubtask"], one["outputParameterKey"], "parameters") for one in found]
    for name, producer, key, kind in selectors:
        if key not in (refs.get(producer) or {}).get("outputDefinitions", {}).get(kind, {}):
            yield f"output {name} comes from {producer}.{key}, which no task has"


def _literal(where: str, value: object, parameter_type: str) -> Iterator[str]:
    """Problems of a value that stands in the compiled pipeline."""
    if value is None:
        yield f"{where}: null, which the driver refuses"
        return
    allowed = _TYPES.get(parameter_type, ())
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        yield f"{where}: {reprlib.repr(value)} is not of the type {parameter_type}, which the driver expects"
    if parameter_type == "NUMBER_INTEGER" and isinstance(value, float) and not value.is_integer():
        yield f"{where}: {value!r} is no integer"
    for text in _texts(value):
        if "{{" in text or _WORKSPACE in text:
            shown = reprlib.repr(text)
            yield f"{where}: the back end would replace text in {shown}; expected no {{{{ and no {_WORKSPACE}"
    for number in _numbers(value):
        if abs(number) > _EXACT or number != number:
            yield f"{where}: {number!r} is not exact as a double; expected at most 2^53"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(inner)
