"""From YAML and flags to one configuration."""

from pathlib import Path

import pytest

from swa_cli.config_file import load_config
from swa_cli.errors import ConfigError

FULL = """
model:
  class_path: net.py:Net
  init_args: {width: 3}
data:
  class_path: pkg.Data
average:
  sources: [a, "b/*.pt"]
  output: swa.safetensors
  last: 5
bn_update:
  num_batches: 10
eval:
  compare_ensemble: true
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FULL)
    return path


def test_a_file_fills_every_section(config_file):
    config = load_config(config_file)

    assert config.model is not None
    assert config.data is not None
    assert (config.model.class_path, config.model.init_args) == ("net.py:Net", {"width": 3})
    assert (config.data.class_path, config.data.init_args) == ("pkg.Data", {})
    assert config.average.sources == (Path("a"), Path("b/*.pt"))
    assert config.average.last == 5
    assert config.bn_update.num_batches == 10
    assert config.eval.compare_ensemble is True
    assert config.average.device == "auto"


def test_flags_go_over_the_file_and_those_not_given_do_not(config_file):
    config = load_config(
        config_file, {"average": {"last": 2, "output": None, "sources": None}, "eval": {"split": "val"}}
    )

    assert config.average.last == 2
    assert config.average.output == Path("swa.safetensors")
    assert config.eval.split == "val"
    assert config.eval.compare_ensemble is True


def test_arguments_are_put_over_the_file_s_and_a_new_class_drops_them(config_file):
    merged = load_config(config_file, {"model": {"class_path": None, "init_args": {"depth": 2}}}).model
    replaced = load_config(config_file, {"model": {"class_path": "x.Other", "init_args": None}}).model

    assert merged is not None
    assert replaced is not None
    assert merged.init_args == {"width": 3, "depth": 2}
    assert (replaced.class_path, replaced.init_args) == ("x.Other", {})


def test_one_source_and_a_plain_class_path_need_no_brackets(tmp_path):
    (tmp_path / "run.yaml").write_text("model: net.Net\naverage: {sources: ckpts}\n")

    config = load_config(tmp_path / "run.yaml")

    assert config.model is not None
    assert config.model.class_path == "net.Net"
    assert config.average.sources == (Path("ckpts"),)


def test_flags_alone_are_enough():
    assert load_config(None, {"average": {"sources": [Path("x")]}}).average.sources == (Path("x"),)


def test_code_beside_the_file_is_found_from_anywhere(config_file, monkeypatch):
    (config_file.parent / "net.py").write_text("")
    monkeypatch.chdir("/")

    model = load_config(config_file).model

    assert model is not None
    assert model.class_path == f"{config_file.parent / 'net.py'}:Net"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("averge: {}", r"unknown key 'averge'\. Did you mean 'average'\? Known here: model, data, task, average"),
        ("average: {outptu: x}", r"unknown key 'average\.outptu'\. Did you mean 'output'\?"),
        ("model: {class_pth: x}", r"unknown key 'model\.class_pth'\. Did you mean 'class_path'\?"),
        ("model: {init_args: {}}", r"model\.class_path is missing"),
        ("average: {last: 0}", r"average\.last: expected greater than 0, found 0"),
        ("average: {dtype: int8}", r"average\.dtype: .*'float64', 'float32', .* or 'float8_e5m2', found 'int8'"),
        ("eval: {compare_ensemble: maybe}", r"eval\.compare_ensemble: .*boolean.*found 'maybe'"),
        ("average: 3", r"average: expected a section with sources, output, .*found 3"),
        ("average: {sources: 3}", r"average\.sources: expected .*found 3"),
        ("model: [net.py:Net]", r"model: expected a section with class_path, init_args, found \['net"),
        ("average:\n  last: 2024-13-45", "is not YAML: month must be in 1..12"),
        ("average:\n  last: 1\n output: x", "is not YAML: line 3, column 2: expected <block end>"),
        ("[1, 2]", "expected a mapping with model, data"),
        ("a: [", "is not YAML: line 1, column 5"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing\n")

    assert load_config(tmp_path / "run.yaml") == load_config()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such file"):
        load_config(tmp_path / "gone.yaml")
