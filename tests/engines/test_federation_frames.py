from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.federation_frames import (
    FROM_CLIENTS,
    FROM_SERVERS,
    HEADER_BYTES,
    Failed,
    Garbled,
    Offer,
    frame,
    unframe,
)

OFFER = Offer(
    id="0" * 32,
    round=3,
    what="train",
    numbers={"loss": float("nan"), "samples": 0.1},
    tensors=(),
    bytes=5,
    sha256="1" * 64,
    start=0,
)


def test_what_is_framed_is_unframed_with_its_bytes():
    header, content = unframe(frame(OFFER, b"12345"), FROM_CLIENTS)
    assert bytes(content) == b"12345"
    assert isinstance(header, Offer)
    assert header.numbers["samples"] == 0.1
    assert header.numbers["loss"] != header.numbers["loss"]
    assert header.model_copy(update={"numbers": {}}) == OFFER.model_copy(update={"numbers": {}})


@given(data=st.binary(max_size=300))
def test_garbage_is_garbled_and_nothing_else(data):
    with pytest.raises(Garbled):
        unframe(data, FROM_CLIENTS)


@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_damaged_header_is_garbled_or_another_valid_one(place, byte):
    data = bytearray(frame(OFFER))
    data[place % len(data)] = byte
    try:
        header, _ = unframe(bytes(data), FROM_CLIENTS)
    except Garbled:
        return
    assert isinstance(header, Offer)
    assert len(header.id) == 32


def test_a_client_may_not_send_what_only_servers_do():
    with pytest.raises(Garbled, match="a message of the kind 'failed', which may not come now"):
        unframe(frame(Failed(id="0" * 32, why="")), FROM_SERVERS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "../../../../etc/passwd"}, "`id` is wrong"),
        ({"sha256": "g" * 64}, "`sha256` is wrong"),
        ({"bytes": -1}, "`bytes` is wrong"),
        ({"bytes": 1 << 60}, "`bytes` is wrong"),
        ({"numbers": {"n": "much"}}, "`numbers.n` is wrong"),
        ({"numbers": {str(n): 1.0 for n in range(65)}}, "`numbers` is wrong"),
        (
            {"tensors": [{"name": "a", "ragged": False, "tensors": [["float32", [-1]]]}]},
            "`tensors.0.tensors.0` is wrong",
        ),
        ({"more": 1}, "`more` is wrong"),
    ],
)
def test_values_out_of_their_limits_are_named(change, says):
    told = json.loads(OFFER.model_copy(update={"numbers": {}}).model_dump_json()) | change
    text = b"offer   " + json.dumps(told).encode()
    with pytest.raises(Garbled, match=re.escape(says)):
        unframe(len(text).to_bytes(4, "little") + text, FROM_CLIENTS)


def test_a_header_that_says_it_is_longer_than_the_message_is_garbled():
    data = bytearray(frame(OFFER))
    data[:4] = (HEADER_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(Garbled, match="bytes that are no message"):
        unframe(bytes(data), FROM_CLIENTS)
