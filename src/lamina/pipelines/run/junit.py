"""A run as JUnit's XML: a suite for each step, with the step itself as a test and the failures of the tests that it ran."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from lamina.pipelines.run.around import StepResult


def junit(name: str, steps: Sequence[StepResult]) -> bytes:
    """`steps` are masked already."""
    shown = [step for step in steps if step.status != "kept"]
    head = f'<testsuites name={_value(name)} tests="{sum(map(_count, shown))}" failures="{sum(map(_bad, shown))}" '
    head += f'time="{sum(step.seconds for step in shown):.3f}">'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *map(_suite, shown), "</testsuites>", ""]).encode()


def _count(step: StepResult) -> int:
    return 1 + (len(step.tests.failures) if step.tests is not None else 0)


def _bad(step: StepResult) -> int:
    return _count(step) - 1 + int(step.bad)


def _suite(step: StepResult) -> str:
    title = f"{step.number}. {step.name}"
    tests = step.tests
    ended = {"passed": "", "skipped": f"<skipped message={_value(step.reason)}/>"}.get(
        step.status, f"<failure message={_value(step.reason or step.status)} type={_value(step.status)}/>"
    )
    cases = [f'<testcase classname="step" name={_value(title)} time="{step.seconds:.3f}">{ended}</testcase>']
    if tests is not None:
        cases += [
            f'<testcase classname={_value(one.suite)} name={_value(one.name)} time="{one.seconds:.3f}">'
            f"<failure message={_value(one.text.partition(chr(10))[0])}>{escape(_clean(one.text))}</failure></testcase>"
            for one in tests.failures
        ]
        words = "".join(
            f"<property name={_value('tests.' + word)} value={_value(str(getattr(tests, word)))}/>"
            for word in ("passed", "failed", "skipped")
        )
        cases.insert(0, f"<properties>{words}</properties>")
    skipped = int(step.status == "skipped")
    stamp = datetime.datetime.fromtimestamp(step.started, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S") if step.started else ""
    head = f'<testsuite name={_value(title)} tests="{_count(step)}" failures="{_bad(step)}" errors="0" skipped="{skipped}" time="{step.seconds:.3f}"'
    return "\n".join([head + (f" timestamp={_value(stamp)}>" if stamp else ">"), *cases, "</testsuite>"])


def _value(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return "".join(
        char if char in "\t\n" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000" else "\ufffd"
        for char in text
    )
