"""Rules of the code beside its layers: imports, and their freedom from effects."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from support.process import run

SOURCE = Path(__file__).parent.parent / "src" / "oip_host"


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): ast.parse(
            path.read_text()
        )
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }


def imports(tree: ast.AST) -> set[str]:
    """Return every module that a tree imports, at any level."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_kserve_is_imported_in_one_place() -> None:
    """Only `kserve/api.py` imports kserve: it hides the arguments that kserve reads."""
    users = {
        name
        for name, tree in modules().items()
        if any(module.split(".")[0] == "kserve" for module in imports(tree))
    }
    assert users == {"kserve.api"}


@pytest.mark.parametrize("package", ["starlette", "fastapi", "uvicorn", "grpc"])
def test_only_the_edge_imports_servers(package: str) -> None:
    """Only modules of the edge import libraries that serve bytes."""
    users = {
        name
        for name, tree in modules().items()
        if any(module.split(".")[0] == package for module in imports(tree))
    }
    assert users
    assert all(name.startswith("edge.") for name in users)


def test_host_imports_no_drop_in_package() -> None:
    """The upstream import paths lead to the host, and never the other way."""
    for name, tree in modules().items():
        assert not [m for m in imports(tree) if m.startswith("aissemble_")], name


def test_importing_has_no_effects() -> None:
    """Importing every module reads no argument, starts no thread and logs nothing."""
    names = [f"oip_host.{name}" for name in modules()]
    program = f"""
import importlib, json, logging, sys, threading
sys.argv = ["x", "--http_port=wrong", "--model", "m", "--log", "info"]
for name in {names!r}:
    importlib.import_module(name)
from kserve import model_server
print(json.dumps({{
    "argv": sys.argv[1:],
    "threads": threading.active_count(),
    "handlers": len(logging.getLogger("oip_host").handlers),
    "model_name": model_server.args.model_name,
}}))
"""
    done = run(sys.executable, "-c", program)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "argv": ["--http_port=wrong", "--model", "m", "--log", "info"],
        "threads": 1,
        "handlers": 0,
        "model_name": "model",
    }


@pytest.mark.parametrize("command", [["--help"], ["list"]], ids=["help", "list"])
def test_quick_command_imports_no_server(command: list[str]) -> None:
    """`--help` and `list` import no server, so they are quick."""
    program = f"""
import sys
sys.argv = ["oip-host", *{command!r}]
from oip_host.cli.app import main
try:
    main()
except SystemExit:
    pass
print("kserve" in sys.modules, "fastapi" in sys.modules, "grpc" in sys.modules)
"""
    done = run(sys.executable, "-c", program)
    assert done.stdout.splitlines()[-1] == "False False False"


def test_compiled_messages_match_the_proto(tmp_path: Path) -> None:
    """`oip.binpb` is the output of `make proto` for `oip.proto`."""
    pytest.importorskip("grpc_tools", reason="this kserve brings no protoc")
    out = tmp_path / "oip.binpb"
    done = run(
        sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE / 'edge' / 'grpc'}",
        "--include_imports", f"--descriptor_set_out={out}", "oip.proto",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (SOURCE / "edge" / "grpc" / "oip.binpb").read_bytes() == out.read_bytes()
