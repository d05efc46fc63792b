"""The one grammar for names, held at every door: model, command, API, task and RAPI path."""

import re

INSTANCE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$"
"""No dot first: a dot segment would be folded out of a path."""

CLUSTER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
"""A word or a domain name."""

UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

_INSTANCE, _CLUSTER, _UUID = map(re.compile, (INSTANCE_NAME, CLUSTER_NAME, UUID))


def is_instance_name(text: str) -> bool:
    """Whether an instance may have this name at all."""
    return _INSTANCE.fullmatch(text) is not None


def is_cluster_name(text: str) -> bool:
    """Whether a cluster may have this name."""
    return _CLUSTER.fullmatch(text) is not None


def is_uuid(text: str) -> bool:
    """Whether this is a uuid as Ganeti writes them."""
    return _UUID.fullmatch(text) is not None
