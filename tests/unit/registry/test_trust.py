from __future__ import annotations

from pathlib import Path

import pytest

from lamina.registry.transport import Transport, TransportSettings
from lamina.registry.trust import BadCertificates, context_for, own_certificates


def folder(tmp_path: Path, host: str, *names: str) -> Path:
    place = tmp_path / "certs.d" / host
    place.mkdir(parents=True)
    for name in names:
        (place / name).write_text("no certificate\n")
    return tmp_path / "certs.d"


def test_by_host_and_port(tmp_path: Path) -> None:
    found = own_certificates(
        (tmp_path / "none", folder(tmp_path, "r.example:5000", "ca.crt", "client.cert", "client.key")), "r.example:5000"
    )
    assert found is not None
    assert [path.name for path in found.authorities] == ["ca.crt"]
    assert [(one.name, other.name) for one, other in found.pairs] == [("client.cert", "client.key")]
    assert own_certificates((tmp_path / "certs.d",), "r.example") is None
    assert own_certificates((tmp_path / "certs.d",), "r.example:5001") is None


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    with pytest.raises(BadCertificates, match=r"client\.cert has no key"):
        own_certificates((folder(tmp_path, "r.example", "client.cert"),), "r.example")


@pytest.mark.parametrize("names", [("ca.crt",), ("client.cert", "client.key")])
def test_files_that_are_no_certificates(tmp_path: Path, names: tuple[str, ...]) -> None:
    certificates = (folder(tmp_path, "r.example", *names),)
    transport = Transport(TransportSettings(certificates=certificates))
    with pytest.raises(BadCertificates, match=names[0].replace(".", r"\.")), transport.request("GET", "https://r.example/v2/"):
        pass


def test_nothing_special_needs_no_context(tmp_path: Path) -> None:
    assert context_for(None, None) is None
    with pytest.raises(BadCertificates, match="none"):
        context_for(tmp_path / "none", None)
