"""Which backend and which numbers a cluster is reconciled with."""

import os
from functools import partial
from pathlib import Path

from django.conf import settings

from proj.backend import Backend, Misconfigured
from proj.clock import now
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection
from proj.ganeti.states import ENDS_ONLY, JOB_BLIND, LIST_ONLY, STATUS_OF_WORD, TOLD_BY_LISTS
from proj.inventory.models import Cluster, UnknownPolicy
from proj.reconcile.context import Context
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning
from proj.semaphore import hold


def tuning() -> Tuning:
    """Return the numbers of the engine, as set by the operator."""
    return Tuning(
        look_period=settings.LOOK_PERIOD.total_seconds(),
        look_period_min=settings.LOOK_PERIOD_MIN.total_seconds(),
        follow_period=settings.FOLLOW_PERIOD.total_seconds(),
        gone_after=settings.GONE_AFTER.total_seconds(),
        proof_within=settings.PROOF_WITHIN.total_seconds(),
    )


def context() -> Context:
    """Return what every turn works with."""
    return Context(backend_of, policy_of, tuning(), now)


def policy_of(cluster: Cluster) -> Policy:
    """Return the rules by which instances of ``cluster`` are decided."""
    return Policy(
        adopt=cluster.unknown == UnknownPolicy.ADOPT,
        proof_within=settings.PROOF_WITHIN,
        gone_after=settings.GONE_AFTER,
        doubt=settings.PROOF_WITHIN + settings.LOOK_PERIOD,
        list_only=LIST_ONLY,
        ends_only=ENDS_ONLY,
        job_blind=JOB_BLIND,
        list_fields=TOLD_BY_LISTS,
    )


def backend_of(cluster: Cluster) -> Backend:
    """Return a connection to the cluster. Nothing is sent before its first method is called.

    Raises:
        Misconfigured: the password cannot be read.
    """
    statuses = {**STATUS_OF_WORD, **settings.GANETI_STATUSES}
    gate = partial(hold, cluster.name, cluster.max_requests)
    return GanetiBackend(connection_of(cluster), gate, statuses)


def connection_of(cluster: Cluster) -> Connection:
    """Return how to reach a cluster's RAPI.

    Raises:
        Misconfigured: the password cannot be read.
    """
    return Connection(
        name=cluster.name,
        host=cluster.host,
        port=cluster.port,
        user=cluster.user,
        password=password_of(cluster),
        certificate=cluster.certificate or None,
        insecure=cluster.insecure,
        certificates=settings.VAR_DIR / "certificates",
    )


def password_of(cluster: Cluster) -> str:
    """Read the password from where the cluster says it is.

    Raises:
        Misconfigured: the file or the variable is missing or empty.
    """
    kind, _, place = cluster.password_source.partition(":")
    if kind == "env":
        password = os.environ.get(place, "")
        if not password:
            raise Misconfigured(f"{cluster.name}: the variable {place} with the password is empty")
        return password
    try:
        password = Path(place).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(
            f"{cluster.name}: cannot read the password file {place}: {error.strerror}"
        ) from None
    if not password:
        raise Misconfigured(f"{cluster.name}: the password file {place} is empty")
    return password
