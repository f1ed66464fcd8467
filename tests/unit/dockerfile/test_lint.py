from __future__ import annotations

import pytest

from lamina.dockerfile import parse
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lint import lint
from lamina.dockerfile.lintrules import RULES

IGNORE = IgnoreRules.parse("*.tmp\nsecret")


def found(text: str, rule: str) -> list[int]:
    document = parse(text)
    assert document.errors == ()
    platforms = {"arm": "linux/arm64", "a": "linux/amd64"}
    items = lint(document, ignore=IGNORE, base_platforms=platforms, platform="linux/amd64")
    return [item.span.line for item in items if item.code == rule and item.span]


@pytest.mark.parametrize(
    ("rule", "bad", "lines"),
    [
        ("StageNameCasing", "FROM a AS B\n", [1]),
        ("FromAsCasing", "FROM a as b\n", [1]),
        ("FromAsCasing", "from a AS b\n", [1]),
        ("NoEmptyContinuation", "FROM a\nRUN x \\\n\n y\n", [3]),
        ("ConsistentInstructionCasing", "FROM a\nrun x\nUSER y\nCopy a b\n", [2, 4]),
        ("ConsistentInstructionCasing", "from a\nrun x\nUSER y\n", [3]),
        ("DuplicateStageName", "FROM a AS b\nFROM c AS B\n", [2]),
        ("ReservedStageName", "FROM a AS scratch\nFROM a AS context\n", [1, 2]),
        ("JSONArgsRecommended", "FROM a\nCMD x\nENTRYPOINT y\n", [2, 3]),
        ("MaintainerDeprecated", "FROM a\nMAINTAINER m\n", [2]),
        ("UndefinedArgInFrom", "FROM a:$V\n", [1]),
        ("UndefinedArgInFrom", "ARG PLAT\nFROM --platform=$PLATX a\n", [2]),
        ("WorkdirRelativePath", "FROM a\nWORKDIR x\nWORKDIR y\n", [2]),
        ("WorkdirRelativePath", "FROM a\nARG D=x\nWORKDIR $D\n", [3]),
        ("UndefinedVar", "FROM scratch\nCOPY $X /\n", [2]),
        ("UndefinedVar", "FROM a\nENV GOPATH=/go\nWORKDIR $GOPTAH/x\n", [3]),
        ("MultipleInstructionsDisallowed", 'FROM a\nCMD ["a"]\nCMD ["b"]\nCMD ["c"]\n', [2, 3]),
        ("LegacyKeyValueFormat", "FROM a\nENV k v\nLABEL k v\n", [2, 3]),
        ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\n", [1]),
        ("SecretsUsedInArgOrEnv", "FROM a\nARG API_KEY\nENV db_password=x\nARG NPM_TOKEN=x\n", [2, 3, 4]),
        ("InvalidDefaultArgInFrom", "ARG V\nFROM a:$V\nFROM $V\n", [2, 3]),
        ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 a\n", [1]),
        ("CopyIgnoredFile", "FROM a\nCOPY x.tmp ./secret/y /\nADD secret /\n", [2, 2, 3]),
        ("InvalidDefinitionDescription", "# check=experimental=all\n# about\nARG V\nFROM a:$V\n", [3]),
        ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP\n", [2]),
        ("ExposeInvalidFormat", "FROM a\nEXPOSE 127.0.0.1:80:80 8080:80\n", [2, 2]),
        ("InvalidBaseImagePlatform", "FROM arm\nFROM a\n", [1]),
        ("PrivateKeyInArg", "FROM a\nARG id_rsa\nENV K='-----BEGIN RSA PRIVATE KEY-----x'\n", [2, 3]),
        ("PrivateKeyInArg", 'FROM a\nARG DEPLOY\nRUN mkdir /root/.ssh && echo "$DEPLOY" > /root/.ssh/id\n', [2]),
        ("LatestBase", "FROM a\nFROM r.io:5000/b:latest\nFROM c:1\n", [1, 2]),
        ("ArgInManyKeys", "FROM a\nARG SHA\nRUN x\nRUN y\nRUN z $SHA\n", [2]),
        ("ArgInManyKeys", "FROM a\nARG SHA\nRUN x\nRUN y $SHAPE\n", [2]),
        ("ArgInManyKeys", "FROM a AS b\nARG SHA\nRUN x\nFROM b AS c\nRUN y\nFROM c\nRUN z $SHA\n", [2]),
        ("CopyBeforeInstall", "FROM a\nWORKDIR /app\nCOPY . .\nRUN npm ci\nRUN make\n", [3]),
        ("CopyBeforeInstall", "FROM a\nCOPY src /src\nRUN apt-get update && apt-get install -y gcc && rm -rf /var/lib/apt/lists/*\n", [2]),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN pip install -r requirements.txt\n", [2]),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN pip install flask\n", [2]),
    ],
)
def test_bad(rule: str, bad: str, lines: list[int]) -> None:
    assert found(bad, rule) == lines
    assert (
        found(f"# check=skip={rule}\n{bad}" if not bad.startswith("# check") else bad.replace("check=", f"check=skip={rule};"), rule) == []
    )


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ("StageNameCasing", "FROM Img AS b\n"),
        ("FromAsCasing", "from a as b\n"),
        ("ConsistentInstructionCasing", "from a\nrun x\n"),
        ("JSONArgsRecommended", 'FROM a AS b\nSHELL ["x"]\nCMD x\nFROM b\nCMD y\n'),
        ("UndefinedArgInFrom", "ARG V\nFROM --platform=$BUILDPLATFORM a:${V:-1}\n"),
        ("WorkdirRelativePath", "FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n"),
        ("WorkdirRelativePath", "FROM a\nWORKDIR $UNKNOWN/x\n"),
        ("UndefinedVar", "FROM a\nWORKDIR $JAVA_HOME\nRUN echo $X\n"),
        ("UndefinedVar", "ARG M=1\nFROM scratch AS b\nARG M\nARG N=$M\nENV X=$M$N\nFROM b\nCOPY $X /\n"),
        ("MultipleInstructionsDisallowed", "FROM a\nCMD x\nFROM b\nCMD x\n"),
        ("RedundantTargetPlatform", "FROM --platform=$BUILDPLATFORM a\n"),
        ("SecretsUsedInArgOrEnv", "FROM a\nENV PUBLIC_KEY=x MONKEY=y\n"),
        ("InvalidDefaultArgInFrom", "ARG V=1\nFROM reg.io:5000/a/b:$V\nFROM ${X:-a}\n"),
        ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 a AS build_amd64\n"),
        ("CopyIgnoredFile", "FROM a\nCOPY --from=x secret /\nCOPY src /\nADD https://x/secret /\n"),
        ("InvalidDefinitionDescription", "# about\nARG V\nFROM a:$V\n"),
        ("ExposeProtoCasing", "FROM a\nEXPOSE 80/tcp $P/$Q\n"),
        ("ExposeInvalidFormat", "FROM a\nEXPOSE 80 ${P:-80}\n"),
        ("InvalidBaseImagePlatform", "FROM --platform=linux/arm64 arm\nFROM unknown\n"),
        ("PrivateKeyInArg", "FROM a\nARG DEPLOY_KEY\nARG PEMBROKE\nARG PUBLIC_RSA\n"),
        ("LatestBase", "ARG V\nFROM a:1 AS b\nFROM b\nFROM scratch\nFROM a@sha256:00\nFROM a$V\n"),
        ("ArgInManyKeys", "FROM a\nRUN x\nRUN y\nARG SHA\nRUN z $SHA\nRUN w\n"),
        ("ArgInManyKeys", "FROM a\nARG SHA\nENV SHA=1\nRUN x\nRUN y\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY package*.json ./\nRUN npm ci\nCOPY . .\nRUN make\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY sources.list /etc/apt/\nRUN apt-get update\n"),
        ("ArgInManyKeys", "FROM a AS b\nARG SHA\nFROM b\nRUN x $SHA\nRUN y\nRUN z\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN mkdir -p /apt && echo done > /done\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN make && npm ci\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN make\nRUN npm ci\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY . .\nRUN pip install .\nRUN apt-get install ./x.deb\n"),
        ("CopyBeforeInstall", "FROM a\nCOPY --from=b / /\nADD https://x/y /y\nRUN npm ci\n"),
    ],
)
def test_good(rule: str, good: str) -> None:
    assert found(good, rule) == []


def test_every_rule_has_a_bad_case_here() -> None:
    marks = test_bad.pytestmark  # type: ignore[attr-defined]  # pytest puts it there
    assert {case[0] for case in marks[0].args[1]} == set(RULES)


def test_the_check_directive() -> None:
    text = "FROM a:1 AS B\n"
    assert lint(parse("# check=skip=all\n" + text)) == ()
    assert [item.severity for item in lint(parse("# check=error=true\n" + text))] == ["error"]
    assert [item.severity for item in lint(parse(text))] == ["warning"]
    (bad, _) = lint(parse("# check=skp=x\n" + text))
    assert (bad.code, bad.hint) == ("dockerfile/bad-check", "did you mean skip?")


def test_places_and_hints() -> None:
    (item,) = lint(parse("FROM a:1 AS Big\n"))
    assert item.span is not None
    assert (item.span.column, item.span.end_column, item.hint) == (13, 16, "big")


def test_known_variables_of_a_base() -> None:
    document = parse("FROM a\nWORKDIR $X/$Y\n")
    assert [item.message for item in lint(document, base_names={"a": frozenset({"X"})}) if item.code == "UndefinedVar"] == [
        "Usage of undefined variable '$Y'"
    ]


def test_advice_stays_advice() -> None:
    items = lint(parse("# check=error=true\nFROM a AS B\n"))
    assert {item.code: item.severity for item in items} == {"LatestBase": "info", "StageNameCasing": "error"}


def test_a_private_key_gets_its_way_out() -> None:
    (item,) = lint(parse("FROM a:1\nARG SSH_PRIVATE_KEY\n"))
    assert item.code == "SecretsUsedInArgOrEnv"
    assert item.hint is not None
    assert "--mount=type=ssh" in item.hint
    assert "--mount=type=secret" in item.hint
    (item,) = lint(parse("FROM a:1\nARG NPM_TOKEN\n"))
    assert item.hint is not None
    assert item.hint.startswith("RUN --mount=type=secret,id=npm_token,env=NPM_TOKEN")


def test_the_order_that_would_have_helped() -> None:
    (item,) = lint(parse("FROM a:1\nCOPY . .\nRUN npm ci --omit=dev\n"))
    assert item.hint == "better order: COPY package.json package-lock.json ./ → RUN npm ci --omit=dev → COPY . ."
