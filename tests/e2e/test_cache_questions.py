"""The questions that people ask of a build cache: each test is a row of docs/explanation/cache.md."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lamina.testing import bases, images
from lamina.testing.project import Project
from lamina.testing.registry import MemoryRegistry, docker_registry

APP = """
    FROM base:1
    COPY src /src
    RUN cat /src/a > /out
    """


@pytest.fixture
def app(project: Project) -> Project:
    project.write({"src/a": "alpha\n", "src/b": "beta\n"})
    project.dockerfile(APP)
    assert project.build().verdicts() == "xx"
    return project


class Site(ThreadingHTTPServer):
    """Pages by path; each answer has an ETag when the page has one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.pages: dict[str, tuple[bytes, str | None]] = {}
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Pages(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        body, etag = page
        if etag and self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_nothing_changed(app: Project) -> None:
    again = app.build()
    assert again.verdicts() == "CC"
    assert all(row.code == "same-key" for row in again.rows if row.verdict == "hit")


def test_file_touched_is_a_hit(app: Project) -> None:
    os.utime(app.folder / "src/a", (1, 1))
    os.utime(app.folder / "src", (2, 2))
    assert app.build().verdicts() == "CC"


def test_same_commit_in_another_folder_is_a_hit(app: Project, tmp_path: Path) -> None:
    shutil.copytree(app.folder, tmp_path / "elsewhere" / "deep")
    assert app.build(context=tmp_path / "elsewhere" / "deep").verdicts() == "CC"


def test_other_umask_is_a_hit(app: Project) -> None:
    for path in [app.folder / "src", *app.folder.rglob("src/*")]:
        path.chmod(path.stat().st_mode | 0o020)
    assert app.build().verdicts() == "CC"
    exact = app.build("--exact-modes")
    assert exact.verdicts() == "xx"


def test_one_byte_changed_names_the_file(app: Project) -> None:
    app.write({"src/b": "bet4\n"})
    again = app.build()
    assert again.verdicts() == "xx"
    assert again.row("COPY").code == "file-changed"
    assert "src/b" in again.row("COPY").message or "b" in again.row("COPY").message.split()
    assert again.row("RUN").code == "parent-changed"
    assert "COPY src /src" in again.row("RUN").message


def test_same_size_and_mtime_is_still_a_miss(app: Project) -> None:
    """BuildKit's oldest stale hit: a file rewritten with equal size and mtime was not sent again."""
    path = app.folder / "src/a"
    before = path.stat()
    path.write_text("alphb\n"[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert app.build().verdicts() == "xx"


def test_epoch_mtimes_are_safe(app: Project) -> None:
    os.utime(app.folder / "src/a", (0, 0))
    assert app.build().verdicts() == "CC"
    (app.folder / "src/a").write_text("ALPHA\n")
    os.utime(app.folder / "src/a", (0, 0))
    assert app.build().verdicts() == "xx"


def test_added_removed_and_mode_changes_are_named(app: Project) -> None:
    app.write({"src/new": "n\n"})
    added = app.build().row("COPY")
    assert (added.code, "new" in added.message) == ("file-added", True)
    (app.folder / "src/new").unlink()
    assert app.build().verdicts() == "CC"
    (app.folder / "src/b").chmod(0o755)
    mode = app.build().row("COPY")
    assert mode.code == "mode-changed"
    assert "755" in mode.message
    (app.folder / "src/b").unlink()
    removed = app.build().row("COPY")
    assert removed.code == "file-removed"


def test_cut_off_behind_run(project: Project) -> None:
    """A step that ran again and came out the same lets what follows hit."""
    project.write({"version": "1\n"})
    project.dockerfile(
        """
        FROM base:1
        COPY version /version
        RUN cut -c1 /version > /major && rm /version
        RUN echo built > /result
        FROM base:1
        COPY --from=0 /major /
        RUN cat /major > /out
        """
    )
    project.build()
    project.write({"version": "1.9\n"})
    again = project.build()
    assert again.row("COPY --from=0").verdict == "hit"
    assert again.row("RUN cat").verdict == "hit"
    project.dockerfile("FROM base:1\nARG WHEN\nRUN echo same > /same\nRUN echo next > /next\n")
    project.build("--build-arg", "WHEN=1")
    project.dockerfile("FROM base:1\nRUN echo same > /same #\nRUN echo next > /next\n")
    project.build()
    project.dockerfile("FROM base:1\nRUN echo same > /same ##\nRUN echo next > /next\n")
    cut = project.build()
    assert cut.row("RUN echo same").verdict == "ran"
    assert (cut.row("RUN echo next").verdict, cut.row("RUN echo next").code) == ("hit", "cut-off")
    project.environment["LAMINA_CUT_OFF"] = "off"
    project.dockerfile("FROM base:1\nRUN echo same > /same ###\nRUN echo next > /next\n")
    assert project.build().row("RUN echo next").verdict == "ran"


def test_build_argument_is_named(project: Project) -> None:
    project.dockerfile("FROM base:1\nARG MAJOR=1\nARG MINOR=0\nRUN echo $MAJOR.$MINOR > /v\n")
    project.build()
    again = project.build("--build-arg", "MINOR=2").row("RUN")
    assert (again.verdict, again.code) == ("ran", "arg-changed")
    assert "MINOR" in again.message
    assert "MAJOR" not in again.message


def test_unnamed_argument_counts_and_is_told(project: Project) -> None:
    project.dockerfile("FROM base:1\nARG GIT_SHA\nRUN echo 1 > /1\nRUN echo 2 > /2\n")
    first = project.build("--build-arg", "GIT_SHA=aaa")
    assert "GIT_SHA" in first.stderr
    assert project.build("--build-arg", "GIT_SHA=bbb").row("RUN echo 1").verdict == "ran"
    project.build("--build-arg", "GIT_SHA=aaa", "--arg-scope=named")
    assert project.build("--build-arg", "GIT_SHA=ccc", "--arg-scope=named").verdicts() == "CC"


def test_add_url_with_changed_bytes(project: Project, site: Site) -> None:
    site.pages["/f"] = (b"one", '"1"')
    project.dockerfile(f"FROM base:1\nADD {site.url}/f /f\nRUN cat /f > /out\n")
    assert project.build().verdicts() == "xx"
    assert project.build().verdicts() == "CC"
    site.pages["/f"] = (b"one", '"other etag, same bytes"')
    assert project.build().verdicts() == "CC"
    site.pages["/f"] = (b"two", '"2"')
    again = project.build()
    assert again.verdicts() == "xx"
    assert again.row("ADD").code == "remote-changed"
    assert site.url in again.row("ADD").message


def test_run_wget_is_a_hit_unless_watched(project: Project, site: Site) -> None:
    site.pages["/latest"] = (b"one", '"1"')
    text = f"FROM base:1\n# lamina: watch={site.url}/latest\nRUN wget -q -O /f {site.url}/latest\n"
    project.dockerfile(text.replace("# lamina", "# nothing"))
    assert project.build().verdicts() == "x"
    site.pages["/latest"] = (b"two", '"2"')
    assert project.build().verdicts() == "C"
    project.dockerfile(text)
    project.build()
    assert project.build().verdicts() == "C"
    site.pages["/latest"] = (b"three", '"3"')
    again = project.build()
    assert (again.row("RUN").verdict, again.row("RUN").code) == ("ran", "remote-changed")
    assert "/latest" in again.row("RUN").message


def test_watch_offline_uses_the_old_answer_and_says_so(project: Project, site: Site) -> None:
    site.pages["/latest"] = (b"one", '"1"')
    project.dockerfile(f"FROM base:1\n# lamina: watch={site.url}/latest\nRUN echo 1 > /1\n")
    project.build()
    site.shutdown()
    site.server_close()
    again = project.build()
    assert again.verdicts() == "C"
    assert "/latest" in again.stderr


def test_max_age_in_the_file(project: Project) -> None:
    project.dockerfile("FROM base:1\n# lamina: max-age=1d\nRUN date > /when\nRUN cp /when /copy\n")
    project.build()
    assert project.build().verdicts() == "CC"
    project.dockerfile("FROM base:1\n# lamina: max-age=0s\nRUN date > /when\nRUN cp /when /copy\n")
    again = project.build()
    assert (again.row("RUN date").verdict, again.row("RUN date").code) == ("ran", "expired")


def test_max_age_flag(project: Project) -> None:
    project.dockerfile("FROM base:1 AS deps\nRUN echo 1 > /1\nFROM deps\nRUN echo 2 > /2\n")
    project.build()
    assert project.build("--max-age", "deps=1h").verdicts() == "CC"
    again = project.build("--max-age", "deps=0s")
    assert (again.row("RUN echo 1").code, again.row("RUN echo 2").verdict) == ("expired", "hit")


def test_no_cache_and_filter(project: Project) -> None:
    project.dockerfile("FROM base:1 AS deps\nRUN echo 1 > /1\nFROM base:1\nRUN echo 2 > /2\nCOPY --from=deps /1 /1\n")
    project.build()
    all_ran = project.build("--no-cache")
    assert all_ran.verdicts() == "xxx"
    assert all(r.code == "forced" for r in all_ran.rows if r.verdict == "ran")
    one = project.build("--no-cache-filter", "deps")
    assert (one.row("RUN echo 1").verdict, one.row("RUN echo 2").verdict, one.row("COPY").verdict) == ("ran", "hit", "hit")


def test_refresh_selectors(project: Project) -> None:
    project.dockerfile("FROM base:1 AS deps\nRUN echo 1 > /1\nRUN date > /2\nFROM base:1\nCOPY --from=deps /1 /1\n")
    project.build()
    by_text = project.build("--refresh", "RUN echo 1")
    assert [r.verdict for r in by_text.rows if r.text.startswith("RUN")] == ["ran", "hit"]
    by_stage = project.build("--refresh", "deps")
    assert [r.verdict for r in by_stage.rows if r.text.startswith("RUN")] == ["ran", "ran"]
    assert by_stage.row("COPY").verdict == "hit"
    wrong = project.build("--refresh", "dpes", ok=False)
    assert wrong.code == 2
    assert "deps" in wrong.stderr


def test_cache_forget(project: Project) -> None:
    project.dockerfile("FROM base:1 AS deps\nRUN echo 1 > /1\nFROM deps\nRUN echo 2 > /2\n")
    project.build()
    done = project.run("cache", "forget", "deps")
    assert done.returncode == 0, done.stderr.decode()
    again = project.build()
    assert (again.row("RUN echo 1").verdict, again.row("RUN echo 1").code) == ("ran", "forgotten")
    assert again.row("RUN echo 2").verdict == "hit"


def test_one_stage_without_the_others(project: Project) -> None:
    project.dockerfile("FROM base:1 AS one\nRUN echo 1 > /1\nFROM base:1 AS two\nRUN echo 2 > /2\nFROM one\nRUN echo 3 > /3\n")
    only = project.build("--target", "two")
    assert only.verdicts() == "-x-"
    assert project.build().verdicts() == "x-x"


def test_base_of_the_store_moved(project: Project, tmp_path: Path) -> None:
    project.dockerfile("FROM base:1\nRUN echo 1 > /1\n")
    project.build()
    other = bases.busybox_tar(tmp_path / "other.tar", extra={"etc/release": b"2\n"})
    assert project.run("import", str(other), "base:1").returncode == 0
    again = project.build().row("RUN")
    assert (again.verdict, again.code) == ("ran", "base-changed")
    assert "base:1" in again.message


def base_with(release: bytes, **config: object) -> images.SimpleImage:
    settings = {"Env": ["PATH=/bin"], **config}
    return images.simple_image([images.busybox_tar(), images.tar_of({"etc/release": release})], config=settings)


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed (make test-deps)")
@pytest.mark.parametrize("options", [(), ("--pull",)], ids=["as-it-is", "pull"])
def test_base_tag_moved_in_its_registry(project: Project, tmp_path: Path, options: tuple[str, ...]) -> None:
    with docker_registry(tmp_path) as host:
        images.push(host, "team/base", "1", base_with(b"1\n"))
        project.dockerfile(f"FROM {host}/team/base:1\nRUN cat /etc/release > /out\nRUN echo 2 > /2\n")
        assert project.build().verdicts() == "xx"
        assert project.build(*options).verdicts() == "CC"
        images.push(host, "team/base", "1", base_with(b"1\n", Labels={"built": "again"}))
        assert project.build(*options).verdicts() == "CC", "the same layers under another manifest"
        images.push(host, "team/base", "1", base_with(b"2\n"))
        again = project.build(*options)
        assert again.verdicts() == "xx"
        first, second = (row for row in again.rows if row.text.startswith("RUN"))
        assert (first.code, second.code) == ("base-changed", "parent-changed")
        assert f"{host}/team/base:1 moved" in first.message
        assert "cat /etc/release" in second.message
        images.push(host, "team/base", "1", base_with(b"1\n"))
        assert project.build(*options).verdicts() == "CC", "and back"


def test_registry_of_the_base_does_not_answer(project: Project) -> None:
    image = base_with(b"1\n")
    with MemoryRegistry() as registry:
        name = f"{registry.host}/team/base:1"
        images.serve(registry, "team/base", "1", image)
        project.dockerfile(f"FROM {name}\nRUN cat /etc/release > /out\n")
        assert project.build().verdicts() == "x"
        registry.seen.clear()
        assert project.build().verdicts() == "C"
        assert [(seen.method, seen.path) for seen in registry.seen if seen.path != "/v2/"] == [("HEAD", "/v2/team/base/manifests/1")]
    offline = project.build()
    assert offline.verdicts() == "C"
    assert name in offline.stderr
    assert "the image that is here is used" in offline.stderr
    refused = project.build("--pull", ok=False)
    assert refused.code == 69
    assert registry.host in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_registry_is_asked_for_an_image_that_was_made_here(project: Project, busybox: Path) -> None:
    with MemoryRegistry() as registry:
        name = f"{registry.host}/team/base:1"
        images.serve(registry, "team/base", "1", base_with(b"1\n"))
        assert project.run("import", str(busybox), name).returncode == 0
        project.dockerfile(f"FROM {name}\nRUN echo 1 > /1\n")
        assert project.build().verdicts() == "x"
        assert project.build().verdicts() == "C"
        assert registry.seen == []
        assert project.build("--pull").verdicts() == "x", "--pull insists on the registry's"
        assert "/v2/team/base/manifests/1" in {seen.path for seen in registry.seen}


def test_plan_says_what_build_will_do(app: Project) -> None:
    assert app.run("plan", str(app.folder)).returncode == 0
    app.write({"src/a": "changed\n"})
    planned = app.run("plan", "--json", str(app.folder))
    assert planned.returncode == 3
    import json

    steps = {s["text"].split()[0]: s for s in json.loads(planned.stdout)["steps"]}
    assert steps["COPY"]["verdict"] == "miss"
    assert steps["COPY"]["reason"]["code"] == "file-changed"
    assert steps["RUN"]["verdict"] == "unknown"
    assert app.build().verdicts() == "xx", "the plan has executed nothing"


def test_why_tells_the_last_build(app: Project) -> None:
    app.write({"src/a": "changed\n"})
    app.build("-t", "app:1")
    said = app.run("why", "app:1").stdout.decode()
    assert "file-changed" in said or "changed" in said
    assert "COPY src /src" in said


def test_each_row_of_the_page_is_a_test_and_each_test_a_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "cache.md").read_text(encoding="utf-8")
    table = page.split("| --- |", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    assert len(table) > 20
    named = [re.fullmatch(r"\|.+\|.+\| `(test_\w+)` \|", row) for row in table]
    assert all(named), [row for row, found in zip(table, named) if not found]
    tests = {name for name in globals() if name.startswith("test_")} - {"test_each_row_of_the_page_is_a_test_and_each_test_a_row"}
    assert {found[1] for found in named if found} == tests
