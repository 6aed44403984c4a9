from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import registry
from quorate.errors import DataError, RecipeError
from quorate.registry import Member, Registry, joined, split

LATER = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
MEMBER = Member(name="a", fingerprint="0" * 64, expires=LATER)
KNOWN = Registry(federation="f", addresses=("localhost:9092",), port=9092, control_port=9093, clients=(MEMBER,))


def test_what_is_written_is_read(tmp_path):
    registry.write(tmp_path, KNOWN)
    assert registry.read(tmp_path) == KNOWN


def test_a_client_is_found_by_its_name_however_it_is_written():
    assert KNOWN.client("A") == (0, MEMBER)
    with pytest.raises(RecipeError, match="federation `f` has no client `b`\nhint: `quorate federation list"):
        KNOWN.client("b")


@pytest.mark.parametrize(
    "change",
    [
        {"port": 0},
        {"clients": [json.loads(MEMBER.model_dump_json())] * 2},
        {"clients": [{"name": "a"}]},
        {"clients": [json.loads(MEMBER.model_dump_json()) | {"state": "welcome"}]},
        {"clients": [json.loads(MEMBER.model_dump_json()) | {"fingerprint": "z" * 64}]},
        {"surprise": 1},
    ],
)
def test_a_registry_that_contradicts_itself_is_refused(tmp_path, change):
    whole = json.loads(KNOWN.model_dump_json()) | change
    (tmp_path / registry.FILE).write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"federation\.json` is damaged: "):
        registry.read(tmp_path)


@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_bring_it_down(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    (folder / registry.FILE).write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        registry.read(folder)


def test_a_folder_of_no_federation_is_named(tmp_path):
    with pytest.raises(DataError, match=f"hint: quorate federation init {tmp_path}"):
        registry.read(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a b", "-rf", ".hidden", "a\n", "ä", "a" * 41, "a\0"])
def test_a_name_that_could_be_a_path_or_a_flag_is_refused(name):
    with pytest.raises(RecipeError, match="can't be called"):
        registry.require_name(name, "a client")


hosts = st.one_of(
    st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5})?", fullmatch=True),
    st.ip_addresses().map(str),
)


@given(host=hosts, port=st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(host, port):
    assert split(joined(host, port)) == (host, port)
    assert split(host, port) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":9092",
        "host:-1",
        "host:0",
        "host:65536",
        "host:٣",
        "a b:1",
        "http://a:1",
        "[::1]",
        "[a]b:1",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(RecipeError, match=r"hint: fl\.example\.org:9092"):
        split(address)
