"""Imports go one way, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pancreas_seg

ROOT = Path(pancreas_seg.__file__).parent

ROWS = [
    {"errors", "_version"},
    {"geometry", "config"},
    {"resampling"},
    {"io"},
    {"data", "network"},
    {"training", "inference", "evaluation", "report"},
    {"cross_validation", "watch"},
    {"cli"},
    {"__main__"},
]
"""Rooms of one row don't import each other, but for config and errors' neighbours; imports go to rows above only."""

TORCH_ROOMS = {"data", "network", "training", "inference", "cross_validation"}


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _imports(path: Path) -> set[str]:
    """Modules of a file, without those for type checking only; imports inside functions count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _row(room: str) -> int:
    return next(n for n, row in enumerate(ROWS) if room in row)


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in _imports(path):
        if not module.startswith("pancreas_seg.") or _room(module) == here:
            continue
        assert _row(_room(module)) < _row(here), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_stays_in_its_rooms(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    heavy = {m for m in _imports(path) if m.split(".")[0] in {"torch", "monai", "ignite"}}
    assert here in TORCH_ROOMS | {"cli"} or not heavy


def test_every_room_has_a_row() -> None:
    for path in FILES:
        _row(path.relative_to(ROOT).parts[0].removesuffix(".py"))


@pytest.mark.parametrize(
    "code",
    [
        "import pancreas_seg",
        "from pancreas_seg.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from pancreas_seg.cli import main\nmain(['info', '--preset', 'paper'])",
        "import pancreas_seg.evaluation.study, pancreas_seg.io, pancreas_seg.report.preview",
        "import pancreas_seg.watch.pulse",
        "import pancreas_seg.data.manifest_check, pancreas_seg.data.manifest_build, pancreas_seg.data.phantom",
    ],
)
def test_light_parts_load_neither_torch_nor_monai(code: str) -> None:
    check = f"{code}\nimport sys\nassert not {{'torch', 'monai'}} & set(sys.modules), 'loaded'"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_load() -> None:
    for name in pancreas_seg.__all__:
        assert getattr(pancreas_seg, name) is not None
    with pytest.raises(AttributeError):
        pancreas_seg.nothing  # noqa: B018
