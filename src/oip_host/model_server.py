"""Serving the models of a program of one's own, as `kserve.ModelServer` is used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from oip_host.config.model_options import Autoscaling, ModelOptions
from oip_host.config.settings import Settings
from oip_host.config.sources import flag
from oip_host.errors import ConfigurationError, nearest
from oip_host.host.host import Host
from oip_host.kserve.api import kserve
from oip_host.models.model import Model
from oip_host.replicas.cluster import Cluster
from oip_host.replicas.handler import Replicated
from oip_host.replicas.replica import Blueprint, Replica, local_path

__all__ = ["AissembleOIPKServe", "ModelServer", "serve"]

log = logging.getLogger("oip_host")


class AissembleOIPKServe(Model):
    """A handler as a `kserve.Model`, which can serve itself.

    `model_handler` is a handler, or a class or function without arguments that makes
    one when the model loads. A `kserve.Model` in its place is hosted as it is.
    """

    def start_server(self) -> None:
        """Serve this one model, configured by the program's own arguments.

        Where the configuration is wrong, the faults are logged, one line each, and the
        program exits with 2.
        """
        serve([self])


class ModelServer:
    """Serves models on the host, with the calls of KServe's own `ModelServer`.

    Options are those of the server, by the names of their arguments (`http_port`,
    `workers`, `drain_delay_s`), and go before the program's arguments.
    """

    def __init__(self, **options: Any) -> None:
        names = {flag(name)[2:] for name in Settings.model_fields}
        for name in options:
            if name not in names:
                raise TypeError(f"unknown option {name!r}{nearest(name, names)}")
        self._arguments = [
            f"--{name}={value}" for name, value in options.items() if value is not None
        ]

    def start(self, models: Mapping[str, Any] | Iterable[Any]) -> None:
        """Serve the models until a signal says to stop.

        Each is a `kserve.Model`, or a deployment of Ray Serve (`@serve.deployment`) of
        a class of such models or of handlers, which then runs in replicas. Keys of a
        mapping are the models' names. Raises TypeError for anything else.
        """
        named = models.items() if isinstance(models, Mapping) else _named(models)
        serve(
            [_hosted(name, model) for name, model in named],
            [*sys.argv[1:], *self._arguments],
        )


Hosted = Model | Callable[[Cluster], Model]


def serve(models: Sequence[Hosted], arguments: Sequence[str] | None = None) -> None:
    """Serve models that a program made until a signal says to stop.

    Where the configuration is wrong, the faults are logged, one line each, and the
    program exits with 2.
    """
    try:
        Host.of(models, arguments).run()
    except ConfigurationError as error:
        for fault in error.faults:
            log.error("%s", fault)
        raise SystemExit(2) from None


def _named(models: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return ((model.name, model) for model in models)


def _hosted(name: str, model: Any) -> Hosted:
    if isinstance(model, Model):
        return model
    if isinstance(model, kserve.Model):
        return AissembleOIPKServe(name, model)
    if hasattr(model, "func_or_class"):
        return partial(_replicated, name, model)
    raise TypeError(
        f"model '{name}' is a {type(model).__qualname__}, expected a kserve.Model or a "
        "deployment of Ray Serve"
    )


def _replicated(name: str, deployment: Any, cluster: Cluster) -> AissembleOIPKServe:
    """The model whose replicas a deployment of Ray Serve describes."""
    made = deployment.func_or_class
    blueprint = Blueprint(name, "1", made, made.__qualname__, path=local_path())
    scale = deployment._deployment_config.autoscaling_config  # Ray tells it only there
    most = scale.max_replicas if scale else deployment.num_replicas
    if scale:
        options = ModelOptions(autoscaling=Autoscaling(max=most))
    else:
        options = ModelOptions(replicas=most)
    cpus = (deployment.ray_actor_options or {}).get("num_cpus", 1.0)
    cluster.expect(2 * most * cpus)
    return AissembleOIPKServe(
        name,
        lambda: Replicated(
            cluster,
            blueprint,
            {
                "max_ongoing_requests": deployment.max_ongoing_requests,
                "max_constructor_retry_count": 1,
                "user_config": None,
            },
            most_replicas=most,
            deployment=deployment.options(func_or_class=Replica),
        ),
        options=options,
    )
