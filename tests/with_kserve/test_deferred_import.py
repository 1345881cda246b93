"""KServe is imported without pandas, and no thread sees a fake pandas."""

from __future__ import annotations

import subprocess
import sys

from support.process import clean_environment

WATCHED = """
import sys, threading

done, faults = threading.Event(), []


def watch():
    while not done.is_set():
        for name in ("pandas", "kserve.api.kserve_client"):
            module = sys.modules.get(name)
            if module is not None and getattr(module, "__file__", None) is None:
                faults.append(name)


def use_pandas():
    while "kserve" not in sys.modules and not done.is_set():
        pass
    while True:
        import pandas
        if pandas.DataFrame({"a": [1, 2]}).shape != (2, 1):
            faults.append("use")
        if done.is_set():
            return


sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=target) for target in TARGETS]
for thread in threads:
    thread.start()
from oip_host.kserve.api import kserve
done.set()
for thread in threads:
    thread.join()
assert [] == faults, set(faults)
"""

LATER = """
import sys
from oip_host.kserve.api import InferInput, InferRequest, kserve

assert not {"pandas", "kserve.api.kserve_client"} & set(sys.modules), "deferred"
tensor = InferInput("x", [2], "INT32", [1, 2])
frame = InferRequest("m", [tensor]).as_dataframe()
assert [1, 2] == frame["x"].tolist()
assert "pandas" in sys.modules
from kserve import KServeClient
assert "kserve.api.kserve_client" == KServeClient.__module__
assert kserve.KServeClient is KServeClient
try:
    kserve.Nothing
except AttributeError as error:
    assert "Nothing" in str(error)
else:
    raise AssertionError("an unknown name is no name")
"""


def run(program: str) -> None:
    subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        timeout=100,
        check=True,
    )


def test_no_thread_sees_a_fake_module_during_the_import() -> None:
    """Neither `sys.modules` nor an import statement gives a fake module."""
    run(WATCHED.replace("TARGETS", "[watch]"))
    run(WATCHED.replace("TARGETS", "[watch, use_pandas]"))


def test_deferred_modules_are_imported_on_use() -> None:
    """KServe's data frames and its client are the real ones."""
    run(LATER)
