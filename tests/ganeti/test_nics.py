from typing import Any

import pytest

from proj.ganeti.nics import parse_nic
from proj.observation import Nic

MAC = "aa:00:00:fc:99:26"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([None, MAC, "bridged", "br0"], id="2.4, the ticket's own"),
        pytest.param([None, MAC, "bridged", "br0", None, None], id="2.7"),
        pytest.param([None, "uuid", None, MAC, "bridged", "br0", None, None], id="2.8"),
        pytest.param([None, "uuid", None, MAC, "bridged", "br0", "", None, None], id="2.10 to 3.1"),
    ],
)
def test_the_same_nic_is_read_from_every_version(fields: list[Any]) -> None:
    assert parse_nic(fields) == Nic(ip=None, mac=MAC, mode="bridged", link="br0")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [([None, MAC], "2 fields"), ([1, MAC, "bridged", "br0"], "ip is 1, not text")],
)
def test_a_nic_of_unknown_shape_is_a_clear_error(fields: list[Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_nic(fields)
