"""Journals that leave their pod with the facts of a model, where no volume keeps them.

A training that MLflow did not answer hands its journal over; the next step that reads the facts writes it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.tracking.folder import first_entry, pending_journals, running
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.kubeflow import kubeflow_run, pod_name

log = logging.getLogger("lhcnet")
_FOLDER = "journal"


def hand_over_journals(facts: Path) -> None:
    """Copy what MLflow lacks of the steps of this pod into a folder of facts; outside Kubeflow nothing is done."""
    if not kubeflow_run():
        return
    for journal in pending_journals(journal_root()):
        try:
            begin = first_entry(journal)
            if (begin.pod, begin.kubeflow_run) != (pod_name(), kubeflow_run()) or running(journal):
                continue
            shutil.copytree(journal, facts / _FOLDER / journal.name)
        except FileNotFoundError:  # just written by another process
            continue
        except (LhcnetError, OSError) as error:
            log.warning("%s: its record does not leave the pod: %s", journal.name, error)
        else:
            log.warning("%s: MLflow lacks its record, which leaves the pod with the facts of the model", begin.step)


def take_over_journals(facts: Iterable[Path]) -> None:
    """Copy the journals in folders of facts to those of this pod, so that its next step writes them to MLflow."""
    root = journal_root()
    for folder in facts:
        for journal in pending_journals(folder / _FOLDER):
            if (root / journal.name).exists():
                continue
            part = root / f".{journal.name}.part"
            root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(journal, part)
            part.rename(root / journal.name)
