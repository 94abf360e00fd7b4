"""docs/refusals.md has every code of the source and no other, with its text and exit code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_refusals", ROOT / "docs" / "make_refusals.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_refusals"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_the_table_is_that_of_the_source(make) -> None:
    assert set(make.when(PAGE)) == {one.code for one in make.raised()}
    assert make.written(PAGE) == PAGE, "run `python docs/make_refusals.py`"


def test_every_code_says_when(make) -> None:
    assert [code for code, words in make.when(PAGE).items() if not words] == []


def test_no_code_in_the_source_is_overlooked(make) -> None:
    """A slow plain search for what stands between quotes where an error is made."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "pancreas_seg").rglob("*.py")))
    found = set(re.findall(r'Error\(\s*"([a-z]+\.[a-z0-9_]+)"', text)) | set(
        re.findall(r'Reason\(\s*"([a-z._]+)"', text)
    )
    assert len(found) > 60
    assert found <= {one.code for one in make.raised()}


def test_codes_of_the_tests_are_in_the_table(make) -> None:
    """Each input.* code of the tests of bad files exists."""
    text = "\n".join((ROOT / "tests" / "refusals" / f"test_{what}.py").read_text() for what in ("files", "dicom"))
    used = set(re.findall(r'"(input\.[a-z0-9_]+)"', text))
    assert len(used) >= 20
    assert used <= set(make.when(PAGE))


def test_a_new_code_is_missed(make) -> None:
    """The table's check fails on a page without one of the codes."""
    page = re.sub(r"^\| `input.units` .*\n", "", PAGE, flags=re.MULTILINE)
    assert make.written(page) != page
    assert "input.units" not in make.when(page)
    assert make.when(make.written(page))["input.units"] == ""
