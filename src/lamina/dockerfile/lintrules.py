"""The rules of `lint` that look at one instruction or one stage at a time, and the table of all rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lamina.dockerfile.instructions import (
    Arg,
    Cmd,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Shell,
)
from lamina.dockerfile.lint import Finding, Rule, Subject, place
from lamina.dockerfile.lintcache import arg_in_many_keys, copy_before_install, latest_base, private_key_in_arg, secret_hint
from lamina.dockerfile.lintscopes import (
    copy_ignored_file,
    invalid_default_arg_in_from,
    undefined_arg_in_from,
    undefined_var,
    workdir_relative_path,
)
from lamina.dockerfile.splitting import Word, split_line, split_spaces

_SECRET = re.compile(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)


def _keyword(instruction: Instruction) -> str:
    return instruction.text.split(maxsplit=1)[0]


def _everything(subject: Subject) -> Iterator[Instruction]:
    yield from subject.document.meta_args
    for stage in subject.document.stages:
        yield stage.from_
        yield from stage.instructions


def _from_words(head: From) -> list[Word]:
    return split_spaces(split_line(head.text).rest)


def stage_name_casing(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        words = _from_words(stage.from_)
        if stage.name and words[2].text != stage.name:
            name = words[2].text
            yield Finding(f"Stage name '{name}' should be lowercase", place(stage.from_, name), stage.name)


def from_as_casing(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        words = _from_words(stage.from_)
        if not stage.name:
            continue
        keyword, as_ = _keyword(stage.from_), words[1].text
        if (keyword.islower() and not as_.islower()) or (keyword.isupper() and not as_.isupper()):
            yield Finding(f"'{as_}' and '{keyword}' keywords' casing do not match", place(stage.from_, f" {as_} "))


def consistent_instruction_casing(subject: Subject) -> Iterator[Finding]:
    document = subject.document
    found = [item for stage in document.stages for item in (stage.from_, *stage.instructions)]
    lower = sum(_keyword(item).islower() for item in found)
    upper = sum(_keyword(item).isupper() for item in found)
    majority = "lowercase" if lower > upper else "uppercase"
    for item in found:
        keyword = _keyword(item)
        if not (keyword.islower() if lower > upper else keyword.isupper()):
            message = f"Command '{keyword}' should match the case of the command majority ({majority})"
            yield Finding(message, place(item, keyword), keyword.lower() if lower > upper else keyword.upper())


def no_empty_continuation(subject: Subject) -> Iterator[Finding]:
    for item in subject.document.diagnostics:
        if item.code == "NoEmptyContinuation" and item.span:
            yield Finding("Empty continuation line", item.span, item.hint)


def duplicate_stage_name(subject: Subject) -> Iterator[Finding]:
    seen: set[str] = set()
    for stage in subject.document.stages:
        if stage.name and stage.name in seen:
            written = _from_words(stage.from_)[2].text
            yield Finding(f'Duplicate stage name "{stage.name}", stage names should be unique', place(stage.from_, written))
        seen.add(stage.name)


def reserved_stage_name(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        if stage.name in ("scratch", "context"):
            written = _from_words(stage.from_)[2].text
            message = f'Stage name should not use the same name as reserved stage "{stage.name}"'
            yield Finding(message, place(stage.from_, written))


def json_args_recommended(subject: Subject) -> Iterator[Finding]:
    with_shell: set[str] = set()  # names of stages whose shell was chosen on purpose
    for stage in subject.document.stages:
        chosen = stage.from_.base.lower() in with_shell
        for item in stage.instructions:
            if isinstance(item, Shell):
                chosen = True
            elif isinstance(item, Cmd | Entrypoint) and item.command.shell and item.command.words and not chosen:
                kind = "CMD" if isinstance(item, Cmd) else "ENTRYPOINT"
                message = f"JSON arguments recommended for {kind} to prevent unintended behavior related to OS signals"
                yield Finding(message, place(item, _keyword(item)), f'{kind} ["program", "argument"]')
        if chosen and stage.name:
            with_shell.add(stage.name)


def maintainer_deprecated(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if isinstance(item, Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            yield Finding(message, place(item, _keyword(item)), f'LABEL org.opencontainers.image.authors="{item.name}"')


def multiple_instructions(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        for kind, name in ((Cmd, "CMD"), (Entrypoint, "ENTRYPOINT"), (Healthcheck, "HEALTHCHECK")):
            for item in [item for item in stage.instructions if isinstance(item, kind)][:-1]:
                message = f"Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                yield Finding(message, place(item, _keyword(item)))


def legacy_key_value_format(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if isinstance(item, Env | Label) and item.legacy:
            kind = "ENV" if isinstance(item, Env) else "LABEL"
            key, value = item.pairs[0]
            message = f'"{kind} key=value" should be used instead of legacy "{kind} key value" format'
            quoted = f'"{value}"' if " " in value and '"' not in value else value
            yield Finding(message, place(item, key), f"{kind} {key}={quoted}")


def redundant_target_platform(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        platform = stage.from_.platform
        if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            message = f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
            yield Finding(message, place(stage.from_, platform))


def from_platform_const(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        platform = stage.from_.platform
        if not platform or "$" in platform:
            continue
        # A stage that is named after its platform is one of several to choose from.
        if any(part and part in stage.name for part in platform.lower().split("/")):
            continue
        yield Finding(f'FROM --platform flag should not use constant value "{platform}"', place(stage.from_, platform))


def secrets_in_arg_or_env(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if not isinstance(item, Arg | Env):
            continue
        kind = "ARG" if isinstance(item, Arg) else "ENV"
        for key, _ in item.pairs:
            if _SECRET.search(key) and not _PUBLIC.search(key):
                message = f'Do not use ARG or ENV instructions for sensitive data ({kind} "{key}")'
                yield Finding(message, place(item, key), secret_hint(key))


def invalid_definition_description(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if isinstance(item, Arg):
            kind, names = "ARG", [key for key, _ in item.pairs]
        elif isinstance(item, From) and item.name:
            kind, names = "FROM", [item.name]
        else:
            continue
        if item.comments and item.comments[-1].split(" ", 1)[0] not in names:
            wanted = names[0] if len(names) == 1 else "<arg_key>"
            message = f"Comment for {'build stage' if kind == 'FROM' else 'argument'} should follow the format: `# {wanted} <description>`"
            hint = "put an empty comment line between the comment and the instruction if it is not a description"
            yield Finding(message, place(item, _keyword(item)), hint)


def expose_proto_casing(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if isinstance(item, Expose):
            for port in item.ports:
                protocol = port.partition("/")[2]
                if protocol != protocol.lower() and "$" not in protocol:
                    message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    yield Finding(message, place(item, port), port.lower())


def expose_invalid_format(subject: Subject) -> Iterator[Finding]:
    for item in _everything(subject):
        if isinstance(item, Expose):
            for port in item.ports:
                if ":" in re.sub(r"\$\{[^}]*\}", "", port):
                    message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    yield Finding(message, place(item, port), port.rpartition(":")[2])


def invalid_base_image_platform(subject: Subject) -> Iterator[Finding]:
    for stage in subject.document.stages:
        base = stage.from_.base
        own, wanted = subject.base_platforms.get(base), subject.platform
        if own and wanted and own != wanted and not stage.from_.platform:
            message = f'Base image {base} was pulled with platform "{own}", expected "{wanted}" for current build'
            yield Finding(message, place(stage.from_, base), f"a base for {wanted}, or FROM --platform={own} if that is meant")


RULES: dict[str, Rule] = {
    "StageNameCasing": stage_name_casing,
    "FromAsCasing": from_as_casing,
    "NoEmptyContinuation": no_empty_continuation,
    "ConsistentInstructionCasing": consistent_instruction_casing,
    "DuplicateStageName": duplicate_stage_name,
    "ReservedStageName": reserved_stage_name,
    "JSONArgsRecommended": json_args_recommended,
    "MaintainerDeprecated": maintainer_deprecated,
    "UndefinedArgInFrom": undefined_arg_in_from,
    "WorkdirRelativePath": workdir_relative_path,
    "UndefinedVar": undefined_var,
    "MultipleInstructionsDisallowed": multiple_instructions,
    "LegacyKeyValueFormat": legacy_key_value_format,
    "InvalidBaseImagePlatform": invalid_base_image_platform,
    "RedundantTargetPlatform": redundant_target_platform,
    "SecretsUsedInArgOrEnv": secrets_in_arg_or_env,
    "InvalidDefaultArgInFrom": invalid_default_arg_in_from,
    "FromPlatformFlagConstDisallowed": from_platform_const,
    "CopyIgnoredFile": copy_ignored_file,
    "InvalidDefinitionDescription": invalid_definition_description,
    "ExposeProtoCasing": expose_proto_casing,
    "ExposeInvalidFormat": expose_invalid_format,
    "PrivateKeyInArg": private_key_in_arg,
    "LatestBase": latest_base,
    "ArgInManyKeys": arg_in_many_keys,
    "CopyBeforeInstall": copy_before_install,
}
ADVICE = frozenset({"LatestBase", "ArgInManyKeys", "CopyBeforeInstall"})
"""lamina's own rules about what is legal and costs: they are "info", and `error=true` leaves them so."""
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})

SUMMARIES = {
    "StageNameCasing": "Names of stages are in small letters",
    "FromAsCasing": "FROM and AS in one line have one case",
    "NoEmptyContinuation": "No empty line inside of a continued instruction",
    "ConsistentInstructionCasing": "All instructions of a file have one case",
    "DuplicateStageName": "Each stage has a name of its own",
    "ReservedStageName": "No stage is called scratch or context",
    "JSONArgsRecommended": "CMD and ENTRYPOINT as JSON, so that signals arrive",
    "MaintainerDeprecated": "A label instead of MAINTAINER",
    "UndefinedArgInFrom": "Variables in FROM are declared before the first FROM",
    "WorkdirRelativePath": "The first WORKDIR of a stage is absolute",
    "UndefinedVar": "Variables are set before they are used",
    "MultipleInstructionsDisallowed": "One CMD, ENTRYPOINT and HEALTHCHECK in a stage",
    "LegacyKeyValueFormat": "ENV and LABEL with an equals sign",
    "InvalidBaseImagePlatform": "The base image is for the platform that is built for",
    "RedundantTargetPlatform": "No --platform=$TARGETPLATFORM",
    "SecretsUsedInArgOrEnv": "No secrets in ARG and ENV",
    "InvalidDefaultArgInFrom": "Defaults of ARGs make valid names of base images",
    "FromPlatformFlagConstDisallowed": "No constant platform in FROM",
    "CopyIgnoredFile": "What is copied is not left out by .dockerignore",
    "InvalidDefinitionDescription": "A comment above an ARG or a stage begins with its name",
    "ExposeProtoCasing": "Protocols in EXPOSE are in small letters",
    "ExposeInvalidFormat": "EXPOSE names ports of the container only",
    "PrivateKeyInArg": "No private keys in ARG and ENV",
    "LatestBase": "Base images have a version or a digest",
    "ArgInManyKeys": "An ARG stands right before the steps that use it",
    "CopyBeforeInstall": "Packages are installed before the files that they do not need",
}
"""One line for each rule, for machines that show rules (SARIF)."""
