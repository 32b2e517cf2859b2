"""The one configuration: `params.yaml`, validated into frozen models.

Every default is the paper's value (Tables 2-6; what the paper leaves open follows the reference
implementation), so the profile `paper` is `Config()` itself and the other profiles say only where they
differ. Unknown keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML

from lhcnet.errors import LhcnetError
from lhcnet.geometry import PartitionName, map_sides, partition_problem
from lhcnet.io.files import read_text
from lhcnet.io.yaml import read_yaml

PLAIN = "resnet34v2"  # the network without modules, where variants are named
PROFILES = ("paper", "cpu", "demo")
PROFILES_FOLDER = Path(__file__).parent / "profiles"
_LONGEST_YAML = 1 << 20  # bytes


def whole(value: object) -> object:
    """Kubeflow hands whole numbers inside a struct over as floats (48.0): take those, and only those, as ints."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(whole), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(whole), Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]  # no dots: DVC reads them as nesting
SetName = Literal["backbone", "A", "B", "C", "control", "standalone"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
InputSize = Annotated[int, BeforeValidator(whole), Field(ge=32, le=1024)]


class FrozenModel(BaseModel):
    """Frozen, strict, and closed to unknown keys. `to_dict` is what travels to other processes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Data(FrozenModel):
    """Where FER2013 is. The two last settings matter only for copies without the official three-way split."""

    source: Annotated[str, Field(min_length=1)] = "data/raw/fer2013.zip"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.125
    split_seed: Seed = 0


class Network(FrozenModel):
    """ResNet34v2 with its head (Figure 1).

    `weights` is the start of the backbone: the word `imagenet` (the file `resnet34_imagenet_1000_no_top.h5`, fetched
    once into a cache), the path of that file, or the word `none` (random, said explicitly).
    """

    input_size: InputSize = 224
    depths: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)
    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    head: tuple[Count, ...] = (4096, 1024)
    dropout: Fraction = 0.4
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01
    weights: Annotated[str, Field(min_length=1)] = "imagenet"


class Compute(FrozenModel):
    """Where and how the arithmetic runs. `cuda` without a GPU is an error, never a silent fallback.

    `threads` is the number of CPU threads, 0 leaves torch's choice (all cores): results are the same bytes only for the
    same number. `deterministic` refuses algorithms whose sums come in another order every time: only a GPU has those.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, BeforeValidator(whole), Field(ge=0)] = 0
    deterministic: bool = False


class Augmentation(FrozenModel):
    """Drawn anew for every image and epoch: rotation in degrees, shift and zoom as fractions (Tables 3 and 4)."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Fraction = 0.0
    zoom: Fraction = 0.0
    flip: bool = False


class Stage(FrozenModel):
    """One training stage (Tables 3-6): cross-entropy, early stopping on validation accuracy."""

    optimizer: Literal["adam", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Annotated[int, BeforeValidator(whole), Field(ge=2)] = 64
    epochs: Count = 300
    patience: Count = 3
    augmentation: Augmentation = Augmentation()


class LHCSettings(FrozenModel):
    """One LHC module, a row of Table 2; the heads must fit the map at its place.

    The last three are what section 5 leaves open, off as in the paper: how the map is cut into heads (`split`),
    BatchNorm before or after LHC (`norm`), a second convolution of size `kernel` before the residual sum.
    """

    heads: Count
    d: Count
    pool: Count = 3
    g: Annotated[float, Field(ge=0)] = 1.0
    kernel: Count = 3
    split: PartitionName = "horizontal"
    norm: Literal["none", "before", "after", "both"] = "none"
    second_conv: bool = False


class BaselineSettings(FrozenModel):
    """Another attention module in the place of LHC, for comparison: Squeeze and Excitation, CBAM or ECA, from timm."""

    attention: Literal["se", "cbam", "eca"]


_TAGS = ("<lhc>", "<other>")  # no key can look like these, so `parse` can take them out of error messages


def _kind(row: object) -> str:
    is_other = "attention" in row if isinstance(row, Mapping) else isinstance(row, BaselineSettings)
    return _TAGS[is_other]


Row = Annotated[
    Annotated[LHCSettings, Tag(_TAGS[0])] | Annotated[BaselineSettings, Tag(_TAGS[1])], Discriminator(_kind)
]
Modules = tuple[Row, Row, Row, Row, Row]

TABLE_2: Modules = (
    LHCSettings(heads=8, d=196),
    LHCSettings(heads=8, d=196),
    LHCSettings(heads=7, d=56),
    LHCSettings(heads=7, d=14),
    LHCSettings(heads=1, d=25),
)


def module_arguments(modules: Modules) -> list[dict[str, Any]]:
    """Plain keyword arguments of the five modules, as :class:`lhcnet.LHCNet` and `insert_modules` take them."""
    return [module.to_dict() for module in modules]


class Variant(FrozenModel):
    """One named setting of the five modules."""

    name: Name
    modules: Modules


class Seeds(FrozenModel):
    """`backbone` drives stages 1-3, `a` and `c` are the seeds of sets A and C, `b` is the one seed of set B."""

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


class Selection(FrozenModel):
    """The 10 % loss rule: a run is kept if its training loss is below `loss_factor` x that of the start."""

    loss_factor: Annotated[float, Field(gt=0)] = 1.10


class Evaluation(FrozenModel):
    """How models are scored.

    `tta_rotation` is the rotation (radians) of the second batch of views: 0.15 in the reference
    implementation, whose figures were published; the paper's text says 0.4. `tta` says which kept models
    get test-time augmentation: all of them, or the best on validation of A and of B u C.
    """

    tta: Literal["best", "kept"] = "kept"
    tta_rotation: Annotated[float, Field(ge=0, le=3.2)] = 0.15
    batch_size: Count = 32


class Control(FrozenModel):
    """LHC-NetC: the five weights of the residual sums, trained from trained LHC-Nets; nothing else moves.

    `models`: from every kept LHC-Net (the paper gives it a row of Table 7), from the chosen one, or from none.
    """

    models: Literal["none", "chosen", "kept"] = "kept"
    training: Stage = Stage(optimizer="adam", learning_rate=1e-4, batch_size=32, patience=1)


class Analysis(FrozenModel):
    """Analyses of the chosen model, on at most this many validation images."""

    images: Count = 3589


class Standalone(FrozenModel):
    """The pipeline of its own in which LHC-Net goes straight through stages 1-3, beside a ResNet34v2 (section 4.2).

    `patience` replaces that of the stages, as in the reference implementation.
    """

    variant: Name = "table2"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    patience: tuple[Count, Count, Count] = (8, 8, 8)


class Checkpoints(FrozenModel):
    """Where an unfinished training leaves what it needs to go on, and how often (seconds). No result depends on it.

    The environment variable LHCNET_CHECKPOINTS, for example a volume of a cluster, takes the place of `folder`.
    """

    folder: Annotated[str, Field(min_length=1)] = ".lhcnet/checkpoints"
    seconds: Annotated[float, Field(ge=0)] = 300.0

    @property
    def directory(self) -> Path:
        return Path(os.environ.get("LHCNET_CHECKPOINTS") or self.folder)


class Registry(FrozenModel):
    """Name of the registered model; the version registered last, new or registered again, is `champion`."""

    model: Name = "lhcnet"


class Config(FrozenModel):
    """All of `params.yaml`."""

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
        """Stages 1-3 with the patience of the stand-alone pipeline."""
        return tuple(
            stage.model_copy(update={"patience": patience})
            for stage, patience in zip(self.stages, self.standalone.patience, strict=False)
        )

    def variant(self, name: str) -> Variant:
        if name not in self.variants:
            raise LhcnetError(f"variants: has no {name!r}; expected one of {', '.join(self.variants)}")
        return Variant(name=name, modules=self.variants[name])

    @model_validator(mode="after")
    def _heads_fit_maps(self) -> Config:
        sides = map_sides(self.network.input_size)
        for name, modules in self.variants.items():
            for place, (module, side) in enumerate(zip(modules, sides, strict=True), 1):
                problem = (
                    partition_problem(module.split, module.heads, side, side) if isinstance(module, LHCSettings) else ""
                )
                if problem:
                    size = self.network.input_size
                    raise ValueError(f"variants.{name}: LHC{place}: {problem} at input size {size}")
        return self

    @model_validator(mode="after")
    def _variant_of_standalone_is_listed(self) -> Config:
        if PLAIN in self.variants:
            raise ValueError(f"variants: {PLAIN} is the name of the network without modules; expected another name")
        if self.standalone.variant not in self.variants:
            listed = ", ".join(self.variants)
            raise ValueError(f"standalone.variant: {self.standalone.variant!r} is not one of the variants: {listed}")
        return self

    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of all settings that results depend on, as canonical JSON."""
        values = self.model_dump(mode="json", exclude={"checkpoints"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as text under dotted names."""
    out: dict[str, str] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return out


S = TypeVar("S", bound=FrozenModel)


def parse(section: type[S], values: object, where: str) -> S:
    """Validate plain values (from YAML, JSON or Kubeflow) into a section; the error names place and key."""
    try:
        # through JSON: strict about types, yet lists become tuples
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part not in _TAGS) or "settings"
        more = error.error_count() - 1
        scalar = isinstance(first["input"], str | int | float) and first["type"] != "value_error"
        got = f", not {first['input']!r}" if scalar and first["type"] != "extra_forbidden" else ""
        message = {"extra_forbidden": "unknown key", "missing": "required key is missing"}.get(
            first["type"], first["msg"].removeprefix("Value error, ")
        )
        others = f" (and {more} more)" if more else ""
        raise LhcnetError(f"{where}: {key}: {message}{got}{others}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise LhcnetError(f"{where}: not plain values: {error}") from None


def load(path: Path) -> Config:
    """Read a `params.yaml`."""
    try:
        text = read_text(path, _LONGEST_YAML)
    except (OSError, UnicodeDecodeError) as error:
        raise LhcnetError(f"{path}: cannot be read as configuration: {error}") from None
    return parse(Config, read_yaml(text, str(path)), str(path))


def profile(name: str, overrides: Mapping[str, object] | None = None) -> Config:
    """A named profile, with single keys replaced: `profile("cpu", {"stage4.patience": 1})`."""
    if name not in PROFILES:
        raise LhcnetError(f"profile {name!r} is unknown: expected one of {', '.join(PROFILES)}")
    values = Config(profile=name).to_dict()
    file = PROFILES_FOLDER / f"{name}.yaml"
    _merge(values, read_yaml(file.read_text(encoding="utf-8"), str(file)))
    for key, value in (overrides or {}).items():
        *folders, last = key.split(".")
        place: Any = values
        for folder in folders:
            place = place.get(folder) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise LhcnetError(f"{key}: unknown key")
        place[last] = value
    return parse(Config, values, f"profile {name}")


def execution_name(config: Config) -> str:
    """Name of a pipeline execution in MLflow, the same for all its steps: profile, and digest of settings and code.

    The environment variable LHCNET_EXECUTION, which a pipeline sets for its tasks, wins.
    """
    if name := os.environ.get("LHCNET_EXECUTION"):
        return name
    return f"{config.profile}-{hashlib.sha256((config.digest() + code_digest()).encode()).hexdigest()[:8]}"


def code_digest() -> str:
    """SHA-256 (hex) of the package's Python files."""
    hashed = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        hashed.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return hashed.hexdigest()


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Sections merge key by key; lists, values and the table of variants are replaced whole."""
    for key, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(key), dict) and key != "variants":
            _merge(values[key], change)
        else:
            values[key] = change


def to_yaml(config: Config) -> str:
    """The whole configuration as a `params.yaml`."""
    yaml = YAML()
    yaml.width = 110
    yaml.default_flow_style = None  # leaves (a seed list, a module) stand on one line
    out = StringIO()
    yaml.dump(config.to_dict(), out)
    return out.getvalue()
