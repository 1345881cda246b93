"""From a launch to the host: models, server and observers, or every fault at once."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TypeAlias

from oip_host.auth import setup as auth
from oip_host.config.configuration import Configuration
from oip_host.edge.transport import certificates
from oip_host.errors import ConfigurationError
from oip_host.host.assemble import Launch
from oip_host.host.hook_observer import observe_with_hooks
from oip_host.host.host import Host
from oip_host.host.planning import Plan, PlannedModel, Wiring, plan
from oip_host.kserve import logs as kserve_logs
from oip_host.kserve.api import server_arguments
from oip_host.models.model import Model
from oip_host.replicas.cluster import Cluster
from oip_host.telemetry import otel
from oip_host.telemetry.inference_log import LatencyLog
from oip_host.telemetry.observer import Observer

__all__ = ["ModelSource", "build_host"]

log = logging.getLogger("oip_host")

ModelSource: TypeAlias = "Model | Callable[[Cluster], Model]"
"""A model that a program made, or what makes it with replicas in a cluster."""


def build_host(
    launch: Launch,
    models: Sequence[ModelSource] | None = None,
    model_class: type[Model] = Model,
) -> Host:
    """Return the host of a program's models, or of the selected handlers if None.

    Imports the selected handlers and constructs none. Raises ConfigurationError with
    every fault at once. An argument that neither the host nor KServe knows is a fault
    to the host's own command; with models of a program it is the program's.
    """
    configuration = launch.configuration
    settings = configuration.settings
    kserve_args, unknown = server_arguments(configuration.kserve_arguments)
    log_handler = kserve_logs.configure(settings)
    if settings.kserve_enable_latency_logging:
        latency_log = LatencyLog(log_handler, settings.oip_log_format)
        launch.plugins().register(latency_log)
    cluster = Cluster(settings.oip_ray_address, settings.oip_ray_token_file)
    observer = observe_with_hooks(launch.plugins())
    if models is None:
        wiring = Wiring(settings.oip_model_dir, observer, cluster, model_class)
        planned = _plan_selection(launch, wiring, unknown)
    else:
        planned = _plan_program(launch, models, cluster, observer)
    faults = [*launch.faults, *planned.faults]
    faults += _find_conflicts(planned, configuration, kserve_args)
    if models is None and not faults and not planned.models:
        faults = ["no installed handler can run as configured"]
    _report(planned, configuration)
    if faults:
        raise ConfigurationError(faults)
    return Host(planned, configuration, kserve_args, cluster, launch.worker)


def _plan_selection(launch: Launch, wiring: Wiring, unknown: Sequence[str]) -> Plan:
    """Return the plan for the selected handlers, all of its faults together."""
    if launch.plugin_dir_faults:
        return Plan(faults=(*launch.plugin_dir_faults, *unknown))
    selected = launch.select()
    planned = plan(selected.choices, launch.configuration.origins, wiring)
    return planned.with_faults([*unknown, *selected.faults])


def _plan_program(
    launch: Launch,
    models: Sequence[ModelSource],
    cluster: Cluster,
    observer: Observer,
) -> Plan:
    """Return the plan for models that a program made."""
    made = [each if isinstance(each, Model) else each(cluster) for each in models]
    for model in made:
        model.observe(observer)
    planned = tuple(PlannedModel(model) for model in made)
    return Plan(planned, faults=launch.plugin_dir_faults)


def _find_conflicts(
    planned: Plan, configuration: Configuration, kserve_args: Namespace
) -> list[str]:
    """Return a line for each reason why these models cannot be served as configured."""
    settings = configuration.settings
    return [
        *_find_shared_replicas(planned, settings.kserve_workers),
        *certificates.find_faults(settings, kserve_args),
        *auth.find_faults(settings),
        *otel.find_faults(settings),
    ]


def _find_shared_replicas(planned: Plan, workers: int) -> list[str]:
    """Return the fault of workers that would each start replicas of their own."""
    models = [each.model for each in planned.models]
    replicated = [model.name for model in models if model.options.is_replicated]
    if workers == 1 or not replicated:
        return []
    return [
        f"kserve_workers: found {workers}, expected 1 for models with replicas: "
        f"{', '.join(replicated)}"
    ]


def _report(planned: Plan, configuration: Configuration) -> None:
    """Log what to know of the configuration, whether or not it has faults."""
    warnings = auth.find_warnings(configuration)
    for line in (*configuration.warnings, *planned.warnings, *warnings):
        log.warning("%s", line)
    if planned.skipped:
        lines = (f"{each.handler} ({each.reason})" for each in planned.skipped)
        log.info("handlers not served: %s", "; ".join(lines))
