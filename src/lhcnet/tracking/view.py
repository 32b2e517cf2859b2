"""Views of MLflow's run table that answer the paper's questions: columns, groups and charts, as MLflow saves them.

A view is a tag of the experiment, `mlflow.sharedViewState.<key>`; the run page lists it, and a link with
`viewStateShareKey=<key>` opens it. Its value is JSON: name, time and state for MLflow versions that list views, and the
same state uncompressed for those that only follow a link. A version that knows no views ignores the tag.

The experiment and the stand-alone pipeline have a view each, which shows the newest execution. Views of other keys are
left as they are.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from lhcnet.tracking.mlflow_runs import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("lhcnet")

TAG = "mlflow.sharedViewState."
BACKBONE, STANDALONE = "backbone", "standalone"  # values of the parameter `set` beside A, B, C and LHC-NetC
LONGEST = 5000  # characters of a tag's value that every store and version of MLflow takes
SETTINGS = (*(f"lhc{slot}.heads" for slot in range(1, 6)), "lhc1.d", "lhc1.pool", "lhc1.g", "lhc1.kernel")
VAL, TEST, CURVE = "val/accuracy", "test/accuracy", "epoch/val_accuracy"
_DEFLATED = "deflate;"  # how MLflow marks a compressed state


@dataclass(frozen=True)
class View:
    """A view of the runs of one execution.

    Attributes:
        key: of the tag and of the link.
        name: in MLflow's list of views.
        condition: which of the execution's runs it shows, in MLflow's words.
        groups: parameters by which the runs are grouped.
        order: column by which they are sorted, and whether the smallest is first.
        columns: as MLflow names them.
        means: charts show the mean of each group instead of the single runs.
        sections: title, columns and charts of each section.
    """

    key: str
    name: str
    condition: str
    groups: tuple[str, ...]
    order: tuple[str, bool]
    columns: tuple[str, ...]
    means: bool
    sections: tuple[tuple[str, int, tuple[Mapping[str, Any], ...]], ...]

    def state(self, parent: str) -> dict[str, Any]:
        """What MLflow's page keeps of a view.

        Args:
            parent: id of the execution's run.
        """
        mine = [f"lhcnet-{number}" for number in range(len(self.sections))]
        charts = [
            {"uuid": f"{section}-{number}", "metricSectionId": section, "runsCountToCompare": 100, **chart}
            for section, (_, _, cards) in zip(mine, self.sections, strict=True)
            for number, chart in enumerate(cards)
        ]
        shown = [
            {"uuid": id_, "name": title, "display": True, "columns": columns, "isReordered": True}
            for id_, (title, columns, _) in zip(mine, self.sections, strict=True)
        ]
        folded = [  # MLflow adds a chart for every other metric, to the section of its prefix
            {"uuid": f"lhcnet-{name}", "name": name, "display": False, "isReordered": False, "isGenerated": True}
            for name in ("val", "test", "epoch", "time", "Model metrics", "System metrics")
        ]
        key, ascending = self.order
        keys = [{"mode": "param", "groupByData": name} for name in self.groups]
        return {
            "searchFilter": f"tags.`{PARENT_TAG}` = '{parent}' AND {self.condition}",
            "orderByKey": key,
            "orderByAsc": ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "columnOrder": [],
            "columnWidths": {},
            "runsExpanded": {},
            "runsPinned": [],
            "runsHidden": [],
            "runsVisibilityMap": {},
            "runsHiddenMode": "SHOW_ALL",
            "viewMaximized": False,
            "runListHidden": False,
            "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
            "groupsExpanded": {},
            "useGroupedValuesInCharts": self.means,
            "hideEmptyCharts": True,
            "autoRefreshEnabled": True,
            "isAccordionReordered": True,  # else MLflow sorts the sections by name
            "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
            "compareRunCharts": charts,
            "compareRunSections": shown + folded,
        }

    def value(self, parent: str, started: int) -> str:
        """Value of the view's tag.

        Args:
            parent: id of the execution's run.
            started: when that began, in milliseconds.
        """
        state = self.state(parent)
        packed = _DEFLATED + base64.b64encode(zlib.compress(_json(state).encode(), 9)).decode()
        return _json({"name": self.name, "createdAt": started, "updatedAt": started, "state": packed, **state})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _bars(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": metric}


def _points(param: str, metric: str) -> dict[str, Any]:
    """One point a run: MLflow draws boxes on its page Compare alone."""
    return {"type": "SCATTER", "xaxis": {"key": param, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}


def _scores(first: str, second: str) -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": {"key": first, "type": "METRIC"}, "yaxis": {"key": second, "type": "METRIC"}}


def _lines(metric: str) -> dict[str, Any]:
    keys = {"metricKey": metric, "selectedMetricKeys": [metric]}
    return {"type": "LINE", **keys, "lineSmoothness": 0, "scaleType": "linear", "xAxisKey": "step"}


def _parallel(params: Iterable[str], metric: str) -> dict[str, Any]:
    return {"type": "PARALLEL", "selectedParams": list(params), "selectedMetrics": [metric], "showAllRuns": True}


def _params(*names: str) -> tuple[str, ...]:
    return tuple(f"params.`{name}`" for name in names)


_ACCURACIES = (f"metrics.`{VAL}`", f"metrics.`{TEST}`")

EXPERIMENT_VIEW = View(
    key="lhcnet-sets",
    name="LHC-Net: sets A, B, C",
    condition=f"params.`set` != '{BACKBONE}' AND params.`set` != '{STANDALONE}'",
    groups=("set",),
    order=(f"metrics.`{VAL}`", False),
    columns=(*_params("set", "variant", "seed"), "tags.`kept`", *_ACCURACIES),
    means=False,
    sections=(
        ("Which set is better", 2, (_points("set", TEST), _lines(CURVE))),
        ("Which settings of the modules", 1, (_parallel(SETTINGS, TEST),)),
    ),
)
STANDALONE_VIEW = View(
    key="lhcnet-standalone",
    name="LHC-Net: stand-alone",
    condition=f"params.`set` = '{STANDALONE}'",
    groups=("stage", "variant"),
    order=("params.`stage`", True),
    columns=(*_params("variant", "stage", "seed"), *_ACCURACIES),
    means=True,
    sections=(("LHC-Net against ResNet34v2 (none)", 2, (_bars(TEST), _lines(CURVE), _scores(VAL, TEST))),),
)
VIEWS = (EXPERIMENT_VIEW, STANDALONE_VIEW)


def view_of(params: Mapping[str, object]) -> View | None:
    """The view that shows a run with these parameters, or None."""
    name = params.get("set", BACKBONE)
    if name == BACKBONE:
        return None
    return STANDALONE_VIEW if name == STANDALONE else EXPERIMENT_VIEW


def show_execution(client: MlflowClient, experiment: str, params: Mapping[str, object], parent: str) -> None:
    """Let the view of a run show the run's execution, unless it shows one that began later.

    A second time changes nothing. The record is complete without views: if MLflow refuses one, this is a warning.

    Args:
        client: of the store.
        experiment: id of the experiment.
        params: of the run.
        parent: id of the execution's run.
    """
    from mlflow.exceptions import MlflowException

    if (view := view_of(params)) is None:
        return
    try:
        started = client.get_run(parent).info.start_time
        wanted, there = view.value(parent, started), client.get_experiment(experiment).tags.get(TAG + view.key)
        if there != wanted and started >= _started(there):
            client.set_experiment_tag(experiment, TAG + view.key, wanted)
    except MlflowException as error:
        log.warning("the view %r of MLflow's page was not written: %s", view.name, error.error_code)


def _started(value: str | None) -> int:
    """When the execution of a tag's value began; 0 for a value that is not of this module."""
    try:
        return int(json.loads(value or "")["createdAt"])
    except (ValueError, TypeError, KeyError):
        return 0


def links(base: str, experiment: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Addresses of the charts of the views that an experiment has, by the name of the view.

    Args:
        base: address of MLflow's user interface.
        experiment: id of the experiment.
        tags: of the experiment.
    """
    found = {}
    for view in VIEWS:
        if TAG + view.key in tags:
            query = {"workflowType": "machine_learning", "compareRunsMode": "CHART", "viewStateShareKey": view.key}
            found[view.name] = f"{base}/#/experiments/{experiment}/runs?{urlencode(query)}"
    return found
