"""What expressions make of secrets is marked: whatever of a result depends on a secret's value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pilothouse.engine.derived import derived_values
from pilothouse.expressions import ExpressionError, render, render_tree
from pilothouse.expressions.secrecy import SecretText, bare, is_secret, joined, marked, parts_of
from pilothouse.expressions.values import Budget
from pilothouse.wire.masking import Masker

ONE, TWO = (
    "Alpha-beta.GAMMA/77",
    "Omega!zeta,DELTA=31",
)  # of one length, so that both have the same substrings


def context(secret: str, pin: str = "12345678") -> dict[str, Any]:
    secrets = {"S": marked(secret), "PIN": marked(pin)}
    env = {"URL": render("https://user:${{ secrets.S }}@example.com/path", {"secrets": secrets})}
    return {"secrets": secrets, "env": env, "variables": {"v": "public text"}}


def derived(template: str, secret: str = ONE) -> set[str]:
    """What is masked in addition to the secrets."""
    value = render(template, context(secret))
    return set(derived_values(value, frozenset({secret, "12345678"}), [template]))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${{ secrets.S }}", set()),
        ("x ${{ secrets.S }} y", set()),
        ("${{ 'x' + secrets.S + 'y' }}", set()),
        ("${{ secrets.S.upperAscii() }}", {ONE.upper()}),
        ("x-${{ secrets.S.lowerAscii() }}", {ONE.lower()}),
        ("${{ 'x' + secrets.S.lowerAscii() }}", {ONE.lower()}),
        ("${{ secrets.S.substring(0, 7) }}", {"Alpha-b"}),
        ("${{ secrets.S.substring(0, 3) }}", set()),  # too short to be masked
        ("${{ secrets.S.split('-') }}", {"Alpha", "beta.GAMMA/77"}),
        ("${{ secrets.S.split('').join('.') }}", {".".join(ONE)}),
        ("${{ secrets.S.replace('-', '+') }}", {ONE.replace("-", "+")}),
        ("${{ {'k': [secrets.S.upperAscii()]} }}", {ONE.upper()}),
        ("${{ [secrets.S].map(x, x.upperAscii()) }}", {ONE.upper()}),
        ("${{ int(secrets.PIN) + 1 }}", {"12345679"}),
        ("${{ string(int(secrets.PIN) * 2) }}", {"24691356"}),
        ("${{ double(secrets.PIN) / 4.0 }}", {"3086419.5"}),
        ("${{ {'a': -int(secrets.PIN)} }}", {"-12345678"}),
        ("${{ env.URL }}", set()),
        ("${{ env.URL.upperAscii() }}", {f"HTTPS://USER:{ONE.upper()}@EXAMPLE.COM/PATH"}),
        ("${{ env.URL.split(':')[2].lowerAscii() }}", {f"{ONE.lower()}@example.com/path"}),
        ("${{ secrets.S.size() + 100000 }}", set()),
        ("${{ secrets.S.indexOf('G') + 100000 }}", set()),
        ("${{ secrets.S == 'x' ? 'enabled' : 'disabled' }}", set()),
        ("${{ secrets.S.startsWith('A') }}", set()),
        ("${{ variables.v.upperAscii() }}", set()),
        ("${{ string(secrets.S).trim() }}", set()),
    ],
)
def test_what_is_masked_of_an_expression(template: str, expected: set[str]) -> None:
    assert derived(template) == expected


def test_text_of_the_spec_is_not_masked() -> None:
    """The host of a URL with a password: masked, it would hide ordinary text of the log."""
    env = "https://user:${{ secrets.S }}@example.com/path"
    value = render("${{ env.URL.split('@')[1] }}", context(ONE))
    assert derived_values(value, frozenset({ONE}), [env]) == set()
    assert derived_values(value, frozenset({ONE}), []) == {"example.com/path"}


def test_short_secrets_that_become_long_are_masked_as_one() -> None:
    short = {"secrets": {"A": marked("ab"), "B": marked("cd")}}
    assert derived_values(render("${{ secrets.A + secrets.B }}", short), frozenset({"ab", "cd"}), []) == {
        "abcd"
    }


def test_marks_do_not_show() -> None:
    value = render_tree({"a": ["${{ secrets.S.upperAscii() }}", "${{ int(secrets.PIN) }}"]}, context(ONE))
    assert value == {"a": [ONE.upper(), 12345678]}
    plain = bare(value)
    assert [type(item) for item in plain["a"]] == [str, int]
    assert not is_secret(plain, Budget())
    assert type(joined("x", ["y", 5])) is str


def test_marks_cost_within_the_budget() -> None:
    """A list that refers a thousand times to a long one."""
    source = "${{ [1].map(x, dyn([1].map(y, secrets.L.split('')))) }}"
    secrets = {"L": marked("x" * 60_000)}
    with pytest.raises(ExpressionError, match=r"steps|characters and elements"):
        render(
            "${{ join([1,2,3,4,5,6].map(y, secrets.L.split(''))[0].map(z, z + z)) }}", {"secrets": secrets}
        )
    with pytest.raises(ExpressionError):
        render(source, {"secrets": secrets})


texts = st.deferred(
    lambda: (
        st.sampled_from(["secrets.S", "variables.v", "'lit'", "env.URL", "string(int(secrets.PIN))"])
        | st.builds("{}.{}()".format, texts, st.sampled_from(["upperAscii", "lowerAscii", "trim"]))
        | st.builds("{}.substring({}, {})".format, texts, st.integers(0, 3), st.integers(3, 9))
        | st.builds("{}.substring({})".format, texts, st.integers(0, 12))
        | st.builds("{}.replace('{}', '{}')".format, texts, st.sampled_from("aeA-"), st.sampled_from("xyz"))
        | st.builds("({} + {})".format, texts, texts)
        | st.builds(
            "{}.split('{}').join('{}')".format, texts, st.sampled_from(["", "a", "-"]), st.sampled_from("_,")
        )
        | st.builds("{}.split('{}')[0]".format, texts, st.sampled_from("aex-"))
        | st.builds("[{}, {}].map(x, x + 'q').join(',')".format, texts, texts)
        | st.builds("{{'k': {}}}.k".format, texts)
        | st.builds("[{}].filter(x, true)[0]".format, texts)
    )
)


def evaluated(source: str, secret: str, pin: str) -> Any:
    try:
        return render("${{ " + source + " }}", context(secret, pin))
    except ExpressionError:
        assume(False)


@given(texts)
def test_whatever_depends_on_a_secret_is_marked(source: str) -> None:
    """Evaluated with two secrets: where the results differ, they tell something of the secret."""
    one, two = evaluated(source, ONE, "12345678"), evaluated(source, TWO, "87654321")
    if one != two:
        assert isinstance(one, SecretText), source


@given(texts)
def test_a_masked_result_tells_nothing_of_the_secret(source: str) -> None:
    """Masked with the parts, results of two secrets are the same but for what is too short to be masked."""
    shown = []
    for secret, pin in ((ONE, "12345678"), (TWO, "87654321")):
        value = evaluated(source, secret, pin)
        shown.append(Masker(parts_of(value)).mask(str(value)))
        for part in parts_of(value):
            assert len(part.strip()) < 4 or part.strip() not in shown[-1]
    if shown[0] != shown[1]:
        pieces = [piece for text in shown for piece in text.split("***")]
        assert all("alpha-be" not in piece.lower() and "omega!ze" not in piece.lower() for piece in pieces), (
            source
        )
