"""Models with replicas in Ray Serve: what they need, and how their handler is made."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from oip_handler.errors import HandlerFault
from oip_host.config.model_options import Key, ModelOptions, label
from oip_host.host.model_configuration import ImportedHandler, ModelConfiguration
from oip_host.plugins.choice import Choice
from oip_host.replicas.cluster import Cluster
from oip_host.replicas.handler import Replicated, deployment_options
from oip_host.replicas.replica import Blueprint, RawSettings, local_path

__all__ = ["build_remote_source", "find_missing_tools"]


def find_missing_tools(key: Key, options: ModelOptions | None) -> list[str]:
    """Return a line for each package that the replicas of a model lack in the host."""
    if options is None or not options.is_replicated:
        return []
    name = f"models.{label(key)}"
    faults = []
    if find_spec("ray") is None:
        faults.append(
            f"{name}: replicas need Ray, which is not installed: "
            "pip install 'oip-host[ray]'"
        )
    if {"pip", "uv"} & set(options.runtime_env) and find_spec("pip") is None:
        faults.append(
            f"{name}.runtime_env: Ray installs packages with pip, which is not in the "
            "host's environment; install it, or use py_executable"
        )
    return faults


def build_remote_source(
    choice: Choice,
    imported: ImportedHandler,
    configured: ModelConfiguration,
    cluster: Cluster,
    model_dir: str | None,
) -> partial[Replicated]:
    """Return what makes the handler that passes requests on to replicas."""
    options = configured.options or ModelOptions()
    is_remote = imported.is_remote
    blueprint = Blueprint(
        choice.item.model,
        choice.item.version,
        choice.entry.target if is_remote else imported.handler,
        choice.entry.target,
        configured.arguments,
        RawSettings(configured.values, model_dir) if is_remote else None,
        options.max_concurrency,
        () if is_remote else local_path(),
    )

    # a reload starts new replicas beside the old ones
    cpus = 1.0 if options.num_cpus is None else options.num_cpus
    cluster.expect(2 * options.most_replicas * cpus)
    return partial(_connect, cluster, blueprint, imported.reason, options)


def _connect(
    cluster: Cluster, blueprint: Blueprint, reason: str | None, options: ModelOptions
) -> Replicated:
    """Return the handler of the replicas; raises HandlerFault for a failed import."""
    if reason is not None:
        raise HandlerFault(reason)
    return Replicated(
        cluster,
        blueprint,
        deployment_options(blueprint.handler, options),
        most_replicas=options.most_replicas,
        idempotent=options.idempotent,
    )
