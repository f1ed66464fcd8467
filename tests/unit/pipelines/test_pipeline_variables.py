from __future__ import annotations

import re

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.errors import StartError
from lamina.pipelines.model import CustomVariable
from lamina.pipelines.variables import Facts, Variable, answer, expand, layer, own, own_of_step, references, stable_uuid

HERE = Span(Source("f", ""), 1)


def test_the_stronger_level_wins_in_any_order() -> None:
    levels = [Variable("A", level, level) for level in ("pipeline", "workspace", "default", "repository")]
    levels.append(Variable("A", "deployment", "deployment", environment="prod"))
    for order in (levels, levels[::-1]):
        assert layer(order).values() == {"A": "pipeline"}
        assert layer([one for one in order if one.level != "pipeline"], "prod").values() == {"A": "deployment"}
        assert layer([one for one in order if one.level != "pipeline"], "test").values() == {"A": "repository"}


def test_a_users_variable_overrides_bitbuckets_own() -> None:
    assert layer([*own(Facts(branch="x")), Variable("BITBUCKET_BRANCH", "mine", "workspace")]).values()["BITBUCKET_BRANCH"] == "mine"


def test_secrets_are_those_that_won() -> None:
    found = layer([Variable("A", "one", "workspace", True), Variable("A", "two", "repository"), Variable("B", "three", secured=True)])
    assert found.secrets() == (("B", "three"),)
    assert "three" not in repr(found)


def test_own_variables_of_a_tag_have_no_branch() -> None:
    values = layer(own(Facts(tag="v1", commit="c", workspace="w", slug="s"))).values()
    assert values["BITBUCKET_TAG"] == "v1"
    assert values["BITBUCKET_REPO_FULL_NAME"] == "w/s"
    assert "BITBUCKET_BRANCH" not in values
    assert values["CI"] == "true"


def test_parallel_counts_from_zero() -> None:
    values = layer(own_of_step(parallel=(0, 3))).values()
    assert (values["BITBUCKET_PARALLEL_STEP"], values["BITBUCKET_PARALLEL_STEP_COUNT"]) == ("0", "3")
    assert "BITBUCKET_PARALLEL_STEP" not in layer(own_of_step()).values()


def test_expansion() -> None:
    assert expand("$A-${B}-$C.$", {"A": "1", "B": "2"}) == "1-2-.$"
    assert references("$A ${B} $A") == ("A", "B")


DECLARED = (CustomVariable("A", HERE, "x", None, ("x", "y")), CustomVariable("B", HERE), CustomVariable("C", HERE, None, None, ("p", "q")))


def test_answers() -> None:
    found = layer(answer(DECLARED, {"C": "q", "OTHER": "o"})).values()
    assert found == {"A": "x", "C": "q", "OTHER": "o"}


@pytest.mark.parametrize("given", [{"A": "z", "C": "p"}, {}, {"C": "r"}])
def test_answers_that_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(StartError) as caught:
        answer(DECLARED, given)
    assert caught.value.hint


def test_what_only_bitbucket_knows_is_stable_and_in_its_form() -> None:
    assert stable_uuid("a") == stable_uuid("a") != stable_uuid("b")
    assert re.fullmatch(r"\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}", stable_uuid("a"))
    names = {one.name for one in own_of_step(environment="production")}
    assert {"BITBUCKET_DEPLOYMENT_ENVIRONMENT", "BITBUCKET_DEPLOYMENT_ENVIRONMENT_UUID"} <= names
    assert "BITBUCKET_DEPLOYMENT_ENVIRONMENT_UUID" not in {one.name for one in own_of_step()}
