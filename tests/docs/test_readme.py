"""The README, its links, and the examples of the reference pages say what the programs do."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.pages import ROOT, Block, block, blocks, run, write_files
from support.results import FULL
from swa_cli.averaging.combiners import Combiner
from swa_cli.config.load import load_config
from swa_cli.report.json_report import as_mapping
from swa_cli.tasks import Mixture, Task
from swa_cli.user.batch import make_splitter

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = Path(__file__).parent / "runs"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).is_file(), target
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not anchor or anchor in {
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
        }


def test_pages_link_only_to_pages():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).resolve().is_relative_to(ROOT / "docs"), f"{page}: {target}"


def test_every_page_has_its_place_in_the_navigation():
    navigation = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)

    assert sorted(navigation) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize(("page", "protocols"), [("add-a-task", (Task, Mixture)), ("add-a-combiner", (Combiner,))])
def test_the_members_that_a_page_lists_are_those_of_its_protocol(page, protocols):
    text = (ROOT / "docs" / "contributing" / f"{page}.md").read_text(encoding="utf-8")
    cells = re.findall(r"^ *\| (`[^|]+) \|", text.partition("| member |")[2], flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

    assert named
    assert named <= {name for protocol in protocols for name in dir(protocol)}


def test_every_path_in_the_pages_exists():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in (*pages, *(ROOT / "swa_cli").rglob("*.py")):
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?<![\w/(.])(?:tests|swa_cli|benchmarks|sample_configs|docs)/[\w./]*\w", text))
        for path in named:
            assert "NAME" in path or (ROOT / path).exists(), f"{page}: {path}"


def test_the_scripts_in_the_pages_have_the_options_that_they_are_given():
    commands = [
        command
        for page in ("CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
        for one in blocks(page)
        if one.language == "sh"
        for command in re.findall(r"python ((?:benchmarks|sample_configs|docs)/.+)", one.text)
    ]

    assert len(commands) > 10
    for command in commands:
        script, *rest = command.split()
        source = "".join(path.read_text() for path in (ROOT / script).parent.glob("*.py"))
        for option in re.findall(r"--[a-z-]+", " ".join(rest)):
            assert f'"{option}"' in source, command


def test_every_option_in_the_pages_exists():
    known = {
        "--help",
        "--version",
        *re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "reference" / "cli.md").read_text()),
    }
    theirs = {
        "--standalone", "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint",  # torchrun
        "--model-ema", "--checkpoint-hist",  # torchvision's and timm's scripts
        "--keep", "--swa-lr", "--epochs",  # sample_configs
        "--strict", "--fuzz", "--fuzz-from", "--kills", "--flips", "--parts", "--jobs",  # zensical, our tests
        "--programs", "--mergekit", "--container", "--repeats", "--size", "--count", "--tensors", "--optimizer-ratio",
        "--against", "--data", "--examples", "--rounds", "--growth", "--batches", "--seeds",  # benchmarks
    }  # fmt: skip

    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        assert mentioned <= known | theirs, page


def test_the_library_example_runs(tmp_path):
    (tmp_path / "ckpts").mkdir()
    for step in range(12):
        torch.save({"w": torch.full((2,), float(step))}, tmp_path / "ckpts" / f"epoch-{step}.pt")

    run(Block("python", block("README.md", "python", start="## As a library"), None), tmp_path)

    assert load_file(tmp_path / "swa.safetensors")["w"].tolist() == [6.5, 6.5]


def test_the_data_module_example_runs(tmp_path, monkeypatch):
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / "images" / part / "cat").mkdir(parents=True)
        Image.new("RGB", (80, 90)).save(tmp_path / "images" / part / "cat" / "1.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}

    exec(block("README.md", "python", start="## A data module"), names)

    for loader in (names["Data"]().train_dataloader(), names["Data"]().test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (1, 3, 64, 64)
        assert labels.tolist() == [0]


def test_the_batch_splitter_example_gives_groups():
    names: dict = {}
    exec(block("docs/guides/data-module.md", "python"), names)

    split = make_splitter(names["Patients"]().split_batch)

    assert split(("images", "ages", "labels", "patients")) == (("images",), {"age": "ages"}, "labels", "patients")


def test_the_python_api_s_example_runs(tmp_path):
    (example,) = [one for one in blocks("docs/reference/python-api.md") if one.language == "python"]

    assert run(example, tmp_path).startswith("320 0.")


def test_configurations_in_the_pages_are_ones(tmp_path):
    found = [
        (page, one)
        for page in ("README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
        for one in blocks(page)
        if one.language == "yaml"
    ]

    for number, (_, one) in enumerate(found):
        path = tmp_path / f"{number}.yaml"
        path.write_text(one.text)
        load_config(path)
    assert {page for page, _ in found} >= {"README.md", "docs/tutorial.md", "docs/reference/config.md"}


def test_the_json_example_has_the_shape_of_the_real_one():
    example = json.loads(block("docs/reference/json-schema.md", "json"))
    real = json.loads(json.dumps(as_mapping(FULL)))

    assert set(example) <= set(real)
    for part in (lambda of: of["candidates"][0], lambda of: of["candidates"][0]["metrics"], lambda of: of["decision"]):
        assert set(part(example)) <= set(part(real))
    assert set(example["comparisons"][0]) <= set(real["comparisons"][0])


def test_the_json_page_has_every_field():
    page = (ROOT / "docs" / "reference" / "json-schema.md").read_text(encoding="utf-8")
    real = as_mapping(FULL)

    documented = set(re.findall(r"`(\w+)`", page))
    for part in (real, real["decision"], real["scores"][0], real["candidates"][0], real["comparisons"][0]):
        assert part.keys() <= documented


def test_ci_runs_the_readme_s_test_command():
    assert "pytest" in block("README.md", "sh", start="<!-- test command -->")
    assert "swa demo" in block("README.md", "sh", start="<!-- demo command -->")
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_the_commands_on_your_own_run(tmp_path):
    shutil.copy(RUNS / "images.py", tmp_path)
    shutil.copy(RUNS / "plain_run.py", tmp_path / "train.py")
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    steps = block("README.md", "sh", start="## On your own run")
    around = re.findall(r"`(swa (?:inspect|verify) [^`]+)`", README)
    picks = re.findall(r"`(--(?:last|best)[^`]+)`", README)
    (tmp_path / "run.yaml").write_text(block("README.md", "yaml", start="## One configuration"))

    activate, *commands = steps.splitlines()
    assert activate == "source .venv/bin/activate"
    assert [command.split()[1] for command in around] == ["inspect", "verify"]
    more = [
        *around,
        *(f"swa inspect ckpts {pick}" for pick in picks),
        "rm swa.safetensors",
        "swa run --config run.yaml",
    ]
    printed = run(Block("sh", "\n".join([*commands, *more, "swa --version"]), None), tmp_path)

    assert "bit for bit" in printed
    assert (tmp_path / "result.json").is_file()


def test_files_in_the_pages_are_written_once(tmp_path):
    write_files("docs/tutorial.md", tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "run.yaml"}
