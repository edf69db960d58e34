"""From YAML and flags to one configuration."""

import json
import math
import re
from datetime import date
from itertools import product
from pathlib import Path

import pytest
import torch

from swa_cli.averaging import Engine, average, plan_average
from swa_cli.cli.parameters import parse_arguments
from swa_cli.config.load import load_config
from swa_cli.config.schema import AverageConfig, BnUpdateConfig, EvalConfig, TargetConfig
from swa_cli.errors import ConfigError
from swa_cli.formats import open_checkpoint

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
  csv: result.csv
  json: null
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
    assert config.eval.reports == {"csv": Path("result.csv")}
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


def test_a_key_is_read_by_its_former_name(tmp_path):
    (tmp_path / "run.yaml").write_text("eval: {at_once: 2}")

    assert load_config(tmp_path / "run.yaml").eval.max_resident_models == 2
    assert load_config(tmp_path / "run.yaml", {"eval": {"max_resident_models": 3}}).eval.max_resident_models == 3


def test_both_names_of_a_key_are_one_too_many(tmp_path):
    (tmp_path / "run.yaml").write_text("eval: {at_once: 2, max_resident_models: 3}")

    with pytest.raises(ConfigError, match=r"unknown key 'eval\.at_once'\. Did you mean '\w+'\?"):
        load_config(tmp_path / "run.yaml")


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
        (r'"\uD800": {}', r"unknown key '\\ud800'\. Did you mean"),
        (r'average: {"\uD800": 3}', r"unknown key 'average\.\\ud800'\. Did you mean '\w+'\? Known here: sources"),
        (
            r'model: {class_path: a.B, "\udc80": 3}',
            r"unknown key 'model\.\\udc80'\. Did you mean '\w+'\? Known here: class",
        ),
        ("average: {'': 2}", r"unknown key 'average\.'\. Did you mean '\w+'\? Known here: sources"),
        ("average: {outptu: x}", r"unknown key 'average\.outptu'\. Did you mean 'output'\?"),
        ("model: {class_pth: x}", r"unknown key 'model\.class_pth'\. Did you mean 'class_path'\?"),
        ("model: {init_args: {}}", r"model\.class_path is missing"),
        ("average: {last: 0}", r"average\.last: expected a number above 0, found 0"),
        ("average: {dtype: int8}", r"average\.dtype: .*'float64', 'float32', .* or 'float8_e5m2', found 'int8'"),
        ("eval: {compare_ensemble: maybe}", r"eval\.compare_ensemble: expected true or false, found 'maybe'"),
        ("average: 3", r"average: expected a section with sources, output, .*found 3"),
        ("average: {sources: 3}", r"average\.sources: expected a list, found 3"),
        ("average: {sources: [[a]]}", r"average\.sources\.0: expected a path, found \['a'\]"),
        ("average: {output: [a]}", r"average\.output: expected a path, found \['a'\]"),
        ("eval: {metrics: 3}", r"eval\.metrics: expected a mapping, found 3"),
        ("eval: {metrics: {f1: 3}}", r"eval\.metrics\.f1: expected a section with class_path, init_args, found 3"),
        (
            "eval: {metrics: {f1: {class: a.B}}}",
            r"unknown key 'eval\.metrics\.f1\.class'\. Did you mean 'class_path'\?",
        ),
        ("eval: {margin: }", r"eval\.margin: expected a number, or a number for each metric, found None"),
        ("eval: {margin: {accuracy: -1}}", r"eval\.margin\.accuracy: expected a number of at least 0, found -1"),
        ('eval: {cache: "a\\0"}', r"eval\.cache: expected a path without a null character, found 'a\\x00'"),
        (
            'average: {sources: ["\\0"]}',
            r"average\.sources\.0: expected a path without a null character, found '\\x00'",
        ),
        (r'average: {output: "\uD800"}', r"average\.output: expected a path of Unicode characters, found '\\ud800'"),
        (r'eval: {cache: "a/\uDFFF"}', r"eval\.cache: expected a path of Unicode characters, found 'a/\\udfff'"),
        (r'average: {sources: [a, "\uD800"]}', r"average\.sources\.1: expected a path of Unicode characters"),
        ("eval: {csv: [a]}", r"eval\.csv: expected a path, found \['a'\]"),
        ("eval: {cvs: a}", r"unknown key 'eval\.cvs'\. Did you mean 'csv'\?"),
        ("eval: {reports: {cvs: a}}", r"eval\.reports: expected only json, csv, markdown"),
        ("eval: {swa: !!set {a}}", r"eval\.swa: expected a path, found {'a'}"),
        ("average: {include: [~]}", r"average\.include\.0: expected text, found None"),
        ("average: {last: yes}", r"average\.last: expected a number, found True"),
        ("average: {weights: [1, on]}", r"average\.weights\.1: expected a number, found True"),
        ("average: {ema: true}", r"average\.ema: expected a number, found True"),
        ("bn_update: {seed: off}", r"bn_update\.seed: expected a number, found False"),
        ("eval: {margin: {accuracy: yes}}", r"eval\.margin\.accuracy: expected a number, found True"),
        ("bn_update: {until_converged: .inf}", r"bn_update\.until_converged: expected a finite number, found inf"),
        ("average: {from_step: 1.5}", r"average\.from_step: expected an integer, found 1\.5"),
        ("average: {from_step: x}", r"average\.from_step: expected an integer, found 'x'"),
        ("average: {weights: [.nan, b]}", r"average\.weights\.1: expected a number, found 'b'"),
        ("bn_update: {until_converged: -1.5}", r"bn_update\.until_converged: expected a number above 0, found -1\.5"),
        ("model: {class_path: a.B, init_args: {1: 2}}", r"model\.init_args\.1.*: expected text, found 1"),
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


@pytest.mark.parametrize("written", [None, "eval: {}", "model:\ndata:\ntask:\n"])
@pytest.mark.parametrize("section", ["model", "data", "task"])
def test_arguments_of_nothing_ask_for_the_flag(tmp_path, section, written):
    path = None if written is None else tmp_path / "run.yaml"
    if path is not None:
        path.write_text(written)
    with pytest.raises(
        ConfigError, match=f"^`{section}.init_args` is given without `{section}`. Name with `{section}` "
    ):
        load_config(path, {section: {"class_path": None, "init_args": {"width": 3}}})


@pytest.mark.parametrize(
    "number", ["1e-3", "1e300", "1E5", "1.5e3", "-.5", "+2e+4", ".5e3", "3.", "1_0e1", "12e03", "-7", "0", "1e999"]
)
def test_numbers_are_read_as_python_reads_them(tmp_path, number):
    (tmp_path / "run.yaml").write_text(f"model: {{class_path: a.B, init_args: {{x: {number}, y: [{number}]}}}}")

    model = load_config(tmp_path / "run.yaml").model

    assert model is not None
    assert model.init_args == {"x": float(number), "y": [float(number)]}
    assert parse_arguments([f"x={number}"]) == {"x": float(number)}


@pytest.mark.parametrize("text", ["1e", "1e5x", "1.2.3", ".", "-.", "_1e3", "e5", "1e-3 m", "v1e3"])
def test_what_python_does_not_read_as_a_number_is_text(tmp_path, text):
    (tmp_path / "run.yaml").write_text(f"model: {{class_path: a.B, init_args: {{x: {text}}}}}")

    model = load_config(tmp_path / "run.yaml").model

    assert model is not None
    assert model.init_args == {"x": text}


PYDANTICS = re.compile("[Vv]alid|Input|[Uu]nable|[Kk]eys|should|[Tt]uple|[Dd]ictionary|<class|instance", re.ASCII)
VALUES = (
    None,
    [],
    [None],
    {},
    {"a": 1},
    {1: 2},
    "a\0",
    "",
    10**30,
    -1,
    math.nan,
    True,
    1.5,
    b"x",
    "9" * 5000,
    date(2024, 1, 2),
)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        *[("average", AverageConfig), ("bn_update", BnUpdateConfig), ("eval", EvalConfig)],
        *[("model", TargetConfig), ("data", TargetConfig), ("task", TargetConfig)],
    ],
)
def test_no_message_speaks_of_pydantic(section, kind):
    said, needed = [], {"class_path": "a.B"} if kind is TargetConfig else {}
    for name, value in product(kind.__dataclass_fields__, VALUES):
        try:
            load_config(None, {section: {**needed, name: value}})
        except ConfigError as error:
            said += error.args

    assert len(said) > len(kind.__dataclass_fields__)
    assert not [line for line in said if PYDANTICS.search(line.partition(", found ")[0])]
    assert max(map(len, said)) < 400


HUGE = "9" * 400


@pytest.mark.parametrize("value", [HUGE, str(2**63)], ids=["huge", "2**63"])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("average", name) for name in ("every", "first", "last", "best", "from_step", "to_step", "max_shard_size")),
        *(("bn_update", name) for name in ("num_batches", "num_samples", "batch_size", "seed")),
        *(("eval", name) for name in ("every", "first", "last", "best", "from_step", "to_step", "max_resident_models")),
    ],
)
def test_numbers_beyond_any_use_are_refused(tmp_path, section, name, value):
    path = tmp_path / "run.yaml"
    path.write_text(f"{section}: {{{name}: {value}}}")

    with pytest.raises(ConfigError, match=rf"{section}\.{name}: expected a number (of at most|below) [\d,]*, found 9"):
        load_config(path)
    with pytest.raises(ConfigError, match=rf"{section}\.{name}: expected a number (of at most|below) [\d,]*, found 9"):
        load_config(None, {section: {name: int(value)}})


@pytest.mark.parametrize(
    "text",
    [
        f"average: {{last: {HUGE}}}",
        f"eval: {{margin: {{accuracy: -{HUGE}}}}}",
        f"average: {{dtype: '{HUGE}'}}",
        f"average: {{'{HUGE}': 1}}",
        f"model: [{', '.join('9' * 200)}]",
        f"average: {{max_shard_size: {HUGE}}}",
    ],
)
def test_a_long_value_is_said_in_a_line(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"found .*…|unknown key .*…") as error:
        load_config(path)
    assert "9" * 40 not in str(error.value)


@pytest.mark.parametrize(
    "size",
    [
        *(f"{HUGE}GB", "1e400", f"1{HUGE}.5TB", "1" * 5000),
        *(".", "..", "5.5.5GB", "5,5GB", "1,000", "5 GB a shard", "inf", "nanGB", "-5GB", "5 bananas", [5]),
    ],
)
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(
        ConfigError, match=r"average\.max_shard_size: expected a size in bytes, as 5GB or 500MiB, found "
    ):
        load_config(None, {"average": {"max_shard_size": size}})


@pytest.mark.parametrize(
    ("size", "nbytes"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("5gib", 5 << 30), ("0.3kB", 300), ("7", 7), (7, 7)]
)
def test_a_size_is_exact(size, nbytes):
    assert load_config(None, {"average": {"max_shard_size": size}}).average.max_shard_size == nbytes


@pytest.mark.parametrize("threads", [0, 257, 99_999_999_999, int(HUGE)], ids=["none", "many", "very many", "huge"])
@pytest.mark.parametrize("command", [["average", "x.pt", "-o", "o.safetensors"], ["verify", "x.pt"]])
def test_more_threads_than_are_of_use_are_refused(run_swa, command, threads):
    result = run_swa(*command, "--threads", threads)

    assert result.exit_code == 2
    assert re.search("Invalid value for '--threads': Input should be (less|greater) than or equal to", result.stderr)
    with pytest.raises(ConfigError, match=r"average\.threads: expected a number (of at most 256|above 0), found"):
        load_config(None, {"average": {"threads": threads}})


def test_there_are_no_more_workers_than_pieces(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("swa_cli.averaging.cpu.CpuWorker.__init__", lambda self, job, *, chunk: made.append(job))
    monkeypatch.setattr("swa_cli.averaging.stream.work", lambda *_, **__: None)
    torch.save({"w": torch.ones(100)}, tmp_path / "1.pt")
    plan = plan_average([open_checkpoint(tmp_path / "1.pt")])

    average(plan, tmp_path / "o.safetensors", engine=Engine(device="cpu", threads=256, chunk=40))

    assert len(made) == 3


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("average", {f"key{number}": 1 for number in range(2000)}),
        ("average", {"sources": [["a"]] * 2000}),
        ("average", {"weights": ["a"] * 2000}),
        ("model", {"class_path": "a.B", **{f"key{number}": 1 for number in range(2000)}}),
    ],
)
def test_of_many_faults_the_first_ten_are_said(tmp_path, section, value):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({section: value}))

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    *said, more = str(caught.value).splitlines()
    assert [f"{path}: " in line for line in said] == [True] * 10
    assert more == "… and 1,990 more"
    assert len(str(caught.value)) < 10_000


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing\n")

    assert load_config(tmp_path / "run.yaml") == load_config()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such file"):
        load_config(tmp_path / "gone.yaml")
