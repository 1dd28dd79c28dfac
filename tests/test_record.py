"""A record says the same to whoever reads it, and what is not one is refused whole."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leases.errors import ConfigurationError, RecordRefused
from leases.record import (
    BEAT_BITS,
    FORMAT,
    HOLDER_BYTES,
    ID_BITS,
    NAME_BYTES,
    RECORD_BYTES,
    TOKEN_BITS,
    TTL_LEAST,
    TTL_MOST,
    Claim,
    State,
    check_holder,
    check_metadata,
    check_name,
    check_ttl,
    decode,
    encode,
)

PLAIN = Claim("web-1", "a" * 32, "b" * 16, 15.0)

# What UTF-8 can carry: everything but surrogates.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
beats = st.integers(0, 2**BEAT_BITS - 1).map("{:016x}".format)
ids = st.integers(0, 2**ID_BITS - 1).map("{:032x}".format)
walls = st.integers(0, 2**53).map(lambda micros: micros / 1e6)
seconds = st.floats(0, 1e9, allow_nan=False)

claims = st.builds(
    Claim,
    holder=text,
    id=ids | st.just(""),
    beat=beats,
    ttl=st.floats(TTL_LEAST, TTL_MOST),
    token=st.none() | st.integers(0, 2**TOKEN_BITS - 1),
    state=st.sampled_from(State),
    acquired=walls,
    renewed=walls,
    successor=st.none() | text,
    metadata=st.dictionaries(text, text, max_size=5),
)
located = st.builds(lambda claim, boot, sent: replace(claim, boot=boot, sent=sent), claims, text, seconds)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def as_dict(claim: Claim) -> dict[str, Any]:
    fields = json.loads(encode(claim))
    assert isinstance(fields, dict)
    return fields


def as_bytes(fields: Any) -> bytes:
    return json.dumps(fields).encode("utf-8", "surrogatepass")


# Round trips.


@given(claims | located)
def test_a_claim_comes_back_as_it_was_written(claim: Claim) -> None:
    """Every field, whatever the text; wall times to the microsecond, instants of the boot clock exactly."""
    read = decode("x", encode(claim))
    assert replace(read, acquired=0.0, renewed=0.0) == replace(claim, acquired=0.0, renewed=0.0)
    assert math.isclose(read.acquired, claim.acquired, abs_tol=1e-6)
    assert math.isclose(read.renewed, claim.renewed, abs_tol=1e-6)


@given(claims | located)
def test_a_record_is_json_in_utf8_that_any_program_can_read(claim: Claim) -> None:
    """The same as the general encoder of the standard library would have it, without spaces."""
    body = encode(claim)
    fields = json.loads(body.decode())
    assert json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()[:10] == body[:10]
    assert fields["holder"] == claim.holder and fields["token"] == claim.token
    assert fields.get("metadata", {}) == claim.metadata
    assert next(iter(fields)) == "format"


@given(claims, st.randoms())
def test_one_claim_has_one_encoding(claim: Claim, dice: Any) -> None:
    """In whatever order its metadata was put together: locks are timed on the bytes too."""
    items = list(claim.metadata.items())
    dice.shuffle(items)
    assert encode(replace(claim, metadata=dict(items))) == encode(claim)
    assert encode(decode("x", encode(claim))) == encode(claim)


@given(claims)
def test_a_freed_record_keeps_the_token_alone(claim: Claim) -> None:
    """Nobody's claim, no instant, no metadata; the beat stays, for the write is not a send."""
    free = decode("x", encode(claim.freed()))
    assert not free.held and free.token == claim.token
    assert (free.id, free.boot, free.sent, free.successor, free.metadata) == ("", None, None, None, {})


@given(located, st.dictionaries(st.text(max_size=8).map("x-{}".format), json_values, max_size=3))
def test_unknown_fields_are_ignored(claim: Claim, more: dict[str, Any]) -> None:
    """A later build may say more in the same format."""
    body = json.dumps(as_dict(claim) | more).encode("utf-8", "backslashreplace")
    if len(body) <= RECORD_BYTES:
        assert encode(decode("x", body)) == encode(claim)


# Refusals.


@given(st.binary(max_size=RECORD_BYTES + 100) | json_values.map(as_bytes))
@example(b"")
@example(b"[" * RECORD_BYTES)
@example(b'{"format":' + b"1" * 4000 + b"}")
@example(b'\xef\xbb\xbf{"format":1}')
def test_garbage_is_refused_and_nothing_else(body: bytes) -> None:
    """No bytes make anything but a refusal that shows them."""
    with pytest.raises(RecordRefused) as refused:
        decode("x", body)
    assert refused.value.body == body and refused.value.name == "x"
    assert "not touched" in str(refused.value) and str(refused.value).isprintable()


@given(located, st.data())
def test_a_record_with_any_field_changed_is_refused_or_valid(claim: Claim, data: st.DataObject) -> None:
    """Whatever JSON stands where: no half-valid claim gets through, no other error gets out."""
    fields = as_dict(replace(claim, successor="web-2"))
    key = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        fields[key] = data.draw(json_values)
    else:
        del fields[key]
    with suppress(RecordRefused):
        read = decode("x", as_bytes(fields))
        again = decode("x", encode(read))
        assert replace(again, acquired=0.0, renewed=0.0) == replace(read, acquired=0.0, renewed=0.0)


@given(claims | located, st.data())
def test_a_record_that_was_cut_or_hit_is_refused_or_valid(claim: Claim, data: st.DataObject) -> None:
    """Half a write, a flipped bit: refused, or by chance another valid record; never another error."""
    body = bytearray(encode(claim))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body) - 1)) :]
    else:
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(RecordRefused):
        assert decode("x", bytes(body)).beat


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": FORMAT + 1}, "upgrade leases"),
        ({"format": 0}, "unknown to this version"),
        ({"format": True}, "unknown to this version"),
        ({"format": float(FORMAT)}, "unknown to this version"),
        ({"format": str(FORMAT)}, "unknown to this version"),
        ({"state": "HELD"}, "HELD"),
        ({"ttl": 0}, "ttl=0"),
        ({"ttl": TTL_LEAST / 2}, "ttl="),
        ({"ttl": TTL_MOST + 1}, "ttl="),
        ({"ttl": True}, "ttl=True"),
        ({"ttl": "15"}, "ttl='15'"),
        ({"ttl": float("nan")}, "ttl=nan"),
        ({"ttl": float("inf")}, "ttl=inf"),
        ({"token": -1}, "token"),
        ({"token": 1.0}, "token"),
        ({"token": True}, "token"),
        ({"token": 2**TOKEN_BITS}, "token"),
        ({"beat": ""}, "beat is empty"),
        ({"beat": "B" * 16}, "beat"),
        ({"beat": "b" * 15}, "beat"),
        ({"claim": "a" * 31}, "claim"),
        ({"claim": "g" * 32}, "claim"),
        ({"holder": 7}, "holder"),
        ({"holder": "x" * (HOLDER_BYTES + 1)}, "holder"),
        ({"holder": "\ud800"}, "utf-8"),
        ({"successor": "x" * (HOLDER_BYTES + 1)}, "successor"),
        ({"boot": "b"}, "'sent' is missing"),
        ({"boot": "b", "sent": None}, "sent"),
        ({"boot": "b", "sent": 10**400}, "too large"),
        ({"renewed": "yesterday"}, "renewed"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * RECORD_BYTES}}, "bytes long"),
        ({"metadata": {"a": "x" * (RECORD_BYTES // 2)}}, "metadata"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_absurd_is_refused_and_never_clamped(change: dict[str, Any], why: str) -> None:
    """S48, S54: of a newer format, outside a limit, or of another type, in a sentence that says which."""
    with pytest.raises(RecordRefused) as refused:
        decode("x", as_bytes(as_dict(PLAIN) | change))
    assert why in refused.value.why


@pytest.mark.parametrize("key", sorted(as_dict(PLAIN)))
def test_no_field_may_be_missing(key: str) -> None:
    """Each of them decides something, or is shown to people who do."""
    fields = as_dict(PLAIN)
    del fields[key]
    with pytest.raises(RecordRefused, match=r"missing|written by this library"):
        decode("x", as_bytes(fields))


# Limits.


@pytest.mark.parametrize("over", [False, True])
def test_a_record_has_at_most_4_kib(over: bool) -> None:
    """Exactly that is written and read; one more byte is refused before it is sent; nothing is cut off."""
    room = RECORD_BYTES - len(encode(replace(PLAIN, metadata={"a": "", "b": ""})))
    half = room // 2
    claim = replace(PLAIN, metadata={"a": "x" * half, "b": "x" * (room - half + over)})
    if over:
        with pytest.raises(ConfigurationError, match="4097 bytes, over the 4096"):
            encode(claim)
    else:
        assert len(encode(claim)) == RECORD_BYTES


@pytest.mark.parametrize("ttl", [TTL_LEAST, 15, 0.5, TTL_MOST])
def test_a_ttl_within_the_limits_is_taken(ttl: float) -> None:
    """From 0.1 s to 7 days, both included, as a float."""
    assert check_ttl(ttl) == ttl and type(check_ttl(ttl)) is float
    assert decode("x", encode(replace(PLAIN, ttl=check_ttl(ttl)))).ttl == ttl


@pytest.mark.parametrize("ttl", [0, -1, 0.099, TTL_MOST + 0.1, math.nan, math.inf, True, "15", None])
def test_a_ttl_outside_the_limits_is_refused(ttl: Any) -> None:
    """With the limits in the message."""
    with pytest.raises(ConfigurationError, match=r"between 0\.1 and 604800 seconds"):
        check_ttl(ttl)


@pytest.mark.parametrize(("check", "limit"), [(check_name, NAME_BYTES), (check_holder, HOLDER_BYTES)])
@pytest.mark.parametrize("good", ["x", "a/b c", "é", "🦊", ".."])
def test_a_name_is_printable_text_of_at_most_256_bytes(check: Any, limit: int, good: str) -> None:
    """Bytes of UTF-8, not characters; nothing is stripped or folded."""
    assert check(good) == good
    longest = good * (limit // len(good.encode()))
    assert check(longest) == longest
    with pytest.raises(ConfigurationError, match="shorten it"):
        check(longest + good)


@pytest.mark.parametrize("check", [check_name, check_holder])
def test_an_empty_name_is_not_to_be_shortened(check: Any) -> None:
    """The advice fits: an empty shell variable is the usual cause."""
    with pytest.raises(ConfigurationError, match="not 0; give one"):
        check("")


@pytest.mark.parametrize("bad", ["", "a\nb", "a\x00b", "\x7f", "\u202e", "\ud800", b"x", None, 7])
@pytest.mark.parametrize("check", [check_name, check_holder])
def test_a_name_that_some_store_could_not_carry_is_refused(check: Any, bad: Any) -> None:
    """Before anything is sent to any store."""
    with pytest.raises(ConfigurationError):
        check(bad)


@given(st.dictionaries(text, text, max_size=5))
def test_metadata_is_copied(metadata: dict[str, str]) -> None:
    """What the caller does with its own afterwards changes no record."""
    checked = check_metadata(metadata)
    assert checked == metadata and checked is not metadata
    assert check_metadata(None) == {}


@pytest.mark.parametrize("bad", [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800"}, {"a": "x" * RECORD_BYTES}])
def test_metadata_that_cannot_be_written_is_refused(bad: Any) -> None:
    """Text to text, and half a record at most."""
    with pytest.raises(ConfigurationError, match="metadata"):
        check_metadata(bad)
