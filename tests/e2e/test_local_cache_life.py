"""The store's own cache as a user looks after it: every verb without a PLACE, a project's part, what goes by itself."""

from __future__ import annotations

import json

from lamina.testing.project import Project


def lamina(project: Project, *arguments: str, code: int = 0) -> str:
    done = project.run(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


def test_every_verb_without_a_place(project: Project) -> None:
    project.dockerfile("FROM base:1\nCOPY . /x\n")
    project.build()
    assert "COPY . /x" in lamina(project, "cache", "ls")
    assert "the store is sound" in lamina(project, "cache", "verify")
    assert "the store is sound" in lamina(project, "cache", "verify", "--bytes", "--repair")
    assert "hint: name a shared cache: dir:PATH" in lamina(project, "cache", "push", code=2)
    assert "hint: name a shared cache: dir:PATH" in lamina(project, "cache", "pull", code=2)
    explained = lamina(project, "cache", "prune", "--explain", "--dry-run", "--keep", "20GB", "--older-than", "7d")
    assert "keep " in explained
    assert "are left" in explained


def test_a_projects_part(project: Project) -> None:
    project.dockerfile("FROM base:1\nCOPY . /x\n")
    project.build()
    other = project.folder.parent / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM base:1\nCOPY . /y\n")
    project.build(context=other)
    shares = {line["name"]: line for line in json.loads(lamina(project, "cache", "du", "--json")) if line["kind"] == "project"}
    assert shares.keys() == {"context", "other"}
    said = lamina(project, "cache", "prune", "--project", "other", "--all", "--explain")
    assert said.count("remove ") == 1
    assert project.build().verdicts() == "C"
    assert project.build(context=other).verdicts() == "x"
    project.environment["LAMINA_PROJECT"] = "shop"
    (other / "more").write_text("")
    project.build(context=other)
    assert "shop" in lamina(project, "cache", "du")


def test_the_cap_of_the_environment(project: Project) -> None:
    project.dockerfile("FROM base:1\nCOPY . /x\nRUN true\n")
    project.environment["LAMINA_CACHE_KEEP"] = "1k"
    outcome = project.build("-t", "app:1")
    assert "warning: the store takes" in outcome.stderr
    assert "more than LAMINA_CACHE_KEEP: images and running builds hold it" in outcome.stderr
    project.environment["LAMINA_CACHE_KEEP"] = "much"
    assert project.build(ok=False).code == 2
