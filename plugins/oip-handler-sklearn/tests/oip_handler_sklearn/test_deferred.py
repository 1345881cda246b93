"""Leaving scipy.stats out of scikit-learn's import, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest


def printed(program: str) -> str:
    """What a program prints in a process that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_iris_loads_without_scipy_stats() -> None:
    """The embedded default answers, and scipy.stats was never imported."""
    assert "True False" == printed(
        "import sys\n"
        "from oip_handler_sklearn import IrisHandler\n"
        "loaded = IrisHandler().model_load('iris')\n"
        "print(loaded, 'scipy.stats' in sys.modules)"
    )


@pytest.mark.parametrize(
    "use",
    [
        "import scipy.stats as stats",
        "from scipy import stats",
        "import scipy; stats = scipy.stats",
        "import scipy.stats.qmc; stats = sys.modules['scipy.stats']",
    ],
    ids=["import as", "from package", "attribute", "submodule"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "afterwards"])
def test_the_module_is_there_for_whoever_asks(use: str, inside: bool) -> None:
    """However it is imported, inside or afterwards, it leads to the real module."""
    block = f"    {use}\n" if inside else f"    pass\n{use}\n"
    assert "0.5 True" == printed(
        "import sys\n"
        "from oip_handler_sklearn.deferred import deferred\n"
        f"with deferred('scipy.stats'):\n{block}"
        "value = float(stats.norm.cdf(0.0))\n"
        "print(value, hasattr(sys.modules['scipy.stats'], '__file__'))"
    )


def test_threads_that_ask_at_once_all_get_it() -> None:
    """A first use from several threads at a time works in each."""
    assert "8" == printed(
        "import threading\n"
        "from oip_handler_sklearn.deferred import deferred\n"
        "found, start = [], threading.Barrier(8)\n"
        "with deferred('scipy.stats'):\n"
        "    import scipy.stats as stats\n"
        "    def use():\n"
        "        start.wait()\n"
        "        found.append(float(stats.norm.cdf(0.0)))\n"
        "    threads = [threading.Thread(target=use) for _ in range(8)]\n"
        "    [t.start() for t in threads]\n"
        "    [t.join() for t in threads]\n"
        "print(found.count(0.5))"
    )


def test_a_module_that_is_imported_stays() -> None:
    """Nothing is put in the place of a module that is there."""
    assert "True" == printed(
        "import sys, scipy.stats\n"
        "from oip_handler_sklearn.deferred import deferred\n"
        "real = sys.modules['scipy.stats']\n"
        "with deferred('scipy.stats'):\n"
        "    print(sys.modules['scipy.stats'] is real)"
    )
