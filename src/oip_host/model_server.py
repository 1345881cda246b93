"""The server for programs with models of their own, used as `kserve.ModelServer`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from oip_host.config.model_options import Autoscaling, ModelOptions
from oip_host.config.settings import OPTIONS
from oip_host.config.sources import flag
from oip_host.errors import ConfigurationError, nearest
from oip_host.host.assemble import assemble
from oip_host.host.build import ModelSource, build_host
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

        If the configuration is wrong, the faults are logged, one line each, and the
        program exits with 2.
        """
        serve([self])


class ModelServer:
    """Serves models on the host, with the calls of KServe's own `ModelServer`.

    The options are those of the server, by the names of their arguments (`http_port`,
    `workers`, `drain_delay_s`). They take precedence over the program's arguments.
    """

    def __init__(self, **options: Any) -> None:
        names = {flag(name).removeprefix("--") for name in OPTIONS}
        for name in options:
            if name not in names:
                raise TypeError(f"unknown option {name!r}{nearest(name, names)}")
        self._options = options

    def start(self, models: Mapping[str, Any] | Iterable[Any]) -> None:
        """Serve the models until a signal says to stop.

        Each is a `kserve.Model`, or a deployment of Ray Serve (`@serve.deployment`) of
        a class of such models or of handlers, which then runs in replicas. Keys of a
        mapping are the models' names. Raises TypeError for anything else.
        """
        items: Iterable[tuple[str, Any]]
        if isinstance(models, Mapping):
            items = models.items()
        else:
            items = ((each.name, each) for each in list[Any](models))
        serve([_model_source(name, model) for name, model in items], self._options)


def serve(
    models: Sequence[ModelSource], options: Mapping[str, Any] | None = None
) -> None:
    """Serve models that a program made until a signal says to stop.

    `options` are those that the program sets itself, by the names of their arguments.
    If the configuration is wrong, the faults are logged, one line each, and the program
    exits with 2.
    """
    launch = assemble(sys.argv[1:], program=options)
    try:
        build_host(launch, models).run()
    except ConfigurationError as error:
        for fault in error.faults:
            log.error("%s", fault)
        raise SystemExit(2) from None


def _model_source(name: str, model: Any) -> ModelSource:
    """Return what the host serves for a model or deployment; raises TypeError."""
    if isinstance(model, Model):
        return model
    if isinstance(model, kserve.Model):
        return AissembleOIPKServe(name, model)
    if hasattr(model, "func_or_class"):
        return partial(_connect_replicas, name, model)
    raise TypeError(
        f"model '{name}' is a {type(model).__qualname__}, expected a kserve.Model or a "
        "deployment of Ray Serve"
    )


def _connect_replicas(
    name: str, deployment: Any, cluster: Cluster
) -> AissembleOIPKServe:
    """Return the model whose replicas a deployment of Ray Serve describes."""
    made = deployment.func_or_class
    blueprint = Blueprint(name, "1", made, made.__qualname__, path=local_path())
    scale = deployment._deployment_config.autoscaling_config  # public only there
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
