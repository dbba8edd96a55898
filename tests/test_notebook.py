"""The notebook in docs/ runs as it stands, and a result shows itself in it."""

import ast
import html
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "inspect.ipynb"


def run(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


@pytest.fixture(scope="module")
def shown():
    """What each code cell shows, run in order in one namespace."""
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    return [run("".join(cell["source"]), names) for cell in cells]


def test_runs_and_finds_the_hole(shown):
    _, (verdict, reason), _, defects = shown
    assert verdict == "fail"
    assert "defect" in reason
    assert defects
    assert defects[0][0] == 1


def test_a_result_shows_itself(shown):
    result = shown[2]
    element = result._repr_html_()
    page = html.unescape(element[element.index('srcdoc="') : element.index('" sandbox=')])
    assert result.specimen in page
    scene = json.loads(page.split('class="scene">')[1].split("</script>")[0])
    assert len(scene["defects"]) == len(result.defects)
    assert scene["count"] > 1000


def test_has_no_outputs_that_could_grow_old():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
