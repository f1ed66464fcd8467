"""What `lamina build` does. Stands on nothing of click: main.py comes here directly with a line that options.parse can read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.cli import keeping, progress
from lamina.cli.commands.attest_options import ATTEST, attested
from lamina.cli.commands.build_options import SHARED, request_from
from lamina.cli.inputs import BadOption
from lamina.cli.options import Option
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.shown import Shown, tracer_of

if TYPE_CHECKING:
    from lamina.engine.receipt import Receipt
    from lamina.engine.request import BuildResult, Output, ProgressEvent

OPTIONS = (
    Option(("-t", "--tag"), "tags", "Name the image.", many=True, metavar="NAME[:TAG]"),
    Option(
        ("-o", "--output"),
        "outputs",
        "Where the result goes: image, registry, oci, docker, tar, local.",
        many=True,
        metavar="type=TYPE,dest=PATH",
    ),
    Option(("--load",), "load", "Keep the image in the store (the default without --output).", kind="flag"),
    Option(("--push",), "push", "Push the image to the registries of its names, as --output type=registry does.", kind="flag"),
    Option(("--progress",), "mode", "How to show it.", choices=("auto", "plain", "tty", "json", "quiet"), default="auto"),
    Option(("--iidfile",), "iidfile", "Write the image id to FILE.", kind="path", metavar="FILE"),
    Option(("--metadata-file",), "metadata_file", "Write digests and names as JSON to FILE.", kind="path", metavar="FILE"),
    Option(("--report",), "report", "Write each step's verdict and reason as JSON to FILE.", kind="path", metavar="FILE"),
    Option(("--json",), "as_json", "Print the report as JSON on standard output.", kind="flag"),
    Option(("--lock",), "lock", "Write what the build used to PATH/lamina.lock.", kind="flag"),
    Option(("--check",), "check", "Only check the Dockerfile, as `lamina lint` does; exit code 1 also for warnings.", kind="flag"),
    *ATTEST,
    *SHARED,
)


def build(
    settings: Settings,
    /,
    path: str,
    tags: tuple[str, ...],
    outputs: tuple[str, ...],
    load: bool,
    push: bool,
    mode: progress.Mode,
    iidfile: Path | None,
    metadata_file: Path | None,
    report: Path | None,
    as_json: bool,
    lock: bool,
    check: bool,
    provenance: str | None,
    sbom: tuple[str, ...],
    quiet: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
    **options: Any,
) -> int:
    """Exit code. The parameters are those of OPTIONS."""
    if check:
        from lamina.cli.commands.lint import lint_file

        found = lint_file(path, options["file"], "json" if as_json else "text")
        return 1 if any(item.severity != "info" for item in found) else 0
    allowed = keeping.limits(settings)
    wanted = _outputs(outputs, load=load, push=push)
    request = request_from(settings, path, options, tags=tags, outputs=wanted)
    if provenance or sbom:
        request = attested(request, provenance, sbom)
    to_stdout = any(output.dest is None and output.type in ("tar", "oci", "docker") for output in wanted)
    if to_stdout and sys.stdout.isatty():
        raise BadOption("the output would go to this terminal", hint="name a file: dest=FILE, or send it on with >")
    width = _terminal_width()
    colour = sys.stderr.isatty() and not settings.no_colour
    view = progress.choose("quiet" if quiet else mode, sys.stderr, colour=colour, width=width)
    from lamina.engine.request import Notice

    notices: list[str] = []
    receipts: list[Receipt] = []
    reports = [view.report]

    def seen(event: ProgressEvent) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)
        for tell in reports:
            tell(event)

    tracer = tracer_of(settings, lambda text: seen(Notice("warning", text, "trace")))
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries, running=True) as engine:
        if (
            tracer is None
            and request.incoming is None
            and request.epoch is None
            and _short(settings, mode, options, quiet=quiet, files=(report, iidfile, metadata_file), as_json=as_json)
        ):
            engine.on_receipt = receipts.append
        shown = Shown(engine, ", ".join(tags) or request.target or request.dockerfile_name)
        reports.append(shown.report)
        try:
            with shown.showing():
                result = engine.build(request, seen) if tracer is None else tracer.build(engine, request, seen)
        except BaseException:
            view.close()
            if report is not None and engine.failed is not None:
                from lamina.engine.reporting import write_report

                write_report(report, engine.failed)
            raise
        if not quiet and mode != "quiet":
            from lamina.cli.checked import line

            found_by_checks = line(request, settings.root / "context")
            if found_by_checks:
                seen(Notice("info", found_by_checks, "checks"))
        view.close()
        _write_files(result, iidfile, metadata_file, report)
        if lock:
            from lamina.cli.commands.lock import keep

            keep(engine, request, result)
        grown = any(step.verdict == "ran" for step in result.steps)
        keeping.after_build(engine.store, allowed, grown=grown, quiet=quiet or mode in ("quiet", "json"))
    if mode == "json" and not quiet:
        pass
    elif not quiet and mode != "quiet":
        print(progress.summary(result), file=sys.stderr)
        for name in result.images[0].tags if result.images else ():
            print(f"image {name}", file=sys.stderr)
    if as_json:
        from lamina.engine.reporting import report_bytes

        sys.stdout.write(report_bytes(result).decode() + "\n")
    elif result.images and not to_stdout:
        for image in result.images:
            print(image.id if len(result.images) == 1 else f"{image.id} {image.platform}")
    if receipts:
        from lamina.cli.receipts import write

        silent, names = quiet or mode == "quiet", result.images[0].tags
        write(receipts[0], request, options["file"], settings.arguments, settings.environment, quiet=silent, notices=notices, tags=names)
    return 0


def _short(settings: Settings, mode: str, options: dict[str, Any], *, quiet: bool, files: tuple[Path | None, ...], as_json: bool) -> bool:
    """Whether the next build of this command line may be answered by cli/unchanged.py: plain or no output, and no file to write."""
    if settings.arguments[:1] != ("build",) or any(files) or as_json or mode not in ("auto", "plain", "quiet"):
        return False
    # Standard input and a bare --build-arg say something that the command line does not.
    asked = options["file"] != "-" and all("=" in value for value in options["args"])
    return asked and (quiet or not sys.stderr.isatty())


def _outputs(values: tuple[str, ...], *, load: bool, push: bool) -> tuple[Output, ...]:
    from lamina.engine.request import Output

    found: list[Output] = []
    if values:
        from lamina.engine.exporters.output import parse_output

        found = [parse_output(value) for value in values]
    if push:
        found.append(Output("registry"))
    if load or push or not found:  # as `docker build --push`: the image is kept here, too
        found.append(Output("image"))
    return tuple(found)


def _write_files(result: BuildResult, iidfile: Path | None, metadata_file: Path | None, report: Path | None) -> None:
    if (iidfile is not None or metadata_file is not None) and result.images:
        from lamina.engine.exporters.place import replacing
        from lamina.engine.reporting import metadata_bytes

        if iidfile is not None:
            with replacing(iidfile, sync=False) as out:
                out.write(result.images[0].id.encode("ascii"))
        if metadata_file is not None:
            with replacing(metadata_file, sync=False) as out:
                out.write(metadata_bytes(result))
    if report is not None:
        from lamina.engine.reporting import write_report

        write_report(report, result)


def _terminal_width() -> int:
    if not sys.stderr.isatty():
        return 80
    from shutil import get_terminal_size  # it brings all archive formats with it

    return get_terminal_size().columns
