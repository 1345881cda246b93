"""The README's examples run in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_every_python_block_runs(tmp_path: Path) -> None:
    """A block that starts with a file name is a module for the blocks after it."""
    programs = []
    for number, block in enumerate(blocks("python")):
        name = re.match(r"# (\w+\.py)\n", block)
        path = tmp_path / (name.group(1) if name else f"block_{number}.py")
        path.write_text(block)
        programs.append(path)
    assert "nearest.py" == programs[0].name
    assert len(programs) >= 3
    for path in programs:
        done = subprocess.run(
            [sys.executable, "-W", "error", path],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert (0, "") == (done.returncode, done.stderr), path.name


def test_module_table_names_every_module() -> None:
    """Each module that an author may import has a row; helpers of tensors do not."""
    package = Path(__file__).parent.parent / "src" / "oip_handler"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    named = set(re.findall(r"^\| `oip_handler\.(\w+)` \|", README, re.MULTILINE))
    assert named == modules - {"array_list", "list_checks"}


def test_entry_point_names_the_first_example() -> None:
    """Its group is the host's, and its class is in the first block."""
    (toml,) = blocks("toml")
    parser = ConfigParser()  # it reads TOML this simple; tomllib needs Python 3.11
    parser.read_string(toml)
    entry_points = parser['project.entry-points."oip.handlers"']
    module, name = entry_points["nearest"].strip('"').split(":")
    assert f"# {module}.py" in blocks("python")[0]
    assert f"class {name}(ModelHandler):" in blocks("python")[0]
    assert '["oip-handler>=0.1"]' == parser["project"]["dependencies"]
