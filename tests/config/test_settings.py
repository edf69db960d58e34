"""Every field of the configuration, as commands and pages get it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest

from swa_cli.config.fields import Count, Numbers, Paths, Threads
from swa_cli.config.option import Option, Panel
from swa_cli.config.schema import Config
from swa_cli.config.settings import fields_of, sections, settings


@dataclass(frozen=True)
class Base:
    last: Annotated[Count | None, Option(help="Last.", panel=Panel.SELECTION)] = None


@dataclass(frozen=True)
class Section(Base):
    sources: Annotated[Paths, Option(help="Sources.", positional=True, metavar="FILES")] = ()
    threads: Annotated[Threads | None, Option(help="Threads.", flags=("--threads", "-j"))] = None
    from_step: Annotated[float, Option(help="From.")] = 1.5
    mode: Annotated[Literal["min", "max"] | None, Option(help="Mode.")] = None
    weights: Annotated[Numbers | None, Option(help="Weights.")] = None
    quick: Annotated[bool, Option(help="Quick.")] = False
    checked: Annotated[bool, Option(help="Checked.")] = True
    extra: Annotated[dict[str, int] | None, Option(help="Extra.", in_file_only=True)] = None


@pytest.mark.parametrize(
    ("name", "flags", "kind", "bounds", "default"),
    [
        ("sources", ("FILES",), list[Path], (None, None), ()),
        ("threads", ("--threads", "-j"), int, (1, 256), None),
        ("from_step", ("--from-step",), float, (None, None), 1.5),
        ("mode", ("--mode",), Literal["min", "max"], (None, None), None),
        ("weights", ("--weights",), str, (None, None), None),
        ("quick", ("--quick",), bool, (None, None), False),
        ("checked", ("--checked/--no-checked",), bool, (None, None), True),
        ("extra", (), dict[str, int], (None, None), None),
        ("last", ("--last",), int, (1, None), None),
    ],
)
def test_a_field_says_how_a_command_line_gives_it(name, flags, kind, bounds, default):
    setting = next(setting for setting in fields_of("part", Section) if setting.name == name)

    assert setting.key == f"part.{name}"
    assert (setting.flags, setting.kind, (setting.low, setting.high)) == (flags, kind, bounds)
    assert setting.default == default


def test_the_fields_of_a_base_class_come_last():
    assert [setting.name for setting in fields_of("part", Section)][-1] == "last"


def test_a_section_that_names_what_to_import_has_two_flags():
    assert [(setting.key, setting.flags) for setting in settings("model")] == [
        ("model.class_path", ("--model",)),
        ("model.init_args", ("--model-arg",)),
    ]


def test_every_key_has_its_help():
    assert list(sections()) == [field.name for field in fields(Config)]
    for section in sections():
        for setting in settings(section):
            assert setting.option.help.endswith("."), setting.key


def test_no_two_options_of_a_section_have_one_flag():
    for section in sections():
        flags = [flag for setting in settings(section) for flag in (*setting.flags, *setting.option.former)]
        assert len(flags) == len(set(flags)), section
