from __future__ import annotations

import json
import stat
import threading

import pytest

from quorate import founding, registry
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.errors import QuorateError


@pytest.fixture
def folder(tmp_path):
    founding.init(tmp_path / "federation", "ours")
    return tmp_path / "federation"


def private(path):
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_keys_and_bundles_are_their_owners_only(folder):
    made = founding.invite(folder, "one")
    secret = [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in secret} == {
        *("ca.key", "control-ca.key", "server.key", "control.key", "operator.json", "one.json"),
    }
    assert all(private(path) for path in [*secret, folder])
    assert made.bundle in secret


def test_numbers_and_names_of_revoked_clients_are_not_given_again(folder):
    assert [founding.invite(folder, name).number for name in ("one", "two")] == [0, 1]
    assert founding.revoke(folder, "TWO") == 1
    assert founding.invite(folder, "three").number == 2
    for renew in (False, True):
        with pytest.raises(QuorateError, match="client `two` is revoked, and its name and number are not given again"):
            founding.invite(folder, "Two", renew=renew)
    assert [each.state for each in registry.read(folder).clients] == ["invited", "revoked", "invited"]


def test_a_name_is_given_once(folder):
    founding.invite(folder, "one")
    with pytest.raises(QuorateError, match="client `ONE` has been invited, as number 0\nhint: ONE --renew"):
        founding.invite(folder, "ONE")
    with pytest.raises(QuorateError, match="has no client `two`"):
        founding.invite(folder, "two", renew=True)


@pytest.mark.parametrize("name", ["../one", "a/b", "..", "/etc/cron.d/x", ""])
def test_a_name_leads_to_no_other_folder(folder, name):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(QuorateError, match="can't be called"):
        founding.invite(folder, name)
    assert sorted(folder.parent.rglob("*")) == before


def test_no_file_is_written_over(folder, tmp_path):
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    with pytest.raises(QuorateError, match=r"taken\.json` is there already\nhint: remove it, or name another file"):
        founding.invite(folder, "one", taken)
    assert taken.read_text() == "mine"
    assert registry.read(folder).clients == ()
    with pytest.raises(QuorateError, match="is not an empty folder"):
        founding.init(folder)


def test_an_invitation_that_could_not_be_written_has_invited_nobody(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(QuorateError, match=r"`one` is not invited: .*\nhint: name a file with --out"):
        founding.invite(folder, "one", tmp_path / "file" / "one.json")
    assert registry.read(folder).clients == ()
    assert founding.invite(folder, "one").number == 0


def test_invitations_at_once_give_different_numbers(folder):
    made: list[int] = []
    threads = [
        threading.Thread(target=lambda name=f"client-{name}": made.append(founding.invite(folder, name).number))
        for name in range(12)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(made) == list(range(12))
    assert len(registry.read(folder).clients) == 12


def test_renewing_changes_the_address_and_the_operator(folder):
    before = json.loads((folder / "operator.json").read_text())
    assert founding.renew(folder, ["new.example.org:443"]).addresses == ("new.example.org:443",)
    assert json.loads((folder / "operator.json").read_text())["certificate"] != before["certificate"]
    server = ServerIdentity.load(folder)
    with pytest.raises(QuorateError, match="is no operator's"):
        server.operator_of(before["certificate"].encode())
    made = founding.invite(folder, "one")
    assert ClientIdentity.load(made.bundle).addresses == ("new.example.org:443",)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "a b"}, "a federation can't be called 'a b'"),
        ({"hosts": ["a b"]}, "`a b` is no address of a server"),
        ({"hosts": ["https://a"]}, "is no address of a server"),
        ({"port": 5, "control_port": 5}, "different ports; got 5 for both"),
    ],
)
def test_what_can_not_be_founded_leaves_nothing(tmp_path, settings, says):
    with pytest.raises(QuorateError, match=says):
        founding.init(tmp_path / "federation", **settings)
    assert list(tmp_path.iterdir()) == []
