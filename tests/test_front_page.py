"""The front page says what was measured: its tables are those that the committed results give."""

import importlib.util
from pathlib import Path

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
