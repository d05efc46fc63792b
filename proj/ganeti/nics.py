"""The NIC tuples of OP_INSTANCE_QUERY_DATA, whose shape changed with Ganeti's versions."""

from collections.abc import Sequence
from typing import Any

from proj.ganeti.values import text_of
from proj.observation import Nic

# The fields that are kept, by the tuple's length: 4 is Ganeti 2.4 to 2.6, 6 is 2.7,
# 8 is 2.8 and 2.9, 9 is 2.10 and later.
_POSITIONS = {
    4: {"ip": 0, "mac": 1, "mode": 2, "link": 3},
    6: {"ip": 0, "mac": 1, "mode": 2, "link": 3},
    8: {"ip": 2, "mac": 3, "mode": 4, "link": 5},
    9: {"ip": 2, "mac": 3, "mode": 4, "link": 5},
}


def parse_nic(fields: Sequence[Any]) -> Nic:
    """Read one NIC tuple of any version from 2.4 to 3.1.

    Raises:
        ValueError: the tuple has a length that no version gives, or a field is not text.
    """
    positions = _POSITIONS.get(len(fields))
    if positions is None:
        raise ValueError(f"a NIC of {len(fields)} fields; known are 4, 6, 8 and 9")
    values = {name: fields[position] for name, position in positions.items()}
    for name, value in values.items():
        if value is not None:
            text_of(value, f"NIC's {name}")
    return Nic(**values)
