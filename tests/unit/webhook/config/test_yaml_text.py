"""Errors in text that is not YAML."""

import pytest
import yaml

from webhook.config.yaml_text import yaml_problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: {b: 1\nc: [", "expected ',' or '}', but got ':'", id="mapping"),
        pytest.param("a: [1, 2\nb: 3", "expected ',' or ']', but got ':'", id="list"),
        pytest.param("a: b: c", "mapping values are not allowed here", id="colon"),
        pytest.param("a: *hunter2", "found undefined alias ...", id="alias"),
        pytest.param(
            "a: !hunter2 b", "could not determine a constructor for the tag ...", id="tag"
        ),
        pytest.param("a: '\n", "found unexpected end of stream", id="quote"),
        pytest.param("- a\nb", "could not find expected ':'", id="token"),
    ],
)
def test_the_problem_is_shown_and_the_text_is_not(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.load(text, yaml.SafeLoader)
    problem = yaml_problem(caught.value)
    assert problem.endswith(f": {said}")
    assert "hunter2" not in problem
