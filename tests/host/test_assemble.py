"""The options are read once by each command and program, and once by each reload."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.process import SUPPORT, Server, run, wait_for

Serve = Callable[..., Server]

COUNTED = (sys.executable, str(SUPPORT / "count_reads.py"))
ECHO = "--handlers=echo=fakes:Echo"


def reads(number: int, of_arguments: int | None = None) -> str:
    """Return the last line of a process that has read the options this often."""
    counts = {
        "from_arguments": number if of_arguments is None else of_arguments,
        "from_environment": number,
        "from_properties": number,
        "read": number,
    }
    return f"reads: {sorted(counts.items())}"


@pytest.mark.parametrize(
    ("command", "of_arguments"), [("list", 1), ("check", 1), ("manifest", 2)]
)
def test_command_reads_the_options_once(command: str, of_arguments: int) -> None:
    """A process reads arguments, environment and properties once.

    `manifest` also parses the arguments that are left over for its own options.
    """
    done = run(*COUNTED, "oip-host", command, ECHO)
    assert (0, reads(1, of_arguments)) == (
        done.returncode,
        done.stderr.splitlines()[-1],
    )


def test_serve_reads_the_options_once(serve: Serve) -> None:
    """Only a reload reads them again."""
    server = serve(ECHO, program=(*COUNTED, "oip-host", "serve")).wait_until_ready()
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded: no option has changed" in server.log, "the reload")
    assert 0 == server.stop()
    assert server.log.endswith(reads(2) + "\n")


def test_each_worker_reads_the_options_once(serve: Serve, tmp_path: Path) -> None:
    """The supervisor and each worker read the options once, properties included."""
    (tmp_path / "oip.properties").write_text("oip_max_connections=99\n")
    server = serve(
        ECHO,
        "--workers=2",
        program=(*COUNTED, "oip-host", "serve"),
        env={"KRAUSENING_BASE": str(tmp_path)},
    )
    server.wait_until_ready()
    wait_for(lambda: server.log.count("is listening") == 2, "both workers")
    assert 0 == server.stop()
    assert [reads(1)] * 3 == re.findall(r"^reads: .*$", server.log, re.MULTILINE)


@pytest.mark.parametrize(
    "start",
    [
        "AissembleOIPKServe('echo', Echo()).start_server()",
        "ModelServer(grace_period_s=7, log_level='debug', model_dir=Path('/models'),"
        " models={'echo': {'max_queue': 3}})"
        ".start([AissembleOIPKServe('echo', Echo())])",
    ],
    ids=["start_server", "ModelServer"],
)
def test_program_reads_the_options_once(
    serve: Serve, tmp_path: Path, start: str
) -> None:
    """The options that the program sets are part of that reading and of each reload."""
    file = tmp_path / "program.py"
    file.write_text(
        "from pathlib import Path\n"
        "from fakes import Echo\n"
        "from oip_host import AissembleOIPKServe, ModelServer\n"
        f"{start}\n"
    )
    server = serve(program=(*COUNTED, str(file))).wait_until_ready()
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded: no option has changed" in server.log, "the reload")
    assert 0 == server.stop()
    assert server.log.rstrip().endswith(reads(2))


def test_invalid_option_of_a_program_is_a_fault(tmp_path: Path) -> None:
    """The error names the option as the program spells it."""
    file = tmp_path / "program.py"
    file.write_text(
        "from oip_host import ModelServer\nModelServer(http_port=-1).start([])\n"
    )
    done = run(sys.executable, str(file))
    assert 2 == done.returncode
    assert "http_port in the program: found -1, expected greater than" in done.stderr


def test_fresh_clone_serves_without_a_warning(serve: Serve) -> None:
    """`make serve` logs at INFO which installed handlers lack settings."""
    server = serve().wait_until_ready()
    wait_for(lambda: "Try: curl" in server.log, "the table of models")
    assert 0 == server.stop()
    assert [] == [line for line in server.log.splitlines() if "WARNING" in line]
    assert 1 == server.log.count("handlers not served: ")
    for handler in ("onnx", "sklearn"):
        needs = f"needs models.{handler}.settings.path"
        assert f"{handler} ({needs})" in server.log
        assert re.search(rf" {handler} .*not served .* {needs}", server.log)
