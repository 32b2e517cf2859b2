from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lhcnet.config import Minimum
from lhcnet.errors import LhcnetError
from lhcnet.protocol.paper import table_7_row
from lhcnet.protocol.selection import SelectionReport, apply_loss_rule, choose, judge
from lhcnet.saved import Architecture, Metrics, ModelInfo, ModelRecord, Provenance, SavedModel

ARCHITECTURE = Architecture(
    input_size=48, depths=(1, 1, 1, 1), widths=(4, 4, 4, 4), head=(8,), dropout=0.4, bn_momentum=0.1
)


class Unwritten(SavedModel):
    """A model without weights on the disk."""

    def weights_digest(self) -> str:
        return self.id


def record(id_: str, *args: Any, **more: Any) -> ModelRecord:
    return saved(id_, *args, **more).record()


def saved(id_: str, train_loss: float | None = 1.0, val_accuracy: float = 0.5, **more: Any) -> SavedModel:
    set_ = id_.split("/")[0]
    info = ModelInfo(
        architecture=ARCHITECTURE,
        provenance=Provenance(
            id=id_,
            set=set_,
            stage=4,
            seed=0,
            variant=more.get("variant", "v"),
            data=more.get("data", "d"),
            start="none",
        ),
    )
    metrics = Metrics(
        status=more.get("status", "trained"),
        reason=more.get("reason", ""),
        train_loss=train_loss,
        val_loss=more.get("val_loss", 1.0),
        val_accuracy=val_accuracy,
    )
    return Unwritten(Path(id_), info, metrics, ())


START = saved("backbone/stage3", 1.0)


def select(models: list[SavedModel], start: SavedModel, loss_factor: float) -> SelectionReport:
    return choose(judge(models, start, loss_factor), [start], loss_factor)


@pytest.mark.parametrize(("loss", "kept"), [(1.0999, True), (1.10, False), (1.1001, False), (0.2, True), (None, False)])
def test_the_ten_percent_rule_at_its_edge(loss: float | None, kept: bool) -> None:
    assert apply_loss_rule(record("B/v", loss), 1.0, 1.10)[0] is kept


def test_set_a_is_rejected_only_when_it_diverged() -> None:
    assert apply_loss_rule(record("A/seed-0", 5.0), 1.0, 1.10)[0]
    kept, reason = apply_loss_rule(record("A/seed-0", 0.5, status="diverged", reason="loss is not finite"), 1.0, 1.1)
    assert not kept
    assert "loss is not finite" in reason


def test_the_choice_is_the_kept_lhc_model_best_on_validation() -> None:
    models = [
        saved("A/seed-0", 0.9, 0.99),
        saved("B/x", 2.0, 0.95, variant="x"),  # best, but rejected
        saved("B/y", 1.0, 0.70, variant="y"),
        saved("C/y/seed-1", 1.0, 0.72, variant="y"),
    ]
    report = select(models, START, 1.10)
    assert (report.chosen, report.chosen_variant) == ("C/y/seed-1", "y")
    assert report.best == {"A": "A/seed-0", "B": "B/y", "C": "C/y/seed-1"}
    rejected = [e for e in report.entries if not e.kept]
    assert [e.id for e in rejected] == ["B/x"]
    assert rejected[0].reason == "training loss 2.0000 >= limit 1.1000 (1.10 x 1.0000)"
    assert [model.id for model in report.kept] == ["A/seed-0", "B/y", "C/y/seed-1"]
    assert (report.start.id, report.data) == ("backbone/stage3", "d")


def test_ties_go_to_the_lower_validation_loss_and_order_does_not_matter() -> None:
    models = [
        saved("B/a", 1, 0.7, val_loss=0.9),
        saved("B/b", 1, 0.7, val_loss=0.8),
        saved("B/c", 1, 0.7, val_loss=0.8),
    ]
    assert select(models, START, 1.10) == select(models[::-1], START, 1.10)
    assert select(models, START, 1.10).chosen == "B/b"


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([saved("A/seed-0")], "no network with LHC was kept"),
        ([saved("B/x", 9.0)], "B/x: training loss 9.0000"),
        ([saved("B/x"), saved("B/x")], "repeat"),
        ([saved("B/x", data="other")], "one data set"),
    ],
)
def test_what_cannot_be_selected_is_one_sentence(models: list[SavedModel], says: str) -> None:
    with pytest.raises(LhcnetError, match=says):
        select(models, START, 1.10)


def test_table_7_columns() -> None:
    ten = [70.0 + i for i in range(10)]  # best 79
    row = table_7_row(ten)
    assert row == (pytest.approx(77.5), pytest.approx(77.0), pytest.approx(78.5), pytest.approx(78.0), 79.0)
    assert table_7_row([73.0]) == (73.0, None, 73.0, None, 73.0)
    assert table_7_row([]) == (None,) * 5
    assert not any(v is not None and math.isnan(v) for v in row)


def lost(id_: str) -> SavedModel:
    return saved(id_, None, status="out of memory", reason="8 GiB")


def test_a_training_that_ended_early_is_rejected_with_its_reason() -> None:
    report = select([saved("A/seed-0"), saved("B/x"), lost("A/seed-1"), lost("B/y")], START, 1.10)
    assert [entry.id for entry in report.missing] == ["A/seed-1", "B/y"]
    assert {entry.reason for entry in report.missing} == {"out of memory: 8 GiB"}
    again = SelectionReport.model_validate_json(report.model_dump_json())
    assert [entry.record.weights for entry in again.entries] == ["A/seed-0", None, "B/x", None]
    assert (again.chosen, again.best) == ("B/x", {"A": "A/seed-0", "B": "B/x"})


@pytest.mark.parametrize(
    ("minimum", "says"),
    [
        ({}, ""),
        ({"a": 1, "b": 1, "c": 9}, ""),  # no model of set C was handed in
        (
            {"a": 2},
            r"^selection\.minimum\.a: 1 of 2 models of set A were kept, expected at least 2: .*A/seed-1: out",
        ),
        ({"b": 3}, r"^selection\.minimum\.b: 2 of 3 models .* lower selection\.minimum\.b .B/z: training loss 9.0000"),
    ],
)
def test_selection_needs_a_minimum_of_kept_models_of_each_set(minimum: dict[str, int], says: str) -> None:
    entries = judge([saved("A/seed-0"), lost("A/seed-1"), saved("B/x"), saved("B/y"), saved("B/z", 9.0)], START, 1.10)
    if not says:
        assert choose(entries, [START], 1.10, Minimum(**minimum)).chosen == "B/x"
        return
    with pytest.raises(LhcnetError, match=says):
        choose(entries, [START], 1.10, Minimum(**minimum))
