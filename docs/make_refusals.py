"""Keeps docs/refusals.md in step with the source: `python docs/make_refusals.py`.

Codes, texts and exit codes come from the source. What stands under "when" is written by hand and stays; a new code gets
an empty one, which a test refuses.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pancreas_seg import errors

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "refusals.md"
_CODE = re.compile(
    r"(input|manifest|config|weights|training|evaluation|output|watch|export|dicom|result)\.[a-z0-9_]*[a-z0-9]"
)
_EXITS = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PancreasSegError)
}
_EXIT_OF_PREFIX = {"result": None, "config": 2, "weights": 2, "output": 2, "watch": 1}
_FILES = (".json", ".toml", ".csv", ".safetensors", ".txt")


@dataclass(frozen=True)
class Raised:
    """A code, the exit code of its error's class (None: no error, but a reason in a verdict), and its advice."""

    code: str
    exit_code: int | None
    advice: str


@cache
def raised() -> list[Raised]:
    """All codes that the source gives, sorted; of a code that is raised in several places, the first advice."""
    found: dict[str, Raised] = {}
    paths = sorted((ROOT / "pancreas_seg").rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    public = {name: maker for tree in trees for name, maker in _makers(tree).items() if not name.startswith("_")}
    for tree in trees:
        makers = {**public, **_makers(tree)}
        for one in [*_in_errors(tree), *_from_makers(tree, makers), *_in_loops(tree), *_elsewhere(tree)]:
            known = found.setdefault(one.code, one)
            if known.exit_code != one.exit_code:
                raise ValueError(f"{one.code} has two exit codes")
            if known.advice in ("", "..."):
                found[one.code] = one
    return [found[code] for code in sorted(found)]


def _in_errors(tree: ast.AST) -> list[Raised]:
    """Errors that are made with their code as text."""
    return [
        Raised(call.args[0].value, _EXITS[_name(call)], _advice(call))
        for call in _calls(tree)
        if _name(call) in _EXITS and call.args and isinstance(call.args[0], ast.Constant)
    ]


@dataclass(frozen=True)
class Maker:
    """A function that makes an error of what it is given: a prefix before the code, and which argument is what."""

    prefix: str
    exit_code: int
    parameters: tuple[str, ...]
    defaults: dict[str, ast.expr]
    code: str
    advice: ast.expr | None

    def raised(self, call: ast.Call) -> Raised | None:
        """What one of its calls raises; None if the code is no plain text there."""
        named = {k.arg: k.value for k in call.keywords if k.arg}
        given = self.defaults | dict(zip(self.parameters, call.args, strict=False)) | named
        code = given.get(self.code)
        if not isinstance(code, ast.Constant) or not isinstance(code.value, str):
            return None
        advice = given.get(self.advice.id) if isinstance(self.advice, ast.Name) else self.advice
        return Raised(self.prefix + code.value, self.exit_code, _template(advice) if advice else "")


def _makers(tree: ast.AST) -> dict[str, Maker]:
    """Functions that make an error whose code, or its end, is one of their arguments."""
    constants = {node.targets[0].id: node.value for node in ast.iter_child_nodes(tree) if _is_constant(node)}

    def known(node: ast.expr) -> ast.expr:
        return constants.get(node.id, node) if isinstance(node, ast.Name) else node

    return {
        function.name: Maker(prefix, _EXITS[_name(call)], parameters, defaults, code.id, _keyword(call, "advice"))
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for parameters in [tuple(a.arg for a in function.args.args)]
        for values in [function.args.defaults]
        for defaults in [dict(zip(parameters[len(parameters) - len(values) :], map(known, values), strict=True))]
        for call in _calls(function)
        if _name(call) in _EXITS and call.args
        for prefix, code in [_code_of(call.args[0])]
        if code is not None and code.id in parameters
    }


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


def _code_of(node: ast.expr) -> tuple[str, ast.Name | None]:
    """What stands before a variable at the end of a code, and the variable; None if there is no such."""
    if isinstance(node, ast.JoinedStr) and isinstance(node.values[-1], ast.FormattedValue):
        prefix, node = "".join(_template(part) for part in node.values[:-1]), node.values[-1].value
    else:
        prefix = ""
    return prefix, node if isinstance(node, ast.Name) else None


def _from_makers(tree: ast.AST, makers: dict[str, Maker]) -> list[Raised]:
    made = [makers[_name(call)].raised(call) for call in _calls(tree) if _name(call) in makers]
    return [one for one in made if one is not None]


def _in_loops(tree: ast.AST) -> list[Raised]:
    """Errors raised in a loop over a table of codes."""
    return [
        Raised(text.value, _EXITS[_name(call)], _advice(call))
        for loop in ast.walk(tree)
        if isinstance(loop, ast.For)
        for call in _calls(loop)
        if _name(call) in _EXITS and call.args and isinstance(call.args[0], ast.Name)
        for text in ast.walk(loop.iter)
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and _CODE.fullmatch(text.value)
    ]


def _elsewhere(tree: ast.AST) -> list[Raised]:
    """Codes in other expressions: reasons of a verdict, and codes that are chosen before the error is made."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    codes = {text for text in texts if _CODE.fullmatch(text) and not text.endswith(_FILES)}
    codes -= {one.code for one in _in_errors(tree)}
    return [Raised(code, _EXIT_OF_PREFIX.get(code.partition(".")[0], 3), "") for code in sorted(codes)]


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _advice(call: ast.Call) -> str:
    advice = _keyword(call, "advice")
    return _template(advice) if advice else ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def _template(node: ast.expr) -> str:
    """The text of a string expression, with ... for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    return "..."


def when(text: str) -> dict[str, str]:
    """What a table says under "when", by code."""
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| ([^|]*) \|", text, re.MULTILINE)
    return {code: words.strip() for code, words in rows}


def written(text: str) -> str:
    """The page with its tables made anew."""
    known = when(text)
    refusals = [one for one in raised() if one.exit_code is not None]
    reasons = [one for one in raised() if one.exit_code is None]
    tables = {
        "refusals": [
            "| code | when | what it says to do | exit code |",
            "| --- | --- | --- | --- |",
            *(f"| `{r.code}` | {known.get(r.code, '')} | {r.advice} | {r.exit_code} |" for r in refusals),
        ],
        "reasons": [
            "| code | when |",
            "| --- | --- |",
            *(f"| `{r.code}` | {known.get(r.code, '')} |" for r in reasons),
        ],
    }
    for name, lines in tables.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        start, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
        text = text[:start] + "\n" + "\n".join(lines) + "\n" + text[end:]
    return text


if __name__ == "__main__":
    TABLE.write_text(written(TABLE.read_text(encoding="utf-8")), encoding="utf-8")
