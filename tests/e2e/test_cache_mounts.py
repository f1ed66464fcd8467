"""Cache mounts in real steps: what they begin with, what stays."""

from __future__ import annotations

import json

from lamina.testing.project import Project


def said(project: Project, *options: str) -> str:
    """What the steps of a build print, without their numbers."""
    lines = project.build(*options).stderr.splitlines()
    return "\n".join(line.partition(" | ")[2] for line in lines if line.startswith("#"))


def test_from_shows_the_sources_files_and_what_was_written_stays(project: Project) -> None:
    project.dockerfile("""
        FROM base:1 AS seed
        RUN mkdir -m 711 /seed && echo old > /seed/old
        FROM base:1
        RUN --mount=type=cache,id=c,target=/c,from=seed,source=/seed cat /c/old; stat -c %a /c; echo new > /c/new
        RUN --mount=type=cache,id=c,target=/c,from=seed,source=/seed cat /c/old /c/new
        RUN --mount=type=cache,id=c,target=/c ls /c | wc -l
        """)
    assert said(project) == "old\n711\nold\nnew\n0"
    project.dockerfile("""
        FROM base:1 AS seed
        RUN mkdir -m 711 /seed && echo old > /seed/old
        FROM base:1
        RUN --mount=type=cache,id=c,target=/c,from=seed,source=/seed echo again; cat /c/new
        """)
    assert said(project) == "again\nnew", "in a later build too"


def test_with_a_mode_it_begins_empty_and_is_another_mount(project: Project) -> None:
    project.dockerfile("""
        FROM base:1
        RUN --mount=type=cache,id=c,target=/c touch /c/plain
        RUN --mount=type=cache,id=c,target=/c,mode=0700 stat -c %a /c; ls /c | wc -l
        RUN --mount=type=cache,id=c,target=/c,mode=0750,from=base:1 stat -c %a /c; ls /c | wc -l
        """)
    assert said(project) == "700\n0\n750\n0"


def test_pruning_empties_it_and_the_step_still_hits(project: Project) -> None:
    project.dockerfile("""
        FROM base:1
        RUN --mount=type=cache,id=c,target=/c echo x >> /c/runs; wc -l < /c/runs
        """)
    assert said(project, "-t", "a:1") == "1"
    assert said(project, "-t", "a:1", "--no-cache") == "1", "a forced step begins with an empty one"
    assert project.build("-t", "a:1").verdicts() == "C"
    done = project.run("cache", "prune", "--all")
    assert b"1 cache mounts" in done.stdout, done.stderr
    mounts = next(row for row in json.loads(project.run("cache", "du", "--json").stdout) if row["kind"] == "cache-mounts")
    assert mounts["size"] == 0
