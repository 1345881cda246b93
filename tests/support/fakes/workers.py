"""Handlers whose answers name their worker, served as `fakes.workers:Name`.

They and the tests share the directory named in WORKER_DIR.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

from oip_host import InferenceRequest, InferenceResponse, Parameters, ResponseOutput

from .echo import Echo, wait_while


def shared(name: str) -> Path:
    """Return a file that all workers and the test share."""
    return Path(os.environ["WORKER_DIR"]) / name


class Pid(Echo):
    """Answers its process id; holds a lock and a thread, which cannot be passed on.

    Each answer takes the lock and asks the thread. The load fails in the process with
    the id in `<model>.broken`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked, self.answered = threading.Event(), threading.Event()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while self.asked.wait():
            self.asked.clear()
            self.answered.set()

    def model_load(self, model_name: str) -> bool:
        broken = shared(f"{model_name}.broken")
        if broken.exists() and broken.read_text() == str(os.getpid()):
            raise OSError("no weights in this worker")
        return True

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        with self.lock:
            self.asked.set()
            self.answered.wait()
            self.answered.clear()
        time.sleep(0.002)  # long enough to be cut off
        return pid(model_name)


class Environment(Pid):
    """Answers the names of its process's variables that begin with `OIP_`."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        answer = pid(model_name)
        names = [name for name in os.environ if name.startswith("OIP_")]
        answer.parameters = Parameters.model_validate({"names": ",".join(names)})
        return answer


class SecondWaits(Pid):
    """Loads at once in the first process that tries, and in others once `go` exists."""

    def model_load(self, model_name: str) -> bool:
        try:
            shared(f"{model_name}.first").touch(exist_ok=False)
        except FileExistsError:
            wait_while(lambda: not shared("go").exists())
        return True


def pid(model: str) -> InferenceResponse:
    """Return an answer with the id of this process."""
    output = ResponseOutput.from_numpy("pid", np.array([os.getpid()], np.int64))
    return InferenceResponse(model_name=model, outputs=[output])
