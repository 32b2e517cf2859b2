"""How a source is read that is not FER2013 itself: names of its classes, sizes of its images, whose labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lhcnet.data.fer2013 import CLASSES, FOLDERS
from lhcnet.validation import folded

if TYPE_CHECKING:
    from lhcnet.config import Data

_OF_FER2013: dict[str, int | None] = {name: label for names in (FOLDERS, CLASSES) for label, name in enumerate(names)}
_OF_FER2013 |= {"disgusted": 1, "fearful": 2, "surprised": 5}
_OF_FER2013 |= {str(label): label for label in range(len(CLASSES))}  # FER2013's numbers


@dataclass(frozen=True)
class Reading:
    """Settings of a source. The defaults are FER2013's.

    Attributes:
        classes: label of each class folder or class name, in lower case; None: its images are left out.
        resize: whether images of other sizes, and in colour, become 48x48 and grey; without it they are refused.
        ferplus: whether the labels are the majority votes of FER+ (`lhcnet.data.ferplus`).
        distribution: whether the votes are kept as well, to train on.
    """

    classes: Mapping[str, int | None] = field(default_factory=lambda: _OF_FER2013)
    resize: bool = False
    ferplus: bool = False
    distribution: bool = False

    @classmethod
    def of(cls, data: Data) -> Reading:
        """The settings `data.classes`, `data.resize` and `data.labels`."""
        known = {name: label for label, name in enumerate(CLASSES)}
        named = {folded(name): known.get(key) for key, names in data.classes.items() for name in names}
        return cls(
            named or _OF_FER2013,
            resize=data.resize is not None,
            ferplus=data.labels != "fer2013",
            distribution=data.labels == "ferplus_distribution",
        )

    @property
    def has_own_classes(self) -> bool:
        """Whether the names are those of `data.classes`."""
        return self.classes is not _OF_FER2013

    @property
    def expected(self) -> str:
        """The names of the classes, for error messages."""
        if not self.has_own_classes:
            return f"{', '.join(FOLDERS)} or 0..6; data.classes gives other names"
        return f"{', '.join(self.classes)}, as data.classes says"
