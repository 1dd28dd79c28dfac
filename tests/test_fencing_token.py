"""`Token`, and the errors of fences: a number that knows its lock, and says so in one line of ASCII."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leases
import leases.fencing
from leases import ConfigurationError, LeasesError, fencing
from leases.fencing import (
    ForeignToken,
    MalformedToken,
    NotCurrent,
    ResourceBusy,
    StaleToken,
    Token,
    TokenRefused,
)
from leases.record import NAME_BYTES, TOKEN_BITS
from stores import Site, every_store

names = st.text(min_size=1, max_size=80).filter(
    lambda text: text.isprintable() and len(text.encode("utf-8", "replace")) <= NAME_BYTES
)


@given(names, st.integers(0, (1 << TOKEN_BITS) - 1), st.none() | names)
def test_its_text_says_all_of_it(name: str, number: int, holder: str | None) -> None:
    """Whatever a lock and a holder are called, the text is printable ASCII, without blanks, and says them."""
    token = Token(name, number, holder)
    text = str(token)
    assert text.isascii() and text.isprintable() and not set(text) & set(' ,"\\')
    parsed = Token.parse(text)
    assert (parsed.name, parsed.number, parsed.holder) == (name, number, holder)


def test_its_text_is_readable() -> None:
    """What people usually call locks and holders stands there as it is."""
    assert str(Token("orders/42", 17, "web-3:7")) == "17;name=orders/42;holder=web-3:7"
    assert str(Token("a;b=c", 1)) == "1;name=a%3Bb%3Dc"


def test_another_spelling_is_understood() -> None:
    """Clients in other languages encode more than they must, such as the slash."""
    assert Token.parse("17;name=orders%2F42") == Token("orders/42", 17)


JUNK = (
    *("", "17", "17;name=", "017;name=a", "-1;name=a", "+1;name=a", "x;name=a", "1;Name=a", " 1;name=a"),
    *("1;name=a b", "1;name=a;holder=", "1;name=a;holder=b;more", "1;name=a,1;name=a", "1;name=a\n"),
    *("1;name=%ff", "1;name=%00", "\u0661;name=a", "1;name=\u00e4", f"{1 << TOKEN_BITS};name=a"),
    *("1;name=a,1", "1;name=a;holder=b,c"),
    *("9" * 5000 + ";name=a", f"1;name={'a' * (NAME_BYTES + 1)}"),
)


@pytest.mark.parametrize("text", JUNK)
def test_junk_is_refused(text: str) -> None:
    """The error shows what came, shortened, and is a ValueError, too."""
    with pytest.raises(MalformedToken, match="no fencing token") as caught:
        Token.parse(text)
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) < 600


@given(st.text() | st.from_regex(r"[0-9]{1,45};name=.{0,300}(;holder=.*)?", fullmatch=True))
def test_whatever_comes_is_a_token_or_malformed(text: str) -> None:
    """No text raises anything else."""
    try:
        token = Token.parse(text)
    except MalformedToken:
        return
    assert Token.parse(str(token)) == token


@pytest.mark.parametrize("wrong", [-1, 1 << TOKEN_BITS, True, 1.0, "1", None])
def test_a_number_that_no_lease_has_is_refused(wrong: Any) -> None:
    """At construction; so are names and holders."""
    with pytest.raises(ConfigurationError, match="no token"):
        Token("job", wrong)
    with pytest.raises(ConfigurationError):
        Token("", 1)
    with pytest.raises(ConfigurationError):
        Token("job", 1, "a\n")


def test_tokens_of_one_lock_compare_by_their_numbers() -> None:
    """The holder does not count."""
    low, high = Token("job", 9, "a"), Token("job", 10, "b")
    assert low < high and low <= high and high > low and high >= low and low != high
    assert low == Token("job", 9, "other") and low <= Token("job", 9) and low >= Token("job", 9)
    assert hash(low) == hash(Token("job", 9)) and max(low, high) is high


def test_tokens_of_two_locks_do_not_compare() -> None:
    """S56: that one number is larger than another says nothing; being equal is answered, by no."""
    a, b = Token("a", 1), Token("b", 1)
    assert a != b
    for compare in (a.__lt__, a.__le__, a.__gt__, a.__ge__):
        with pytest.raises(ForeignToken, match='lock "b" says nothing about lock "a"'):
            compare(b)
    with pytest.raises(TypeError, match="wrap it"):
        _ = a < 2  # type: ignore[operator] # pyright: ignore[reportOperatorIssue]


@every_store
def test_it_is_made_of_a_lease(site: Site) -> None:
    """Name, number and holder; a released lease has one as well, because what it sent is still under way."""
    with site.store() as store:
        lease = store.lock("job", holder="web-1").acquire()
        token = Token.of(lease)
        lease.release()
        assert token == Token.of(lease) == Token.of(token) and Token.of(token) is token
        assert (token.name, token.number, token.holder) == ("job", lease.token, "web-1")


def test_it_is_made_of_nothing_else() -> None:
    """A bare number has no lock."""
    with pytest.raises(ConfigurationError, match="neither a lease nor a Token"):
        Token.of(17)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_command_under_hold_finds_its_own() -> None:
    """From what `leases hold` sets; elsewhere the error says what is missing."""
    environment = {"LEASES_NAME": "job", "LEASES_TOKEN": "17", "LEASES_HOLDER": "web-1"}
    assert str(Token.from_environment(environment)) == "17;name=job;holder=web-1"
    with pytest.raises(ConfigurationError, match=r"\$LEASES_TOKEN is not set; .*leases hold"):
        Token.from_environment({"LEASES_NAME": "job"})
    for wrong in ({"LEASES_TOKEN": "x"}, {"LEASES_TOKEN": "9" * 39}, {"LEASES_HOLDER": "a\n"}):
        with pytest.raises(MalformedToken):
            Token.from_environment(environment | wrong)


def test_leases_hold_hands_it_on(tmp_path: Path) -> None:
    """The command itself, under the real `leases hold`."""
    code = "from leases.fencing import Token; print(Token.from_environment())"
    done = subprocess.run(
        [sys.executable, "-m", "leases", "hold", "job", "--backend", f"sqlite:{tmp_path / 'leases.db'}",
         "--holder", "web 1", "--", sys.executable, "-c", code],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.endswith(";name=job;holder=web%201\n"), done.stderr
    assert Token.parse(done.stdout.strip()).holder == "web 1"


@pytest.mark.parametrize(
    "error",
    [
        StaleToken("job", 1, 2),
        StaleToken("job", 1),
        NotCurrent("job", 1, "nobody holds it"),
        ForeignToken("job", "other"),
        MalformedToken("x" * 1000, "why"),
        ResourceBusy("job", 2.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_carry_their_facts_and_end_in_the_next_step(error: LeasesError) -> None:
    """They survive a queue between processes, and can be caught by one base."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)
    assert "; " in str(error) and len(str(error)) < 400
    assert isinstance(error, TokenRefused | ResourceBusy)


def test_all_that_is_public_is_there() -> None:
    """Each name of the package is loaded when it is asked for, and no other exists."""
    for name in fencing.__all__:
        assert getattr(fencing, name).__name__ == name
    assert set(fencing.__all__) <= set(dir(leases.fencing))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = getattr(fencing, "Nothing")  # noqa: B009 - asked as a program would, past the type checkers


def test_a_lock_loads_no_fence() -> None:
    """Who fences nothing pays for nothing, and whoever fences loads what it uses."""
    code = (
        "import sys, leases; leases.Lock('job', store='memory:x').acquire().release(); "
        "assert not [m for m in sys.modules if m.startswith('leases.fencing')]; "
        "from leases.fencing import Token; assert 'leases.fencing.http' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
