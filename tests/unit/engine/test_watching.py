"""The rounds of `lamina watch`, notifications of registries, and the listener for them."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.outdated import BaseReport, ImageReport
from lamina.engine.freshness.rebuild import Rebuilt
from lamina.engine.freshness.watching import Event, Events, Looked, Pushed, Round, Watch, parse_notification
from lamina.engine.freshness.webhook import BadListener, listening
from lamina.oci.digest import sha256

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DISTRIBUTION = {
    "events": [
        {"action": "push", "target": {"mediaType": MANIFEST, "repository": "team/base", "tag": "1"}, "request": {"host": "127.0.0.1:5000"}},
        {
            "action": "push",
            "target": {"mediaType": "application/octet-stream", "repository": "team/base"},
            "request": {"host": "127.0.0.1:5000"},
        },
        {
            "action": "pull",
            "target": {"mediaType": MANIFEST, "repository": "team/other", "tag": "1"},
            "request": {"host": "127.0.0.1:5000"},
        },
    ]
}


def test_notifications_of_a_distribution_registry() -> None:
    assert parse_notification(json.dumps(DISTRIBUTION).encode()) == (Pushed("127.0.0.1:5000", "team/base", "1"),)


def test_notifications_of_docker_hub() -> None:
    raw = b'{"push_data": {"tag": "12"}, "repository": {"repo_name": "library/debian"}}'
    assert parse_notification(raw) == (Pushed("docker.io", "library/debian", "12"),)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"events": 5}',
        b'{"events": [5, {}, {"action": "push", "target": {"repository": 3}}]}',
        b"[" * 90_000,
        b"\xff",
    ],
)
def test_what_is_no_notification(raw: bytes) -> None:
    assert parse_notification(raw) == ()


@pytest.mark.parametrize(
    ("pushed", "reference", "means"),
    [
        ("docker.io/library/debian:12", "docker.io/library/debian:12", True),
        ("docker.io/library/debian:12", "docker.io/library/debian:11", False),
        ("*/debian:12", "docker.io/library/debian:12", True),
        ("*/team/base", "127.0.0.1:5000/team/base:7", True),
        ("registry:5000/team/base:7", "registry.example/team/base:7", True),
        ("127.0.0.1:5000/team/base:7", "127.0.0.1:5000/team/base2:7", False),
    ],
)
def test_which_references_a_push_means(pushed: str, reference: str, means: bool) -> None:
    assert Pushed.parse(pushed).means(reference) is means
    assert Pushed.parse(str(Pushed.parse(pushed))) == Pushed.parse(pushed)


class Script:
    """A look for each round, with what it was asked for."""

    def __init__(self, *answers: Looked | LaminaError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Pushed, ...] | None] = []
        self.rounds: list[Round] = []

    def look(self, pushed: tuple[Pushed, ...] | None) -> Looked:
        self.asked.append(pushed)
        answer = self.answers.pop(0) if self.answers else Looked((), 0)
        if isinstance(answer, LaminaError):
            raise answer
        return answer

    def said(self, done: Round, found: Looked | None) -> None:
        self.rounds.append(done)


BEHIND = Looked(
    (ImageReport(("app:1",), sha256(b"i"), "linux/amd64", "outdated", (BaseReport("base:1", "linux/amd64", "moved", sha256(b"b")),)),),
    1,
    rebuilt=(Rebuilt(("app:1",), "rebuilt"),),
)


def run(script: Script, events: Events, *, rounds: int = 0, interval: float = 1e6, file: Path | None = None) -> None:
    Watch(script.look, events, interval=interval, now=lambda: 1000.0, said=script.said, file=file).run(rounds)


def test_pushes_that_came_in_together_are_one_round(tmp_path: Path) -> None:
    events: Events = queue.Queue()
    one, two = Pushed("r:1", "a", "1"), Pushed("r:1", "b", "2")
    for event in (Event((one,)), Event((two,)), Event((one,))):
        events.put(event)
    script = Script(BEHIND)
    run(script, events, rounds=2, file=tmp_path / "report.json")
    assert script.asked == [None, (one, two)]
    document = json.loads((tmp_path / "report.json").read_text())
    assert [each["because"] for each in document["rounds"]] == ["push", "start"]
    assert document["rounds"][1]["outdated"] == ["app:1"]
    assert document["rounds"][1]["rebuilt"][0]["outcome"] == "rebuilt"


def test_intervals() -> None:
    script = Script()
    run(script, queue.Queue(), rounds=3, interval=0.0)
    assert [each.because for each in script.rounds] == ["start", "interval", "interval"]


def test_stopping_ends_it_also_behind_pushes() -> None:
    events: Events = queue.Queue()
    events.put(Event((Pushed("r:1", "a", "1"),)))
    events.put(Event(stop=True))
    script = Script()
    run(script, events)
    assert script.asked == [None]


def test_a_round_that_fails_is_told_and_the_next_one_comes() -> None:
    script = Script(LaminaError("the store is away"), BEHIND)
    run(script, queue.Queue(), rounds=2, interval=0.0)
    assert script.rounds[0].error == "the store is away"
    assert script.rounds[1].outdated == ("app:1",)


def post(where: str, data: bytes, **headers: str) -> int:
    request = urllib.request.Request(f"http://{where}/", data=data, headers=headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_listener_hands_on_what_was_pushed() -> None:
    events: Events = queue.Queue()
    with listening("127.0.0.1:0", None, events) as where:
        assert post(where, json.dumps(DISTRIBUTION).encode()) == 202
        assert post(where, b"nonsense") == 200
        assert post(where, b"", **{"Content-Length": str(1 << 40)}) == 413
    assert events.get_nowait().pushed == (Pushed("127.0.0.1:5000", "team/base", "1"),)
    assert events.empty()


def test_the_token_is_wanted_where_there_is_one() -> None:
    events: Events = queue.Queue()
    data = json.dumps(DISTRIBUTION).encode()
    with listening("127.0.0.1:0", "t0ken", events) as where:
        assert post(where, data) == 401
        assert post(where, data, Authorization="Bearer wrong") == 401
        assert events.empty()
        assert post(where, data, Authorization="Bearer t0ken") == 202


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "example.com:1"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(BadListener), listening(address, None, queue.Queue()):
        pass
