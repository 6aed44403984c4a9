from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import founding, issuing, registry
from quorate.certificates import ClientIdentity, Refused, ServerIdentity
from quorate.errors import DataError, QuorateError
from quorate.issuing import Pair


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """A federation of `one`, `two` and `three`."""
    folder = tmp_path_factory.mktemp("founded") / "federation"
    founding.init(folder, "ours", ["fl.example.org", "10.0.0.1:443"])
    for name in ("one", "two", "three"):
        founding.invite(folder, name)
    return folder


@pytest.fixture
def folder(founded, tmp_path):
    """A copy that can be changed."""
    shutil.copytree(founded, tmp_path / "federation")
    return tmp_path / "federation"


def bundle(folder, name="one"):
    return folder / "invitations" / f"{name}.json"


def client(folder, name="one"):
    return ClientIdentity.load(bundle(folder, name))


def authority(folder, name="ca"):
    return Pair((folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes())


def test_a_server_knows_whom_it_has_invited(founded):
    server = ServerIdentity.load(founded)
    for number, name in enumerate(("one", "two", "three")):
        found = client(founded, name)
        assert server.name_of(found.cert) == (number, name) == (found.number, found.name)
    assert (found.federation, found.addresses) == ("ours", ("fl.example.org:9092", "10.0.0.1:443"))
    assert found.ca == server.ca


def test_a_running_server_sees_at_once_who_is_revoked_and_who_has_come(folder):
    server = ServerIdentity.load(folder)
    assert server.name_of(client(folder, "two").cert) == (1, "two")
    founding.revoke(folder, "two")
    with pytest.raises(Refused, match=r"client `two` \(1\) is revoked"):
        server.name_of(client(folder, "two").cert)
    founding.invite(folder, "four")
    assert server.name_of(client(folder, "four").cert) == (3, "four")


def test_a_certificate_that_was_renewed_counts_no_more(folder):
    server, before = ServerIdentity.load(folder), client(folder, "two")
    founding.invite(folder, "two", renew=True)
    with pytest.raises(Refused, match="is no client's of federation `ours`, or one that has been renewed"):
        server.name_of(before.cert)
    assert server.name_of(client(folder, "two").cert) == (1, "two")


def test_a_certificate_that_was_signed_but_not_invited_is_unknown(founded):
    forged = issuing.issue(authority(founded), "one", "client", 1)
    with pytest.raises(Refused, match="is no client's"):
        ServerIdentity.load(founded).name_of(forged.certificate)


def test_an_expired_one_is_refused_with_its_date(folder):
    founding.invite(folder, "late", days=-0.1)
    cert = json.loads(bundle(folder, "late").read_text())["certificate"].encode()
    with pytest.raises(Refused, match=r"client `late` \(3\) expired on 20\d\d-.*\nhint: .*late --renew"):
        ServerIdentity.load(folder).name_of(cert)
    with pytest.raises(DataError, match=r"expired on 20\d\d-"):
        client(folder, "late")


def test_operators_and_clients_do_not_pass_for_each_other(founded):
    server = ServerIdentity.load(founded)
    operator = ClientIdentity.load(founded / "operator.json", "operator")
    assert server.operator_of(operator.cert) == "operator"
    assert operator.addresses == ("fl.example.org:9093", "10.0.0.1:9093", "127.0.0.1:9093")
    with pytest.raises(Refused, match="is no client's"):
        server.name_of(operator.cert)
    with pytest.raises(Refused, match="is no operator's"):
        server.operator_of(client(founded).cert)
    assert operator.ca == server.control.ca != server.ca


@given(pem=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_whatever_else_is_shown_is_refused(pem, founded):
    with pytest.raises(Refused):
        ServerIdentity.load(founded).name_of(pem)


@pytest.mark.parametrize("name", ["server.key", "control.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_server_whose_keys_others_can_read_does_not_start(folder, name, mode):
    (folder / name).chmod(mode)
    with pytest.raises(DataError, match=f"holds a private key.*\nhint: chmod 600 {folder / name}"):
        ServerIdentity.load(folder)


def test_a_server_needs_no_authority_key(folder):
    for name in ("ca.key", "control-ca.key"):
        (folder / name).unlink()
    assert ServerIdentity.load(folder).federation == "ours"
    with pytest.raises(DataError, match=r"there is no file `.*ca\.key`"):
        founding.invite(folder, "four")


@pytest.mark.parametrize("name", ["server.key", "server.pem", "ca.pem", "control.key", "control.pem", "control-ca.pem"])
def test_a_missing_damaged_or_swapped_file_is_named(folder, name):
    path, other = folder / name, folder / name.replace("server", "ca").replace("control.", "control-ca.")
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"\0" * 100, b"x" * (1 << 17)):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=name):
            ServerIdentity.load(folder)
    path.write_bytes((other if other != path else folder / "server.pem").read_bytes())
    with pytest.raises(DataError, match=r"do not belong together|was not signed by"):
        ServerIdentity.load(folder)
    path.unlink()
    with pytest.raises(DataError, match=f"there is no file `.*{name}`"):
        ServerIdentity.load(folder)


def test_an_expired_server_is_told_how_to_renew(folder):
    founding.renew(folder, days=-0.1)
    with pytest.raises(DataError, match=f"expired on .*\nhint: quorate federation renew {folder}"):
        ServerIdentity.load(folder)
    founding.renew(folder)
    assert ServerIdentity.load(folder).name_of(client(folder).cert) == (0, "one")


@given(data=st.data())
def test_a_bundle_that_was_cut_or_changed_is_refused(data, founded, tmp_path_factory):
    content = bundle(founded).read_bytes()
    place = data.draw(st.integers(0, len(content) - 2))
    changed = content[:place] if data.draw(st.booleans()) else content[:place] + b"\0" + content[place + 1 :]
    path = tmp_path_factory.mktemp("bundle") / "one.json"
    path.touch(mode=0o600)
    path.write_bytes(changed)
    with pytest.raises(QuorateError):
        ClientIdentity.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": -1}, "number"),
        ({"number": "0"}, "number"),
        ({"number": True}, "number"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["file:///etc/passwd"]}, "is no address of a server"),
        ({"name": "../../etc"}, "can't be called"),
        ({"federation": "a/b"}, "can't be called"),
        ({"quorate": "operator"}, "is the bundle of an operator, not of a client"),
        ({"surprise": 1}, "surprise"),
        ({"key": "nothing"}, "the key in .* is damaged"),
    ],
)
def test_a_bundle_whose_fields_are_wrong_is_refused(folder, change, says):
    whole = json.loads(bundle(folder).read_text()) | change
    bundle(folder).write_text(json.dumps(whole))
    with pytest.raises(QuorateError, match=says):
        client(folder)


def test_pieces_of_two_bundles_make_none(folder):
    one, two = (json.loads(bundle(folder, name).read_text()) for name in ("one", "two"))
    bundle(folder).write_text(json.dumps(one | {"key": two["key"]}))
    with pytest.raises(DataError, match="do not belong together"):
        client(folder)
    other = json.loads((folder / "operator.json").read_text())
    bundle(folder).write_text(json.dumps(one | {"authority": other["authority"]}))
    with pytest.raises(DataError, match="was not signed by the authority in"):
        client(folder)


def test_a_bundle_that_others_can_read_is_refused(folder):
    bundle(folder).chmod(0o644)
    with pytest.raises(DataError, match=f"hint: chmod 600 {bundle(folder)}"):
        client(folder)


def test_a_registry_that_is_damaged_while_a_server_runs_lets_nobody_in(folder):
    server = ServerIdentity.load(folder)
    (folder / registry.FILE).write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        server.name_of(client(folder).cert)
