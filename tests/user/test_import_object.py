"""Where a class or function is found that the user names, and what is said where it is not."""

import sys

import pytest
from torch import nn

from swa_cli.errors import UserCodeError
from swa_cli.user.import_object import load_target
from swa_cli.user.model import build_model


@pytest.mark.parametrize("target", ["{code}:Net", "{code}:make", "usernet.py:Net", "usernet.Net", "usernet.make"])
def test_a_model_is_found_in_a_file_or_a_package(code, target):
    model = build_model(target.format(code=code), {"width": 7})

    assert isinstance(model, nn.Linear)
    assert model.in_features == 7
    assert build_model(target.format(code=code), {}).in_features == 5  # pyright: ignore


def test_a_file_and_a_dotted_name_are_one_module(code):
    assert load_target(f"{code}:Net", what="model") is load_target("usernet.Net", what="model")


def test_a_file_named_like_an_installed_module_does_not_hide_it(code):
    (code.parent / "json.py").write_text("class Net: pass\n")

    found = load_target("json.py:Net", what="model")

    assert found.__module__.endswith("_json")  # pyright: ignore
    import json

    assert json.dumps([1]) == "[1]"


def test_torchvision_models_are_found():
    model = build_model("torchvision.models.resnet18", {"num_classes": 3})

    assert model.fc.out_features == 3  # pyright: ignore


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("gone.py:Net", {}, "there is no file gone.py"),
        ("no_such_package.Net", {}, "there is no module 'no_such_package'"),
        ("Net", {}, "expected path/to/file.py:Name or package.module.Name"),
        ("usernet.py:Nat", {}, r"usernet\.py has no 'Nat'\. Did you mean Net\?"),
        ("json.py:Nat", {}, r"model 'json\.py:Nat': json\.py has no 'Nat'\.$"),
        ("torch.nn.Liner", {}, r"torch\.nn has no 'Liner'\. Did you mean Linear\?"),
        ("usernet.py:LIMIT", {}, "is a int, expected a class or a function"),
        ("usernet.py:not_a_model", {}, "returned a int, expected a torch.nn.Module"),
        ("usernet.py:fails", {}, r"failed: ValueError: no such architecture \(at .*usernet\.py:16\)"),
        ("usernet.py:Net", {"depth": 3}, r"building the model usernet.py:Net\(depth=3\) failed: TypeError"),
        ("broken.py:Net", {}, r"importing .*broken\.py failed: SyntaxError"),
        ("imports_gone.py:Net", {}, "No module named 'not_installed_here'"),
    ],
)
def test_what_goes_wrong_with_a_target_is_said(code, target, arguments, message):
    (code.parent / "broken.py").write_text("class Net(:\n")
    (code.parent / "json.py").write_text("")
    (code.parent / "imports_gone.py").write_text("import not_installed_here\n")

    with pytest.raises(UserCodeError, match=message):
        build_model(target, arguments)


def test_a_script_that_exits_or_reads_its_arguments_does_not_end_ours(code):
    (code.parent / "script.py").write_text(
        "import argparse, sys\nfrom torch import nn\n"
        "args = argparse.ArgumentParser().parse_args()\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n"
        "def leaves(): sys.exit(0)\n"
    )
    arguments = list(sys.argv)

    assert isinstance(build_model("script.py:Net", {}), nn.Linear)
    with pytest.raises(
        UserCodeError, match=r"building the model script\.py:leaves\(\) failed: it called sys\.exit\(0\)"
    ):
        build_model("script.py:leaves", {})
    assert sys.argv == arguments


def test_a_file_without_a_name_says_what_is_missing(code):
    with pytest.raises(UserCodeError, match=r"'usernet\.py': expected path/to/file\.py:Name"):
        build_model("usernet.py", {})
