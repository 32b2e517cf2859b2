"""The decisions that make an input, ways to alter one that serve several readers, and what every answer must be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from lhcnet.errors import LhcnetError

T = TypeVar("T")


class Wrong(Exception):  # noqa: N818
    """An answer that is neither right nor one clean error."""


class Choices:
    """Decisions read off a string of bytes; all of them are 0, which changes least, once it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, below: int) -> int:
        size = ((below - 1).bit_length() + 7) // 8
        part = self.raw(size)
        return int.from_bytes(part, "little") % below

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def one_in(self, n: int) -> bool:
        return self.number(n) == n - 1

    def raw(self, most: int) -> bytes:
        part = self._data[self._at : self._at + most]
        self._at += most
        return part


def damaged(c: Choices, content: bytes) -> bytes:
    """Flipped, overwritten, put in, cut out, cut off or repeated, up to four times; most structure is at the ends."""
    data = bytearray(content)
    for _ in range(1 + c.number(4)):
        if not data:
            break
        near = min(c.number(256), len(data) - 1)
        at = c.pick([near, len(data) - 1 - near, c.number(len(data))])
        kind, length = c.number(6), 1 + c.number(1 << c.pick([1, 4, 8, 13]))
        if kind == 0:
            data[at] ^= 1 << c.number(8)
        elif kind == 1:
            number = c.pick(INTEGERS) % 2**64
            data[at : at + 8] = number.to_bytes(8, c.pick(["little", "big"]))[: len(data) - at]
        elif kind == 2:
            data[at:at] = c.raw(8) or b"\0"
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


INTEGERS = (0, 1, -1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, 10**9, 10**30, 10**400)


def altered_json(c: Choices, content: bytes) -> bytes:
    """A JSON object with a value replaced, taken away or added; or text that is no such thing."""
    if c.one_in(8):
        return c.pick([
            b"", b"[]", b"null", b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b'"\\ud800"',
            b"{}" * 9,
        ])  # fmt: skip
    if c.one_in(4):
        return damaged(c, content)
    try:
        values: Any = json.loads(content)
    except (ValueError, RecursionError):  # altered before
        return content
    if not values or not isinstance(values, dict):
        return content
    for _ in range(1 + c.number(2)):
        container: Any = values
        key: Any = c.pick(list(container))
        while isinstance(container[key], dict | list) and container[key] and c.number(4):
            container = container[key]
            key = c.pick(list(container) if isinstance(container, dict) else range(len(container)))
        kind = c.number(4)
        if kind == 0 and isinstance(container, dict) and len(container) > 1:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[c.pick(["", "a\nb", "__class__", "x" * 9999, "\ud800"])] = deepcopy(c.pick(JSON_VALUES))
        elif kind == 2 and isinstance(container[key], int | float) and abs(container[key]) < 10**300:
            container[key] += c.pick([1, -1, 0.5, 10**9])
        else:
            container[key] = deepcopy(c.pick([*JSON_VALUES, *INTEGERS]))  # it may be altered too
    return json.dumps(values).encode()


JSON_VALUES = (
    None, True, [], {}, "", "x\ny\x1b[2J", "../../../etc/passwd", "x" * 20_000, 0.5, float("nan"), float("inf"), 1e308,
    [[1] * 9] * 9, [1, 1, 1, 1], [10**9] * 4, [10**6] * 4, {"a": {"b": None}}, "\ud800",
)  # fmt: skip


def special(c: Choices, path: Path) -> bool:
    """Now and then a file that is none: a pipe, a device, a folder, a link into nowhere; or one that is missing."""
    if not c.one_in(24):
        return False
    file = path / c.pick(sorted(p.name for p in path.iterdir()))
    file.unlink()
    kind = c.number(4)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to(c.pick(["/dev/zero", "/nowhere", file.name, "/proc/self/mem"]))
    return True


def answer(call: Callable[[], T], named: str) -> T | None:
    """The value of a call, or None after an LhcnetError: one line that names what was read."""
    try:
        return call()
    except LhcnetError as error:
        text = str(error)
        if not text.isprintable() or len(text) > 4100 or named not in text:
            raise Wrong(f"not one line that names {named}: {text!r}") from error
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise Wrong(f"took all memory: {text}") from error
            cause = cause.__cause__ or cause.__context__
        return None


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)
