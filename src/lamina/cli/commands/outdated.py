"""`lamina outdated`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli.commands.given_options import given, given_options
from lamina.cli.commands.registry_options import registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.oci import typed

if TYPE_CHECKING:
    from lamina.engine.freshness.outdated import Outdated
    from lamina.engine.freshness.rebuild import Rebuilt

BEHIND = 3


@click.command(short_help="List images whose bases or sources have moved, and rebuild them")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--base", "bases", multiple=True, metavar="REF", help="Ask about this base only (*/NAME:TAG: of any registry).")
@click.option("--rebuild", is_flag=True, help="Build again what is outdated, in order; what comes out equal stops there.")
@click.option("--push", is_flag=True, help="With --rebuild: push again what was built with --push.")
@click.option("-a", "--all", "everything", is_flag=True, help="Images that are current too.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@given_options
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    images: tuple[str, ...],
    bases: tuple[str, ...],
    rebuild: bool,
    push: bool,
    everything: bool,
    as_json: bool,
    quiet: bool,
    secrets: tuple[str, ...],
    ssh: tuple[str, ...],
    args: tuple[str, ...],
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Ask which bases of the images built here have moved (one HEAD request for each distinct base), and which URLs and repositories.

    Says which stages follow, and which are cut off: a stage that only takes files from another runs again only if those files differ.

    Exit code: 0 when nothing is outdated (or everything was rebuilt), 3 when something is, 1 when a rebuild failed or is impossible.

    \b
    Examples:
      lamina outdated
      lamina outdated --rebuild app:1
      lamina outdated --rebuild --secret id=npm,src=/run/npm-token
      lamina outdated --json
    """
    from lamina.cli.inputs import BadOption
    from lamina.engine.freshness.outdated import outdated
    from lamina.oci.reference import Reference

    if push and not rebuild:
        raise BadOption("--push goes with --rebuild")
    names = tuple(str(Reference.parse(name).with_default_tag()) for name in images)
    only: Callable[[str], bool] | None = None
    if bases:
        from lamina.engine.freshness.watching import Pushed

        wanted = [Pushed.parse(text) for text in bases]

        def only(reference: str) -> bool:
            return any(each.means(reference) for each in wanted)

    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        ours = given(settings, secrets, ssh, args)
        found = outdated(engine.store, engine.registry, names, only, ours)
        if not as_json:
            print_found(found, everything=everything, quiet=quiet)
        if not rebuild:
            if as_json:
                print_json(found, ())
            return BEHIND if found.behind else 0
        from lamina.cli import progress
        from lamina.cli.shown import watching
        from lamina.engine.freshness.rebuild import rebuild as build_again

        view = progress.choose("quiet" if quiet or as_json else "plain", sys.stderr, colour=False, width=100)
        watched = watching(engine, settings, "lamina outdated --rebuild")
        told = None if as_json else print_rebuilt
        done = build_again(engine, found, view.report, push=push, done=told, given=ours, build=watched)
        view.close()
    if as_json:
        print_json(found, done)
    return 1 if any(each.outcome in ("failed", "impossible", "stopped") for each in done) else 0


def print_found(found: Outdated, *, everything: bool, quiet: bool) -> None:
    """What moved, for people; with `quiet` the names that are outdated."""
    from lamina.cli.words import short_id
    from lamina.oci.reference import Reference

    shown = [image for image in found.images if everything or image.verdict not in ("current",)]
    for image in shown:
        names = ", ".join(Reference.parse(name).familiar for name in image.names)
        if quiet:
            if image.verdict in ("outdated", "follows"):
                print(names)
            continue
        print(f"{image.verdict.upper():8} {names}  ({image.platform})")
        for base in image.bases:
            if base.verdict in ("current", "pinned", "local") and not everything:
                continue
            name = base.reference if "://" in base.reference else Reference.parse(base.reference).familiar
            moved = f"  {short_id(base.was)} -> {short_id(base.now)}" if base.now and base.now != base.was else ""
            words = {"equal": "moved, same layers and settings: cut off", "follows": "will be rebuilt", "unknown": "not known"}
            print(f"  base {name}: {words.get(base.verdict, base.verdict)}{moved}" + (f" ({base.why})" if base.why else ""))
        for remote in image.remotes:
            if remote.verdict in ("current", "pinned") and not everything:
                continue
            what = {"url": "URL", "git": "repository", "watch": "watched URL"}[remote.kind]
            moved = f"  {_short(remote.was)} -> {_short(remote.now)}" if remote.now and remote.now != remote.was else ""
            word = "not known" if remote.verdict == "unknown" else remote.verdict
            print(f"  {what} {remote.name}: {word}{moved}" + (f" ({remote.why})" if remote.why else ""))
        for stage in image.stages:
            print(
                f"  stage {stage.stage}: {stage.verdict.replace('if-changed', 'cut off if equal').replace('cut-off', 'cut off')}, {stage.because}"
            )
        if image.cannot:
            print(f"  cannot be rebuilt: {image.cannot}")
    if quiet:
        return
    for name in found.untold:
        print(f"UNKNOWN  {Reference.parse(name).familiar}  (built before this was kept: build it once more)")
    behind = len(found.behind)
    print(
        f"{behind} of {len(found.images)} images outdated; {found.asked} base{'' if found.asked == 1 else 's'}{_others(found)} asked",
        file=sys.stderr,
    )


def _others(found: Outdated) -> str:
    count = found.asked_remotes
    return f" and {count} other source{'' if count == 1 else 's'}" if count else ""


def _short(text: str) -> str:
    """Of a digest, a commit, or an answer with its kind."""
    return text.partition(":")[2][:12] if ":" in text else text[:12]


def print_rebuilt(done: Rebuilt) -> None:
    from lamina.cli.words import short_id
    from lamina.oci.reference import Reference

    names = ", ".join(Reference.parse(name).familiar for name in done.names)
    detail = f"{done.ran} ran, {done.cached} cached" if done.outcome in ("rebuilt", "same") else done.why
    image = f" {short_id(done.image)}" if done.image and done.outcome == "rebuilt" else ""
    print(f"{done.outcome.upper():10} {names}{image}  {detail}")


def print_json(found: Outdated, done: tuple[Rebuilt, ...]) -> None:
    import msgspec

    document = {"schema": 1, **msgspec.to_builtins(found)}
    if done:
        document["rebuilt"] = msgspec.to_builtins(done)
    sys.stdout.write(msgspec.json.format(typed.encode_json(document), indent=2).decode() + "\n")
