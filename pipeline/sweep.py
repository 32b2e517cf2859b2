"""Several runs that differ in single settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.io.yaml import read_yaml
from lhcnet.profiles import replace_settings

MAX_RUNS = 50


def sweep_of(config: Config, options: Sequence[str]) -> list[tuple[str, Config]]:
    """All combinations of the values of a sweep, checked like a `params.yaml`.

    Args:
        config: the settings that all runs share.
        options: `key=v1,v2` for each key; values are YAML: `seeds.a=[0],[0, 1]`.

    Returns:
        (changes as text, settings) of each run; ("", config) alone without options.

    Raises:
        LhcnetError: an option is not of this form, a key is named twice, a value is not allowed or repeated, or there
            are too many runs.
    """
    axes: dict[str, list[object]] = {}
    for option in options:
        key, equals, text = option.partition("=")
        values = read_yaml(f"value: [{text}]", f"--sweep {option}")["value"] if equals else []
        if not key or not values or None in values:
            raise LhcnetError(f"--sweep {option}: expected key=value1,value2")
        if key in axes:
            raise LhcnetError(f"--sweep {option}: {key} is swept twice")
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            raise LhcnetError(f"--sweep {option}: a value is repeated")
        axes[key] = values
    combinations = list(itertools.islice(itertools.product(*axes.values()), MAX_RUNS + 1))
    if len(combinations) > MAX_RUNS:
        raise LhcnetError(f"--sweep: more than {MAX_RUNS} runs; expected fewer values")
    found = []
    for combination in combinations:
        changes = dict(zip(axes, combination, strict=True))
        label = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in changes.items())
        found.append((label, replace_settings(config, changes, "--sweep") if changes else config))
    return found
