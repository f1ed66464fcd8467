"""Subnets of networks and addresses of containers."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from lamina.server import addresses
from lamina.server.addresses import POOLS, Addresses, asked_for, free_pool
from lamina.server.errors import ApiError

NET = IPv4Interface("10.1.0.1/29")


def test_pools_go_one_after_the_other_and_pass_over_routes_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = tmp_path / "route"
    routes.write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n"
        "docker0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n"
    )
    monkeypatch.setattr(addresses, "_ROUTES", routes)
    assert str(free_pool([])) == "172.18.0.0/16"
    assert str(free_pool([IPv4Network("172.18.4.0/24")])) == "172.19.0.0/16"
    with pytest.raises(ApiError, match="non-overlapping"):
        free_pool(POOLS)


def test_an_address_is_not_used_again_before_all_others_were() -> None:
    pool = Addresses(NET, None)
    taken = [pool.take() for _ in range(5)]
    assert [str(each.ip) for each in taken] == [f"10.1.0.{number}" for number in (2, 3, 4, 5, 6)]
    with pytest.raises(ApiError, match="no available"):
        pool.take()
    for each in taken[:2]:
        pool.give_back(each.ip)
    assert str(pool.take()) == "10.1.0.2/29"
    assert str(pool.take("10.1.0.3")) == "10.1.0.3/29"


@pytest.mark.parametrize(("wanted", "message"), [("10.1.0.1", "already in use"), ("10.2.0.2", "belong"), ("x", "invalid")])
def test_an_address_that_cannot_be_had(wanted: str, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        Addresses(NET, None).take(wanted)


def test_a_range_is_for_containers_only() -> None:
    pool = Addresses(IPv4Interface("10.1.0.1/24"), IPv4Network("10.1.0.128/31"))
    assert {str(pool.take().ip), str(pool.take().ip)} == {"10.1.0.128", "10.1.0.129"}
    with pytest.raises(ApiError):
        pool.take()


def test_what_a_client_asks_for() -> None:
    assert asked_for({}, []) == (None, None)
    found = asked_for({"Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.9", "IPRange": "10.9.0.64/26"}]}, [])
    assert found == (IPv4Interface("10.9.0.9/24"), IPv4Network("10.9.0.64/26"))


@pytest.mark.parametrize(
    "ipam",
    [
        {"Driver": "dhcp"}, {"Config": [{"Subnet": "fd00::/64"}]}, {"Config": [{"Subnet": "10.0.0.0/31"}]}, {"Config": [{"Subnet": "x"}]},
        {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.1.0.1"}]}, {"Config": [{"Subnet": "10.0.0.0/24"}, {"Subnet": "10.1.0.0/24"}]},
        {"Config": [{"Subnet": "172.18.5.0/24"}]},
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(ipam: dict[str, object]) -> None:
    with pytest.raises(ApiError):
        asked_for(ipam, [IPv4Network("172.18.0.0/16")])
