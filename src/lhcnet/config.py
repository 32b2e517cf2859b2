"""Settings: `params.yaml`, validated into frozen models.

Defaults are the paper's values (Tables 2-6); where the paper gives none, those of the reference implementation. Unknown
keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from lhcnet.config_base import ClassName as ClassName
from lhcnet.config_base import Count as Count
from lhcnet.config_base import Depth as Depth
from lhcnet.config_base import Exclusion as Exclusion
from lhcnet.config_base import Family as Family
from lhcnet.config_base import FolderName as FolderName
from lhcnet.config_base import Fraction as Fraction
from lhcnet.config_base import FrozenModel as FrozenModel
from lhcnet.config_base import InputSize as InputSize
from lhcnet.config_base import Name as Name
from lhcnet.config_base import Needed, Patience, Resize, Seed, SparseModel
from lhcnet.config_network import HIDDEN
from lhcnet.config_network import LHCNET as LHCNET
from lhcnet.config_network import TABLE_2 as TABLE_2
from lhcnet.config_network import Backbone as Backbone
from lhcnet.config_network import BaselineSettings as BaselineSettings
from lhcnet.config_network import Layers as Layers
from lhcnet.config_network import LHCSettings as LHCSettings
from lhcnet.config_network import Modules as Modules
from lhcnet.config_network import Network as Network
from lhcnet.config_network import Variant as Variant
from lhcnet.config_network import module_arguments as module_arguments
from lhcnet.config_training import Augmentation as Augmentation
from lhcnet.config_training import Stage as Stage
from lhcnet.errors import LhcnetError
from lhcnet.estimate import problem, training_problem
from lhcnet.geometry import map_sides, partition_problem
from lhcnet.io.files import read_text
from lhcnet.io.yaml import read_yaml
from lhcnet.validation import SLOTS, first_problem, folded, whole

SCHEMA_VERSION: Literal[1] = 1  # of params.yaml; increased when a key changes its name or meaning
PLAIN = "resnet34v2"  # name of the network without modules, among the names of variants
_MAX_YAML = 1 << 20  # bytes

SetName = Literal["backbone", "A", "B", "C", "control", "standalone"]


class Data(SparseModel):
    """Where FER2013 is, and what is left out of training: `leaks`, `blanks` (`lhcnet.data.exclusion`).

    `validation_fraction` and `split_seed` apply only to copies without the official three-way split. For other data:
    `classes` has the names that each class has there (`left_out`: classes that are not read), instead of FER2013's
    names and numbers; with `resize` images of other sizes, and in colour, become 48x48 and grey; `labels` says whose
    labels FER2013's images get, and whether they are trained on the majority or on the votes (`lhcnet.data.ferplus`).
    """

    newer: ClassVar = frozenset({"exclude", "classes", "resize", "labels"})

    source: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")] = "data/raw/fer2013.zip"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.125
    split_seed: Seed = 0
    exclude: tuple[Exclusion, ...] = ()
    classes: dict[ClassName, Annotated[tuple[FolderName, ...], Field(min_length=1)]] = Field(default={})
    resize: Resize = None
    labels: Literal["fer2013", "ferplus", "ferplus_distribution"] = "fer2013"

    @field_validator("classes")
    @classmethod
    def _names_are_of_one_class(cls, classes: dict[ClassName, tuple[str, ...]]) -> dict[ClassName, tuple[str, ...]]:
        owner: dict[str, str] = {}
        for key, names in classes.items():
            for name in names:
                if (other := owner.setdefault(folded(name), key)) != key:
                    raise ValueError(f"{name} is a name of {other} and of {key}; expected it once")
        if classes and (missing := [name for name in get_args(ClassName) if name not in {*classes, "left_out"}]):
            raise ValueError(f"{', '.join(missing)}: required key is missing")
        return classes

    @field_validator("exclude")
    @classmethod
    def _each_once(cls, kinds: tuple[Exclusion, ...]) -> tuple[Exclusion, ...]:
        return tuple(sorted(set(kinds)))


class Compute(FrozenModel):
    """Device, precision and threads. `cuda` without a GPU is an error; there is no fallback to the CPU.

    `threads` is the number of CPU threads; 0 takes all cores, or as many as the CPU limit of the container allows.
    Results are the same bytes only for the same number. `deterministic` allows only algorithms that sum in a fixed
    order; it matters only on a GPU.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, BeforeValidator(whole), Field(ge=0, le=1024)] = 0
    deterministic: bool = False


class Seeds(FrozenModel):
    """`backbone` is the seed of stages 1-3, `a` and `c` are the seeds of sets A and C, `b` is the one seed of set B."""

    backbone: Seed = 0
    a: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    b: Seed = 0
    c: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)

    @model_validator(mode="after")
    def _distinct(self) -> Seeds:
        for name in ("a", "c"):
            seeds = getattr(self, name)
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"the seeds of set {name.upper()} must differ from each other, not {list(seeds)}")
        if self.b in self.c:
            raise ValueError(f"the seed of set B, {self.b}, repeated in set C would count one model twice")
        return self


class Minimum(FrozenModel):
    """How many models of a set must be kept; with fewer, for example after crashed trainings, selection is an error."""

    a: Needed = 1
    b: Needed = 1
    c: Needed = 0


class Selection(FrozenModel):
    """The 10 % loss rule: a model is kept if its training loss is below `loss_factor` x that of its start."""

    loss_factor: Annotated[float, Field(gt=0)] = 1.10
    minimum: Minimum = Minimum()


class Evaluation(SparseModel):
    """How models are evaluated.

    `tta` selects the kept models that are evaluated with test-time augmentation: all of them, or the best on validation
    of set A and of the sets B and C together. `tta_rotation` is the rotation (radians) of the zoomed views: 0.15 in the
    reference implementation, which the published figures come from; the paper's text says 0.4. `views`: the paper's 60
    views, or those families of them that help each model on validation (`lhcnet.protocol.view_choice`).
    """

    newer: ClassVar = frozenset({"views"})

    tta: Literal["best", "kept"] = "kept"
    tta_rotation: Annotated[float, Field(ge=0, le=3.2)] = 0.15
    views: Literal["paper", "helpful"] = "paper"
    batch_size: Count = 32


class Control(FrozenModel):
    """LHC-NetC: the five control weights of a trained LHC-Net are trained, everything else is frozen.

    `models` selects the LHC-Nets: every kept one (as in the paper's Table 7), the chosen one, or none.
    """

    models: Literal["none", "chosen", "kept"] = "kept"
    training: Stage = Stage(optimizer="adam", learning_rate=1e-4, batch_size=32, patience=1)


class Analysis(FrozenModel):
    """Analyses of the chosen model, on at most `images` validation images."""

    images: Count = 3589


class Standalone(FrozenModel):
    """The stand-alone pipeline: LHC-Net is trained in stages 1-3 and compared with a ResNet34v2 (section 4.2).

    `patience` replaces the patience of stages 1-3, as in the reference implementation; a stage with `patience: none`
    keeps that. All epochs have `network.input_size`: LHC modules fit one size, so `sizes` of a stage do not apply.
    """

    variant: Name = "table2"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    patience: tuple[Patience, Patience, Patience] = (8, 8, 8)


class Checkpoints(FrozenModel):
    """Folder of the checkpoints, and the seconds between two of them. No result depends on these settings.

    The environment variable LHCNET_CHECKPOINTS replaces `folder`, for example by a volume of a cluster.
    """

    folder: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")] = ".lhcnet/checkpoints"
    seconds: Annotated[float, Field(ge=0)] = 300.0

    @property
    def directory(self) -> Path:
        return Path(os.environ.get("LHCNET_CHECKPOINTS") or self.folder)


class Registry(FrozenModel):
    """Name of the registered model in MLflow, and when a new version becomes `champion`, by accuracy on validation.

    It is the champion's at least (`not_worse`), or higher with McNemar's p < 0.05 (`better`); `never`: people decide.
    """

    model: Name = "lhcnet"
    champion: Literal["not_worse", "better", "never"] = "not_worse"


class Config(FrozenModel):
    """All settings: the content of `params.yaml`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    profile: Name = "paper"
    data: Data = Data()
    network: Network = Network()
    compute: Compute = Compute()
    stage1: Stage = Stage(
        optimizer="adam",
        learning_rate=1e-4,
        batch_size=48,
        patience=30,
        augmentation=Augmentation(rotation=30.0, flip=True),
    )
    stage2: Stage = Stage(patience=10, augmentation=Augmentation(rotation=10.0, shift=0.1, zoom=0.1, flip=True))
    stage3: Stage = Stage(patience=5)
    stage4: Stage = Stage(patience=3)
    seeds: Seeds = Seeds()
    variants: Annotated[dict[Name, Modules], Field(min_length=1)] = Field(default_factory=lambda: {"table2": TABLE_2})
    selection: Selection = Selection()
    control: Control = Control()
    evaluation: Evaluation = Evaluation()
    analysis: Analysis = Analysis()
    standalone: Standalone = Standalone()
    checkpoints: Checkpoints = Checkpoints()
    registry: Registry = Registry()

    @property
    def stages(self) -> tuple[Stage, Stage, Stage, Stage]:
        return self.stage1, self.stage2, self.stage3, self.stage4

    @property
    def standalone_stages(self) -> tuple[Stage, ...]:
        """Stages 1-3 with the patience of the stand-alone pipeline, and one size."""
        return tuple(
            stage.model_copy(update={"patience": None if stage.patience is None else patience, "sizes": ()})
            for stage, patience in zip(self.stages, self.standalone.patience, strict=False)
        )

    def variant(self, name: str) -> Variant:
        """The variant of this name; raises LhcnetError if there is none."""
        if name not in self.variants:
            raise LhcnetError(f"variants: there is no variant {name!r}; expected one of {', '.join(self.variants)}")
        return Variant(name=name, modules=self.variants[name])

    @model_validator(mode="after")
    def _heads_fit_maps(self) -> Config:
        for name, modules in self.variants.items():
            if why := self.network.count_problem(modules):
                raise ValueError(f"variants.{name}: {why}")
        if not self.network.is_lhcnet:
            return self  # the sizes of the maps are known when the network is built: `lhcnet check`
        sides = map_sides(self.network.input_size)
        for name, modules in self.variants.items():
            for slot, (module, side) in enumerate(zip(modules, sides, strict=True), 1):
                if not isinstance(module, LHCSettings):
                    continue
                if problem := partition_problem(module.split, module.heads, side, side):
                    size = self.network.input_size
                    raise ValueError(f"variants.{name}: LHC{slot}: {problem} at input size {size}")
        return self

    @model_validator(mode="after")
    def _minimum_is_possible(self) -> Config:
        planned = {"a": len(self.seeds.a), "b": len(self.variants), "c": len(self.seeds.c)}
        for name, n in planned.items():
            if (minimum := getattr(self.selection.minimum, name)) > n:
                raise ValueError(f"selection.minimum.{name}: {minimum}, but set {name.upper()} has only {n} models")
        return self

    @property
    def _named_stages(self) -> dict[str, Stage]:
        return {f"stage{i}": stage for i, stage in enumerate(self.stages, 1)} | {
            "control.training": self.control.training
        }

    @model_validator(mode="after")
    def _networks_take_the_sizes(self) -> Config:
        has_lhc = any(isinstance(row, LHCSettings) for modules in self.variants.values() for row in modules)
        for key, stage in self._named_stages.items():
            if not stage.sizes:
                continue
            if key == "control.training" or (key == "stage4" and has_lhc):
                raise ValueError(f"{key}.sizes: an LHC module fits maps of one size; expected no sizes in {key}")
            if (last := stage.sizes[-1][1]) != (size := self.network.input_size):
                raise ValueError(f"{key}.sizes: the last size is {last}; expected network.input_size: {size}")
        return self

    @model_validator(mode="after")
    def _networks_fit_in_memory(self) -> Config:
        bfloat16 = self.compute.precision == "bfloat16"
        for name, modules in (("network", None), *self.variants.items()):
            sizes, where = self.network.sizes(modules), f"variants.{name}" if modules else name
            if sizes is None:
                continue
            if why := problem(sizes):
                raise ValueError(f"{where}: {why}")
            for key, stage in self._named_stages.items():
                if why := training_problem(
                    sizes,
                    key,
                    batch_size=stage.batch_size,
                    adam=stage.optimizer == "adam",
                    bfloat16=bfloat16,
                    more_copies=stage.more_copies,
                ):
                    raise ValueError(f"{where}: {why}")
        return self

    @model_validator(mode="after")
    def _variant_of_standalone_is_listed(self) -> Config:
        if PLAIN in self.variants:
            raise ValueError(f"variants: {PLAIN} is reserved for the network without modules; expected another name")
        if self.standalone.variant not in self.variants:
            listed = ", ".join(self.variants)
            raise ValueError(f"standalone.variant: {self.standalone.variant!r} is not one of the variants: {listed}")
        return self

    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of all settings that results depend on, as canonical JSON."""
        values = self.model_dump(mode="json", exclude={"schema_version", "checkpoints"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


S = TypeVar("S", bound=FrozenModel)


def parse(section: type[S], values: object, where: str) -> S:
    """Validate plain values (from YAML, JSON or Kubeflow) into a section.

    Raises:
        LhcnetError: unknown key, wrong type or value out of range. The message is one line and names `where`, the file
            or section that the values come from, and the key.
    """
    try:
        # as JSON, because pydantic then accepts lists as tuples although it is strict about types
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problem = re.sub(r"^(variants\.[^.]+)\.([0-4])(?=[.:])", _named_slot, first_problem(error, hidden=HIDDEN))
        raise LhcnetError(f"{where}: {problem}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise LhcnetError(f"{where}: not plain values: {error}") from None


def _named_slot(location: re.Match[str]) -> str:
    return f"{location[1]}.{SLOTS[int(location[2])]}"


def load(path: Path) -> Config:
    """Read a `params.yaml`; raises LhcnetError if it cannot be read or is not valid."""
    try:
        text = read_text(path, _MAX_YAML)
    except FileNotFoundError:
        raise LhcnetError(
            f"{path}: cannot be read as configuration: it does not exist; `lhcnet profile NAME --out {path}` writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LhcnetError(f"{path}: cannot be read as configuration: {error}") from None
    values = read_yaml(text, str(path))
    if (version := values.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
        raise LhcnetError(
            f"{path}: schema_version {version!r} is not supported by this lhcnet (expected {SCHEMA_VERSION}): "
            "write a new file with `lhcnet profile NAME --out params.yaml` and copy your values"
        )
    _require_whole_seeds(values.get("seeds"), path)
    return parse(Config, values, str(path))


def _require_whole_seeds(seeds: object, path: Path) -> None:
    """DVC writes a seed as it stands in params.yaml: 1.0 would train `seed-1.0`, which no step looks for."""
    if not isinstance(seeds, dict):
        return
    for key, value in seeds.items():
        for seed in value if isinstance(value, list) else [value]:
            if isinstance(seed, float):
                raise LhcnetError(f"{path}: seeds.{key}: expected whole numbers without a point, not {seed}")
