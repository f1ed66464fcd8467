"""Test reports of a step, and the run as JUnit's XML."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lamina.pipelines.load import load
from lamina.pipelines.model import Artifacts, Step
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.junit import junit
from lamina.pipelines.run.testreports import Failure, Tests, read_tests, told

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="s">
<testcase classname="A" name="one" time="1.5"/>
<testcase classname="A" name="two" time="1,000.5"><failure message="it is SECRET">trace\nmore</failure><failure message="again"/></testcase>
<testcase classname="A" name="three" time="nan"><skipped/></testcase>
<testcase name="four"><error>boom</error><system-out>no &lt;text&gt; of ours</system-out></testcase>
</testsuite></testsuites>"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def hidden(text: str) -> str:
    return text.replace("SECRET", "$S")


def test_reports_are_counted_and_failures_kept(tmp_path: Path) -> None:
    write(tmp_path, {"build/test-results/deep/x.xml": REPORT, "elsewhere/x.xml": REPORT, "test-results/readme.txt": REPORT})
    tests = read_tests(tmp_path, None, hidden)
    assert tests is not None
    assert (tests.files, tests.passed, tests.failed, tests.skipped, tests.count) == (1, 1, 2, 1, 4)
    assert tests.seconds == 1002.0
    assert tests.failures == (Failure("A", "two", 1000.5, "it is $S\ntrace\nmore"), Failure("", "four", 0.0, "boom"))
    assert list(told(tests)) == [
        "Tests: 1 passed, 2 failed, 1 skipped, from 1 file", "  failed: A.two: it is $S", "  failed: four: boom",
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["surefire-reports", "failsafe-reports", "test-results", "test-reports", "TestResults"])
@pytest.mark.parametrize("above", ["", "a/b/c/d/", "a/b/c/d/e/"])
def test_folders_that_are_looked_into(tmp_path: Path, folder: str, above: str) -> None:
    write(tmp_path, {f"{above}{folder}/x.xml": "<testsuite><testcase name='x'/></testsuite>"})
    tests = read_tests(tmp_path, None, hidden)
    assert (tests is not None) == (above.count("/") <= 4)


def test_an_upload_of_test_reports_names_its_own_folders(tmp_path: Path) -> None:
    text = "pipelines: {default: [{step: {script: [x], artifacts: {upload: [{name: t, type: test-reports, paths: ['out/**']}]}}}]}"
    pipeline = load(text).default
    assert pipeline is not None
    step = pipeline.items[0]
    assert isinstance(step, Step)
    assert isinstance(step.artifacts, Artifacts)
    write(tmp_path, {"out/x.xml": "<testsuite><testcase name='x'/></testsuite>"})
    assert read_tests(tmp_path, None, hidden) is None
    tests = read_tests(tmp_path, step.artifacts, hidden)
    assert tests is not None
    assert tests.passed == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "<testsuite>", "<html/>", "no xml",
        '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><testsuite><testcase name="&d;"/></testsuite>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><testsuite>&b;</testsuite>',
    ],
)  # fmt: skip
def test_what_is_no_report_is_said(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"test-results/x.xml": text})
    tests = read_tests(tmp_path, None, hidden)
    assert tests is not None
    assert (tests.files, tests.unread) == (0, ("test-results/x.xml",))


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"outside/x.xml": REPORT, "clone/test-results/y.txt": ""})
    os.symlink(tmp_path / "outside" / "x.xml", tmp_path / "clone" / "test-results" / "x.xml")
    os.symlink(tmp_path / "outside", tmp_path / "clone" / "test-reports")
    assert read_tests(tmp_path / "clone", None, hidden) is None


def test_a_run_as_xml() -> None:
    tests = Tests(1, 3, 1, 0, 2.0, (Failure("C", 'a<"b', 1.0, "text\x00 ]]> \x1b[31m\nmore"),))
    steps = [
        StepResult(1, "One & two", "passed", seconds=1.0, started=1.0, tests=tests),
        StepResult(2, "bad\x00", "failed", 3, 2.5, 5.0, "exit code 3"),
        StepResult(3, "left out", "skipped", reason="its condition"),
        StepResult(4, "kept", "kept"),
    ]
    root = ElementTree.fromstring(junit("run 1: default", steps))
    assert root.attrib == {"name": "run 1: default", "tests": "4", "failures": "2", "time": "3.500"}
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["1. One & two", "2. bad\ufffd", "3. left out"]
    assert [(suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in suites] == [
        ("2", "1", "0"), ("1", "1", "0"), ("1", "0", "1"),
    ]  # fmt: skip
    failure = suites[0].findall("testcase")[1].find("failure")
    assert failure is not None
    assert failure.text == "text\ufffd ]]> \ufffd[31m\nmore"
    assert suites[1].findall("testcase/failure")[0].get("message") == "exit code 3"
