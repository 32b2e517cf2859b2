"""Named profiles: complete settings for the paper, for two CPU cores (from random or ImageNet weights), and for a demo.

The profile `paper` has the defaults of `lhcnet.config`; the files in this folder list only the differences from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from lhcnet.config import Config, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.yaml import read_yaml
from lhcnet.validation import SLOTS

PROFILES = ("paper", "cpu", "cpu_imagenet", "gpu_modern", "demo")
# Profiles that are faster in bfloat16 where the processor has it. Not `cpu_imagenet`: 118 images per second in bfloat16
# against 203 in float32 (Xeon with AMX, 64 px, batches of 64), because its depthwise convolutions gain nothing.
IN_NATIVE_PRECISION = ("cpu",)


def profile(name: str, overrides: Mapping[str, object] | None = None) -> Config:
    """The settings of a named profile.

    Args:
        name: one of `PROFILES`.
        overrides: single keys to replace, by dotted name: `profile("cpu", {"stage4.patience": 1})`.

    Raises:
        LhcnetError: an unknown profile or key, or a value out of range.
    """
    if name not in PROFILES:
        raise LhcnetError(f"profile {name!r} is unknown: expected one of {', '.join(PROFILES)}")
    values = Config(profile=name).to_dict()
    file = Path(__file__).with_name(f"{name}.yaml")
    _merge(values, read_yaml(file.read_text(encoding="utf-8"), str(file)))
    return _replaced(values, overrides or {}, f"profile {name}")


def with_native_precision(name: str, changes: Mapping[str, object]) -> dict[str, object]:
    """Changes of a profile that give it the precision of this machine's processor, if it gains from that.

    Args:
        name: one of `PROFILES`.
        changes: the user's, by dotted name. A precision or device among them stays as it is.
    """
    if name not in IN_NATIVE_PRECISION or {"compute", "compute.device", "compute.precision"} & set(changes):
        return dict(changes)
    from lhcnet.runtime import native_precision

    return {"compute.precision": native_precision(), **changes}


def replace_settings(config: Config, changes: Mapping[str, object], where: str) -> Config:
    """The settings with single keys replaced, checked like a `params.yaml`.

    Args:
        config: the settings.
        changes: values by dotted name, for example `{"stage4.patience": 1}`.
        where: option or file that the changes come from, for error messages.

    Raises:
        LhcnetError: an unknown key, or a value of the wrong type or out of range.
    """
    return _replaced(config.to_dict(), changes, where)


def parse_change(text: str, option: str = "--set") -> tuple[str, Any]:
    """Read `key=value` of a command line; the value is YAML: `seeds.a=[3, 4]`.

    Raises:
        LhcnetError: there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise LhcnetError(f"{option} {text}: expected key=value")
    return key.strip(), read_yaml(f"value: {value}", f"{option} {text}")["value"]


def _with_slots(values: dict[str, Any]) -> dict[str, Any]:
    """Name the slots of the modules: `variants.table2.lhc3.heads` is a key that can be set, and that DVC compares."""
    variants = {
        name: dict(zip(SLOTS, modules, strict=False))
        if isinstance(modules, list) and 1 <= len(modules) <= len(SLOTS)
        else modules
        for name, modules in values["variants"].items()
    }
    return values | {"variants": variants}


def _replaced(values: dict[str, Any], changes: Mapping[str, object], where: str) -> Config:
    values = _with_slots(values)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise LhcnetError(f"{where}: {key}: unknown key")
        section[last] = value
    return parse(Config, values, where)


def to_yaml(config: Config) -> str:
    """The settings as the text of a complete `params.yaml`."""
    yaml = YAML()
    yaml.width = 4096  # no line is broken, however long a network's settings are
    yaml.default_flow_style = None  # innermost lists and mappings (seeds, a module) on one line
    out = StringIO()
    yaml.dump(_quoted(_with_slots(config.to_dict())), out)
    return out.getvalue()


def _quoted(value: Any) -> Any:
    """Quote texts with a colon: DVC's reader refuses `{backbone: timm:resnet18}`."""
    if isinstance(value, dict):
        quoted = CommentedMap({key: _quoted(part) for key, part in value.items()})
        if not any(isinstance(part, dict | list | tuple) for part in value.values()):
            quoted.fa.set_flow_style()  # ruamel breaks the line of a mapping that has quotes
        return quoted
    if isinstance(value, list | tuple):
        return [_quoted(part) for part in value]
    return SingleQuotedScalarString(value) if isinstance(value, str) and ":" in value else value


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Update sections key by key, in place; lists, values and the table of variants are replaced as a whole."""
    for key, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(key), dict) and key != "variants":
            _merge(values[key], change)
        else:
            values[key] = change
