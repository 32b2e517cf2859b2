"""YAML of a user, read with bounds."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from lhcnet.errors import LhcnetError

_MOST_VALUES = 100_000  # once aliases are expanded


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """YAML 1.2, the dialect DVC reads (there, 1e-4 is a number)."""
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # ruamel only warns of an anchor that stands twice
            node = yaml.compose(text)
            if node is not None and _size(node, {}) > _MOST_VALUES:  # aliases of aliases
                raise ValueError(f"more than {_MOST_VALUES:,} values")
            values = None if node is None else yaml.constructor.construct_document(node)
    except Exception as error:  # ruamel's constructors let through whatever int, float, datetime and re raise
        raise LhcnetError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise LhcnetError(f"{where}: expected a mapping of sections, not {type(values).__name__}")
    return values


def _size(node: Node, known: dict[int, int]) -> int:
    """How many values a node stands for once its aliases are written out; without end if it holds itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES
        parts = chain(*node.value) if isinstance(node, MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(node, ScalarNode) else sum(_size(part, known) for part in parts))
    return known[id(node)]
