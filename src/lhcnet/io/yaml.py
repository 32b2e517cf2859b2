"""Reading YAML of a user, with limits against files that expand to huge values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from lhcnet.errors import LhcnetError

_MAX_VALUES = 100_000  # after aliases are expanded
_TEXT_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML 1.2 mapping. DVC uses the same version, in which 1e-4 is a number.

    Args:
        text: the YAML text.
        where: file that the text comes from, for error messages.

    Raises:
        LhcnetError: the text is not YAML, not a mapping, has too many values, or a key that is not text (`1`, `null`):
            DVC would leave it out without a word. The message is one line.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # ruamel only warns about an anchor that is defined twice
            node = yaml.compose(text)
            if node is not None and _size(node, {}) > _MAX_VALUES:  # aliases of aliases grow exponentially
                raise ValueError(f"more than {_MAX_VALUES:,} values")
            _require_text_keys(node, where, set())
            values = None if node is None else yaml.constructor.construct_document(node)
    except LhcnetError:
        raise
    except Exception as error:  # ruamel does not catch what int, float, datetime and re raise
        raise LhcnetError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise LhcnetError(f"{where}: expected a mapping of sections, not {type(values).__name__}")
    return values


def _require_text_keys(node: Node | None, where: str, known: set[int]) -> None:
    """Raise LhcnetError for a mapping's key that is a number, a date, null, true, or no scalar."""
    if node is None or isinstance(node, ScalarNode) or id(node) in known:
        return
    known.add(id(node))
    pairs = node.value if isinstance(node, MappingNode) else [(None, part) for part in node.value]
    for key, part in pairs:
        if key is not None and key.tag not in _TEXT_KEYS:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise LhcnetError(f"{where}, line {line}: a key is a list or mapping, expected text")
            written = key.value or "(nothing)"
            raise LhcnetError(
                f'{where}, line {line}: the key {written} is not text, expected it in quotes: "{key.value}"'
            )
        _require_text_keys(part, where, known)


def _size(node: Node, known: dict[int, int]) -> int:
    """Number of values of a node after its aliases are expanded; more than the limit if it contains itself."""
    if id(node) not in known:
        known[id(node)] = _MAX_VALUES
        parts = chain(*node.value) if isinstance(node, MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(node, ScalarNode) else sum(_size(part, known) for part in parts))
    return known[id(node)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as text values under dotted names."""
    out: dict[str, str] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return out
