from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.interpolation import interpolate

ENVIRON = {"A": "1", "LONG_NAME_2": "two", "EMPTY": "", "DOLLAR": "${A}"}


@pytest.mark.parametrize(
    ("text", "result", "replaced"),
    [
        ("plain", "plain", False),
        ("", "", False),
        ("$A $ {A} $$", "$A $ {A} $$", False),
        ("${A}", "1", True),
        ("x${A}y${LONG_NAME_2}z", "x1ytwoz", True),
        ("${NONE:-5}", "5", True),
        ("${EMPTY:-5}", "5", True),
        ("${A:-5}", "1", True),
        ("${NONE:-}", "", True),
        ("${NONE:-a:-b}", "a:-b", True),
        ("$${A}", "${A}", False),
        ("$$${A}", "$${A}", False),
        ("$${A}${A}", "${A}1", True),
        ("${DOLLAR}", "${A}", True),
    ],
)
def test_variables_are_replaced_once(text, result, replaced):
    found = interpolate(text, ENVIRON)
    assert (found.text, found.replaced) == (result, replaced)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "NONE is not set: set it, or give a default: ${NONE:-…}"),
        ("${EMPTY}", "EMPTY is not set: set it, or give a default: ${EMPTY:-…}"),
        ("${A", "a ${ is not closed: write ${NAME} or ${NAME:-default}, or $${ for a literal ${"),
        ("${}", "what stands in ${…} is no variable: write ${NAME} or ${NAME:-default}"),
        ("${A-5}", "what stands in ${…} is no variable: write ${NAME} or ${NAME:-default}"),
        ("${1A}", "what stands in ${…} is no variable: write ${NAME} or ${NAME:-default}"),
        ("${A B}", "what stands in ${…} is no variable: write ${NAME} or ${NAME:-default}"),
        ("${A:-${B}}", "the default of ${A} holds another ${: write plain text there"),
    ],
)
def test_an_unset_or_malformed_variable_is_told(text, message):
    with pytest.raises(ValueError) as caught:
        interpolate(text, ENVIRON)
    assert str(caught.value) == message


@given(st.text(alphabet="${}:-AB", max_size=20))
def test_any_text_is_replaced_or_told(text):
    try:
        found = interpolate(text, {"A": "value"})
    except ValueError as error:
        told = str(error)
    else:
        told = ""
        assert found.replaced or found.text == text.replace("$${", "${")
    assert "value" not in told


@given(st.text(max_size=20).filter(lambda text: "${" not in text))
def test_text_without_a_variable_stays_as_it_is(text):
    assert interpolate(text, {}).text == text


@given(st.text(min_size=1, max_size=20))
def test_a_value_is_never_looked_into(value):
    assert interpolate("<${A}>", {"A": value}).text == f"<{value}>"
