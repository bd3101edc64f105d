"""The front page says what was measured: its tables are those that the committed results give."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffnsearch_service.cli import make_app

REPOSITORY = Path(__file__).parent.parent


def _tables():
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_front_page_are_those_of_the_results():
    page = (REPOSITORY / "README.md").read_text()
    assert _tables().rendered(page) == page, "run: python benchmarks/tables.py"


def test_every_part_has_its_place_on_the_front_page():
    page = (REPOSITORY / "README.md").read_text()
    for name in _tables().PARTS:
        assert f"<!-- {name}: " in page
        assert f"<!-- end {name} -->" in page


def _commands():
    """Every ffnsearch command line of the front page's shell blocks, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    alone = [line.removeprefix("(umask 077; ").partition(" > ")[0] for line in lines]
    return [shlex.split(line, comments=True) for line in alone if line.startswith("ffnsearch ")]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_the_commands_of_the_front_page_exist(words):
    found = CliRunner().invoke(make_app(), [*words[1:], "--help"])  # parsed whole before help is printed
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    "told", ["--config", "--check", "token create", "admin 127.0.0.1", "--prompts-file", "--ca-file", "bench 127.0.0.1"]
)
def test_the_front_page_shows_how_a_service_is_run(told):
    assert any(told in " ".join(words) for words in _commands())


def test_what_the_front_page_points_to_is_there():
    page = (REPOSITORY / "README.md").read_text()
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", page)
    assert {"deploy/README.md", "service/README.md", "benchmarks/overload.py"} <= set(linked)
    assert [path for path in linked if not (REPOSITORY / path).exists()] == []
