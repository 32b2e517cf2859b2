"""Settings: params.yaml."""

from __future__ import annotations

from pathlib import Path

from support.hostile.choices import Choices, answer, damaged, demand, special

SETTINGS = """\
profile: demo
data: {source: data/raw/faces.zip, split_seed: 3}
network:
  input_size: 32
  widths: [4, 4, 8, 8]
  dropout: 0.4
  weights: none
stage1: {epochs: 3, learning_rate: 1e-4, augmentation: {rotation: 30.0, flip: true}}
seeds: {a: [0, 1], b: 0, c: [1, 2]}
variants:
  one: &one
  - &row {heads: 1, d: 3}
  - *row
  - *row
  - {heads: 1, d: 3, split: grid, norm: both}
  - {attention: se}
  two: *one
standalone: {variant: one}
"""
FRAGMENTS = (
    "", "~", "[]", "{}", "-1", "0", "1e400", "1e-4", ".nan", ".inf", "0x" + "f" * 6000, "9" * 5000, "1000000000", "0o7",
    "yes", "'",
    '"\\0\\x1b[2J\\n"', "a: b: c", "- x", "? [a, b]", "*row", "*one", "&row x", "&row &row", "*nowhere", "<<: *one",
    "2001-12-14t21:59:43.10-05:00",
    "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!!int ''", "!!float ''",
    "!!timestamp x",
    "!!bool x", "!!binary x", "!!set {a, b}", "!!omap [a: 1]", "!!null 1", "!x y", "! ", "!!merge x", "|", ">-\n x",
    "%YAML 1.1", "%YAML 9.9",
    "---", "...", "# c", "\t", "\x85", "\ufeff", "@", "`", "{a: 1, a: 2}", "[1, 2", "}", "1_000", "190:20:30", "0b",
    "0x", "+", "'\n\n'", "=",
)  # fmt: skip


def bomb(c: Choices) -> str:
    """Small text that stands for something large or deep."""
    n, wide = c.pick([3, 9, 30, 200]), c.pick([2, 9])
    kind = c.number(6)
    if kind == 0:
        return "data: " + "[" * 10 ** c.number(6)
    if kind == 1:
        return "data: " + "{a: " * 10 ** c.number(5)
    if kind == 2:
        return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * wide)}]\n" for i in range(1, n))
    if kind == 3:
        return "a0: &a0 {x: 1}\n" + "".join(
            f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * wide)}]}}\n" for i in range(1, n)
        )
    if kind == 4:
        return c.pick(["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "&a {*a : 1}", "&a [*a, *a]"])
    return "\n".join("- " * i + "x" for i in range(1, 50)) + "\nx: " + "y" * 10**6


def settings(c: Choices, folder: Path) -> bool:
    from lhcnet.config import Config, load, parse
    from lhcnet.io.yaml import read_yaml
    from lhcnet.profiles import to_yaml

    lines = SETTINGS.splitlines()
    same = True
    for _ in range(c.number(4)):
        row, kind = c.number(len(lines)), c.number(6)
        head, colon, tail = lines[row].partition(": ")
        same = False
        if kind < 2:
            lines[row] = f"{head}{colon or ': '}{c.pick(FRAGMENTS)}"
        elif kind == 2:
            lines.insert(row, c.pick(FRAGMENTS))
        elif kind == 3:
            del lines[row]
            lines = lines or [""]
        elif kind == 4:
            words = tail.split(" ")
            words[c.number(len(words))] = c.pick(FRAGMENTS)
            lines[row] = f"{head}{colon}{' '.join(words)}"
        else:
            lines[row] = " " * c.number(5) + lines[row].lstrip()
    text = "\n".join(lines)
    if c.one_in(12):
        text, same = c.pick(["", text + "\n"]) + bomb(c), False
    content = text.encode()
    if c.one_in(6):
        content, same = damaged(c, content), False
    path = folder / "in" / "params.yaml"
    path.write_bytes(content)
    same = not special(c, folder / "in") and same
    config = answer(lambda: load(path), "params.yaml")
    if config is None:
        demand(not same, "refused what is right")
        return False
    demand(isinstance(config, Config), "no Config")
    if same or c.one_in(16):
        demand(parse(Config, read_yaml(to_yaml(config), "again"), "again") == config, "not what it says")
    return True
