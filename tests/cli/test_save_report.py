"""Reports are published whole, or their content is not lost."""

import pytest

from swa_cli.cli.save_report import save
from swa_cli.errors import OutputError


def test_a_report_is_published_whole_or_printed(tmp_path, capsys):
    target = tmp_path / "report.md"
    target.write_text("old")

    save(target, lambda: "σ and \udcff\n")
    save(None, lambda: pytest.fail("nobody asked for it"))
    assert target.read_bytes() == "σ and \\udcff\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert capsys.readouterr().out == ""

    save(type(target)("-"), lambda: "alone\n")
    assert capsys.readouterr().out == "alone\n"


def test_a_report_that_cannot_be_written_says_what_there_is_all_the_same(tmp_path):
    with pytest.raises(OutputError, match=r"there is no directory .* The table stands above\.$"):
        save(tmp_path / "gone" / "report.md", lambda: "", otherwise="The table stands above.")
