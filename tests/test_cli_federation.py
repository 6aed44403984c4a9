from __future__ import annotations

import json
import sys

import pytest

from quorate import cli_identities, registry
from quorate.certificates import ClientIdentity
from tests.commands import RECIPES, call, refusal

FED_AVG = RECIPES / "federated" / "fed_avg.toml"


@pytest.fixture
def folder(monkeypatch, capsys, tmp_path):
    """The folder of a federation with one client."""
    assert call(monkeypatch, "federation", "init", tmp_path / "federation", "--name", "ours") == 0
    assert call(monkeypatch, "federation", "invite", tmp_path / "federation", "one") == 0
    capsys.readouterr()
    return tmp_path / "federation"


def said(monkeypatch, capsys, *words):
    """Return what a command that works says."""
    assert call(monkeypatch, *words) == 0
    return capsys.readouterr().out


def test_founding_says_where_the_server_is_and_what_to_do_next(monkeypatch, capsys, tmp_path):
    hosts = ("--host", "fl.example.org", "--host", "10.0.0.1:443")
    text = said(monkeypatch, capsys, "federation", "init", tmp_path / "new", *hosts)
    assert "clients reach its server at fl.example.org:9092, 10.0.0.1:443" in text
    assert f"next: quorate federation invite {tmp_path / 'new'} NAME" in text


def test_an_invitation_says_what_to_do_with_the_bundle_and_both_sides_see_one_fingerprint(monkeypatch, capsys, folder):
    text = said(monkeypatch, capsys, "federation", "invite", folder, "two")
    bundle = folder / "invitations" / "two.json"
    assert f"client `two` has number 1; its bundle: {bundle}" in text
    shown = said(monkeypatch, capsys, "federation", "show", bundle)
    assert "client `two`, number 1, of federation `ours`" in shown
    assert shown.splitlines()[-1] in text.splitlines()
    assert len(shown.splitlines()[-1].replace(" ", "")) == 64
    assert "PRIVATE" not in text + shown


def test_those_invited_are_listed(monkeypatch, capsys, folder):
    said(monkeypatch, capsys, "federation", "invite", folder, "two")
    assert "client `two` (1) is revoked" in said(monkeypatch, capsys, "federation", "revoke", folder, "two")
    text = said(monkeypatch, capsys, "federation", "list", folder)
    assert [line.split()[:3] for line in text.splitlines()[2:]] == [["0", "one", "invited"], ["1", "two", "revoked"]]
    listed = json.loads(said(monkeypatch, capsys, "federation", "list", folder, "--json"))
    assert [each["state"] for each in listed["clients"]] == ["invited", "revoked"]


def test_renewing_tells_whose_bundles_name_the_old_address(monkeypatch, capsys, folder):
    text = said(monkeypatch, capsys, "federation", "renew", folder, "--host", "new.example.org")
    assert "new.example.org:9092" in text
    assert "--renew" in text
    said(monkeypatch, capsys, "federation", "invite", folder, "one", "--renew")
    assert ClientIdentity.load(folder / "invitations" / "one.json").addresses == ("new.example.org:9092",)
    assert registry.read(folder).clients[0].name == "one"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("init", "{folder}"), "is not an empty folder"),
        (
            ("invite", "{folder}", "one"),
            "client `one` has been invited, as number 0\nhint: one --renew, or another name",
        ),
        (("invite", "{folder}", "../../evil"), "a client can't be called '../../evil'"),
        (("invite", "{folder}/nowhere", "two"), "is not the folder of a federation: it has no federation.json"),
        (("revoke", "{folder}", "two"), "federation `ours` has no client `two`"),
        (("show", "{folder}/operator.json"), "is the bundle of an operator, not of a client"),
        (("show", "{folder}/nothing.json"), "there is no file"),
        (
            ("status",),
            "name the run's folder, or, from elsewhere, the operator's bundle\nhint: quorate federation status",
        ),
        (("status", "{folder}"), "is not a run folder"),
        (("status", "--operator", "{folder}/operator.json", "--watch", "--json"), "--watch and --json exclude"),
        (("status", "--operator", "{folder}/invitations/one.json"), "is the bundle of a client, not of an operator"),
        (("stop", "--operator", "{folder}/operator.json", "--control", "a b"), "`a b` is no address of a server"),
        (("status", "--operator", "{folder}/operator.json", "--control", "127.0.0.1:1"), "nobody listens there"),
    ],
)
def test_mistakes_are_explained(monkeypatch, capsys, folder, words, says):
    assert says in refusal(monkeypatch, capsys, "federation", *(str(word).format(folder=folder) for word in words))


def test_a_wrong_host_is_named_by_what_it_shows(monkeypatch, capsys, folder, tmp_path):
    bundle = folder / "invitations" / "one.json"
    bundle.write_bytes(bundle.read_bytes()[:300])
    assert "is no whole bundle" in refusal(monkeypatch, capsys, "federation", "show", bundle)
    bundle.chmod(0o644)
    assert f"hint: chmod 600 {bundle}" in refusal(monkeypatch, capsys, "federation", "show", bundle)


def test_what_is_not_installed_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli_identities.importlib.util, "find_spec", lambda name: None)
    assert "federations across machines need grpc and cryptography\nhint: pip install 'quorate[federation]'" in refusal(
        monkeypatch, capsys, "federation", "init", tmp_path / "new"
    )


def test_the_simulator_needs_neither_grpc_nor_certificates(monkeypatch, capsys, tmp_path):
    for name in [each for each in sys.modules if each.split(".")[0] in ("grpc", "cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("grpc", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    recipe = tmp_path / "short.toml"
    recipe.write_text(FED_AVG.read_text().replace("rounds = 60", "rounds = 2").replace("workers = 100", "workers = 12"))
    text = said(monkeypatch, capsys, "run", recipe, "--out", tmp_path / "run")
    assert "after 2 rounds of 12 clients" in text


def test_ways_of_running_that_need_workers_to_meet_are_refused(monkeypatch, capsys, tmp_path):
    text = refusal(monkeypatch, capsys, "run", FED_AVG, "--workers", 4, "--elastic")
    assert text.endswith(f"hint: quorate run {FED_AVG} --workers 100")
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    text = refusal(monkeypatch, capsys, "run", FED_AVG)
    assert "torchrun's workers all run one program and meet in collectives\nhint: quorate run" in text


def test_a_client_gives_up_when_it_is_told_to(monkeypatch, capsys, folder, tmp_path):
    bundle = folder / "invitations" / "one.json"
    recipe = tmp_path / "digits.toml"
    recipe.write_text(FED_AVG.read_text().replace("workers = 100", "workers = 12"))
    assert call(monkeypatch, "federation", "join", bundle, recipe, "--part", "0/12", "--give-up", 0.2) == 1
    text = capsys.readouterr().err
    assert "error: the server has been away for" in text
    assert "hint: a larger --give-up" in text
