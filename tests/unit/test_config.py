from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from dvc.utils.serialize import loads_yaml

from lhcnet import config
from lhcnet.code_version import execution_name
from lhcnet.errors import LhcnetError
from lhcnet.profiles import PROFILES, profile, to_yaml

ROOT = Path(__file__).parents[2]


def test_params_yaml_is_the_paper() -> None:
    assert config.load(ROOT / "params.yaml") == profile("paper")


def test_paper_profile_holds_tables_2_to_6() -> None:
    paper = profile("paper")
    rows = [(m.heads, m.d, m.pool, m.g, m.kernel) for m in paper.variants["table2"]]
    assert rows == [(8, 196, 3, 1, 3), (8, 196, 3, 1, 3), (7, 56, 3, 1, 3), (7, 14, 3, 1, 3), (1, 25, 3, 1, 3)]
    stages = [paper.stage1, paper.stage2, paper.stage3, paper.stage4]
    assert [(s.optimizer, s.learning_rate, s.batch_size, s.patience) for s in stages] == [
        ("adam", 1e-4, 48, 30),
        ("sgd", 0.01, 64, 10),
        ("sgd", 0.01, 64, 5),
        ("sgd", 0.01, 64, 3),
    ]
    assert [(s.augmentation.rotation, s.augmentation.shift, s.augmentation.zoom) for s in stages] == [
        (30, 0, 0),
        (10, 0.1, 0.1),
        (0, 0, 0),
        (0, 0, 0),
    ]
    assert paper.selection.loss_factor == 1.10
    assert paper.network.weights != "none"


@pytest.mark.parametrize("name", PROFILES)
def test_a_printed_profile_reads_back_the_same(name: str, tmp_path: Path) -> None:
    wanted = profile(name)
    file = tmp_path / "params.yaml"
    file.write_text(to_yaml(wanted))
    assert config.load(file) == wanted
    assert wanted.profile == name


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"stage4.patience": -1}, "stage4.patience", "greater than or equal to 1"),
        ({"stage4.patienc": 3}, "stage4.patienc", "unknown key"),
        ({"nope": {}}, "nope", "unknown key"),
        ({"nope.deeper": 1}, "nope.deeper", "unknown key"),
        ({"stage1.learning_rate": "0.1"}, "stage1.learning_rate", "valid number"),
        ({"stage1.learning_rate": float("nan")}, "stage1.learning_rate", "number"),
        ({"stage1.epochs": 3.5}, "stage1.epochs", "integer"),
        ({"stage1.epochs": True}, "stage1.epochs", "integer"),
        ({"network.depths": [1, 2, 3]}, "network.depths", "missing"),
        ({"network.weights": None}, "network.weights", "string"),
        ({"compute.device": "tpu"}, "compute.device", "'cuda' or 'cpu'"),
        ({"variants": {}}, "variants", "at least 1"),
        ({"seeds.a": [1, 1]}, "seeds", "must differ"),
        ({"seeds.c": [0, 1]}, "seeds", "would count one model twice"),
        ({"data.source": ""}, "data.source", "at least 1"),
        ({"variants": {"a.b": []}}, "variants", "match"),
        ({"standalone.variant": "other"}, "standalone.variant", "'other' is not one of the variants: table2_small"),
        ({"network.input_size": 64}, "variants.table2_small", "heads=6 does not divide H*W = 8*8 = 64"),
    ],
)
def test_errors_name_the_key(changes: dict[str, object], key: str, says: str) -> None:
    with pytest.raises(LhcnetError) as error:
        profile("demo", changes)
    assert key in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a list", "a: [", "", "just words", "a: 1\na: 2\n"])
def test_a_file_that_is_no_configuration_is_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(LhcnetError, match=r"params\.yaml") as error:
        config.load(file)
    assert "\n" not in str(error.value)


def test_another_schema_version_is_refused_and_a_missing_one_is_the_current(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    text = to_yaml(profile("demo"))
    assert text.startswith("schema_version: 1\n")
    file.write_text(text.removeprefix("schema_version: 1\n"))
    assert config.load(file) == profile("demo")
    for version in ("2", "0", "'1'", "null", "1.5"):
        file.write_text(text.replace("schema_version: 1", f"schema_version: {version}") + "key_of_tomorrow: 1\n")
        with pytest.raises(LhcnetError) as error:
            config.load(file)
        assert str(error.value) == (
            f"{file}: schema_version {None if version == 'null' else version} is not supported by this lhcnet "
            "(expected 1): write a new file with `lhcnet profile NAME --out params.yaml` and copy your values"
        )


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("source", ["s3://bucket/faces.zip", "C:\\faces: all, {new} #1", "it's 'here'"])
def test_dvc_reads_what_is_written(name: str, source: str) -> None:
    wanted = profile(name, {"data.source": source})
    assert config.parse(config.Config, loads_yaml(to_yaml(wanted)), "DVC's values") == wanted


def test_the_digest_does_not_depend_on_the_schema_version() -> None:
    values = profile("demo").to_dict()
    del values["schema_version"], values["checkpoints"]
    text = json.dumps(values, sort_keys=True)
    assert profile("demo").digest() == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_scientific_notation_is_a_number_as_it_is_for_dvc(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("stage1: {learning_rate: 1e-4}\n")
    assert config.load(file).stage1.learning_rate == 1e-4


def test_whole_floats_from_kubeflow_are_counts() -> None:
    assert config.parse(config.Stage, {"batch_size": 48.0}, "stage1").batch_size == 48


def test_digest_and_execution_name_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = profile("demo"), profile("demo", {"stage4.patience": 9})
    assert execution_name(one) == execution_name(profile("demo"))
    assert execution_name(one) != execution_name(other)
    monkeypatch.setenv("LHCNET_EXECUTION", "given")
    assert execution_name(one) == "given"


def test_map_sides_at_the_papers_size() -> None:
    assert config.map_sides(224) == (56, 56, 28, 14, 7)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "a: &a [*a]",
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
        "a: &a 1\nb: &a 2",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: !!bool x",
        "x: " + "y" * (1 << 20),
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_means_harm_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(LhcnetError, match=r"params\.yaml: (not YAML|cannot be read)") as error:
        config.load(tmp_path / "params.yaml")
    assert str(error.value).isprintable()


def test_settings_come_from_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(LhcnetError, match="not a regular file"):
        config.load(tmp_path / "params.yaml")


def test_a_thousand_million_heads_take_no_time() -> None:
    row = {"heads": 10**9, "d": 3, "split": "grid"}
    with pytest.raises(LhcnetError, match="do not make a grid"):
        profile("demo", {"variants": {"many": [row] * 5}, "standalone.variant": "many"})


@pytest.mark.parametrize(
    "key",
    ["1", "-1", "0x1F", "0o17", "012", "1_000", "1.5", "1e3", "null", "~", "True", "2020-01-01", ".inf", "!!int a"],
)
def test_a_key_that_is_not_text_is_refused(key: str, tmp_path: Path) -> None:
    """DVC's foreach leaves such a variant out without a word, while the other drivers would train it."""
    file = tmp_path / "params.yaml"
    file.write_text(f"variants:\n  {key}: []\n")
    with pytest.raises(LhcnetError, match=r'params\.yaml, line 2: the key .* is not text, expected it in quotes: ".+"'):
        config.load(file)
    file.write_text(f"variants: {{x: &x [{{{key}: 1}}], y: *x}}\n")
    with pytest.raises(LhcnetError, match=r"line 1: the key"):
        config.load(file)


def test_quoted_names_of_variants_survive_a_params_yaml(tmp_path: Path) -> None:
    """With these names `dvc repro` ran one stage each, and `dvc status` noticed the change of one of them."""
    names = ["1", "null", "true", "0x1F", "1_000", "1e3", "yes", "off", "012", "2020-01-01", "y", "NULL", "inf", "None"]
    demo = profile("demo")
    rows = demo.variants[demo.standalone.variant]
    wanted = demo.model_copy(update={"variants": demo.variants | dict.fromkeys(names, rows)})
    file = tmp_path / "params.yaml"
    file.write_text(to_yaml(wanted))
    assert list(config.load(file).variants) == list(wanted.variants)


def test_a_module_setting_has_a_name_of_its_own(tmp_path: Path) -> None:
    """DVC compares and sets `variants.table2_small.lhc3.heads`. Modules may be a list as well, as in Kubeflow."""
    demo = profile("demo", {"variants.table2_small.lhc3.heads": 4})
    modules = demo.to_dict()["variants"]["table2_small"]
    assert [module["heads"] for module in modules] == [8, 8, 4, 3, 1]
    file = tmp_path / "params.yaml"
    file.write_text(to_yaml(demo))
    assert "    lhc3: {heads: 4, d: 6, " in file.read_text()
    assert config.load(file) == config.parse(config.Config, demo.to_dict(), "list") == demo


@pytest.mark.parametrize("slots", [[1, 2, 3, 4], [1, 2, 3, 4, 6], [1, 2, 3, 4, 5, 6], []])
def test_a_variant_has_five_slots(slots: list[int]) -> None:
    modules = {f"lhc{slot}": {"heads": 1, "d": 3} for slot in slots}
    with pytest.raises(LhcnetError, match=r"variants\.one: expected the five slots lhc1, lhc2, lhc3, lhc4, lhc5,"):
        profile("demo", {"variants": {"one": modules}, "standalone.variant": "one"})


@pytest.mark.parametrize(("key", "n", "has"), [("a", 11, 10), ("b", 6, 5), ("c", 11, 10)])
def test_a_minimum_above_the_number_of_models_is_refused(key: str, n: int, has: int) -> None:
    with pytest.raises(
        LhcnetError, match=rf"selection\.minimum\.{key}: {n}, but set {key.upper()} has only {has} models"
    ):
        profile("paper", {f"selection.minimum.{key}": n})
    assert getattr(profile("paper", {f"selection.minimum.{key}": has}).selection.minimum, key) == has


@pytest.mark.parametrize("seeds", ["a: [0, 1.0]", "backbone: 1.0", "c: [1e1]"])
def test_a_seed_with_a_point_is_refused_where_dvc_would_write_it(seeds: str, tmp_path: Path) -> None:
    """DVC would train `seed-1.0`, which no step looks for."""
    key = seeds.partition(":")[0]
    text = re.sub(rf"(?m)^  {key}: .*$", f"  {seeds}", to_yaml(profile("demo")), count=1)
    assert seeds in text
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(
        LhcnetError, match=rf"params\.yaml: seeds\.{key}: expected whole numbers without a point, not 1"
    ):
        config.load(tmp_path / "params.yaml")
