"""A server and its clients in threads of this process, over real TLS."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quorate import deployment, folder, founding
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.engines import control_plane
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.recipe import parse
from tests.commands import until

RECIPE = """
workers = 3
[task]
name = "digits"
[program]
name = "federated"
rounds = {rounds}
cohort = 1
[optimizer]
name = "sgd"
lr = 0.1
[record]
evaluate = 0
[federation]
absence = 1.0
"""
ANY = deployment.Ports("127.0.0.1:0", "127.0.0.1:0")


@pytest.fixture
def federation(tmp_path, monkeypatch):
    """The folder of a federation of two clients; a third one may come."""
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    founding.init(tmp_path / "federation", "ours")
    for name in ("one", "two"):
        founding.invite(tmp_path / "federation", name)
    return tmp_path / "federation"


def recipe(tmp_path, rounds=4):
    return parse(RECIPE.format(rounds=rounds), "short", tmp_path)


class Running:
    """A server and clients in threads; `port` is where they meet."""

    def __init__(self, federation, made, where, pool):
        self.federation, self.made, self.where, self.pool = federation, made, where, pool
        self.said: list[str] = []
        self.server = pool.submit(
            deployment.serve, made, ServerIdentity.load(federation), where, None, ANY, None, self.said.append
        )

    @property
    def port(self):
        listening = [text for text in self.said if "listens for clients at" in text]
        return int(listening[0].rpartition(":")[2]) if listening else None

    def join(self, name, number):
        """Start a client with a bundle that names the port."""
        until(lambda: self.port or self.server.done())
        path = self.federation / "invitations" / f"{name}.json"
        whole = json.loads(path.read_text()) | {"addresses": [f"localhost:{self.port}"]}
        path.write_text(json.dumps(whole))
        return self.pool.submit(deployment.join, path, self.made, None, (number, 3), None, lambda text: None)

    def operator(self):
        until(lambda: "control" in folder.read(self.where))
        address, identity = deployment.where_is_control(self.where)
        return ClientIdentity.load(identity / "operator.json", "operator"), address


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as made:
        yield made


def test_a_federation_runs_to_its_end_and_all_are_told(federation, tmp_path, pool):
    running = Running(federation, recipe(tmp_path), tmp_path / "run", pool)
    clients = [running.join(name, number) for number, name in enumerate(("one", "two"))]
    result = running.server.result(60)
    assert [client.result(60)["accuracy"] for client in clients] == [result["accuracy"]] * 2
    facts = folder.read(tmp_path / "run")
    assert (facts["status"], facts["federated"], facts["engine"]) == ("finished", True, "federation")
    assert (federation / "invitations" / "one-home").is_dir()


def test_a_client_that_is_revoked_is_put_out_and_the_others_go_on(federation, tmp_path, pool):
    running = Running(federation, recipe(tmp_path, 100_000), tmp_path / "run", pool)
    one, two = (running.join(name, number) for number, name in enumerate(("one", "two")))
    operator, address = running.operator()

    def status():
        return control_plane.status(operator, address)

    until(lambda: min(each.rounds for each in status().clients[:2]) > 2)
    before = status()
    assert before.run == str((tmp_path / "run").resolve())
    assert [each.name for each in before.clients] == ["one", "two", ""]
    founding.revoke(federation, "two")
    with pytest.raises(RunError, match=r"client `two` \(1\) is revoked"):
        two.result(30)
    assert status().clients[1].state == "revoked"
    rounds = status().round
    until(lambda: status().round > rounds + 5)
    control_plane.stop(operator, address)
    with pytest.raises(
        deployment.Stopped, match=f"an operator has stopped the server\nhint: quorate resume {tmp_path}"
    ):
        running.server.result(30)
    assert not one.done()
    founding.revoke(federation, "one")
    again = pool.submit(
        deployment.serve,
        running.made,
        ServerIdentity.load(federation),
        tmp_path / "run",
        None,
        deployment.Ports(f"127.0.0.1:{running.port}", "127.0.0.1:0"),
        None,
        running.said.append,
    )
    with pytest.raises(RunError, match=r"client `one` \(0\) is revoked"):
        one.result(60)
    operator, address = running.operator()
    until(lambda: address != deployment.where_is_control(tmp_path / "run")[0])
    address = deployment.where_is_control(tmp_path / "run")[0]
    assert status().round >= rounds
    control_plane.stop(operator, address)
    with pytest.raises(deployment.Stopped):
        again.result(30)


def test_a_program_that_is_no_federation_s_is_refused(federation, tmp_path):
    other = parse('[program]\nname = "synchronous_sgd"\nsteps = 1\n[optimizer]\nname = "sgd"\nlr = 0.1', "a", tmp_path)
    with pytest.raises(QuorateError, match=r"no program of a federation's server"):
        deployment.serve(other, ServerIdentity.load(federation), tmp_path / "run", None, ANY)
    assert not (tmp_path / "run").exists()
    with pytest.raises(QuorateError, match=r"no program of a federation's server"):
        deployment.join(federation / "invitations" / "one.json", other)


@pytest.mark.parametrize(("text", "part"), [(None, None), ("0/1", (0, 1)), ("2/5", (2, 5))])
def test_a_part_is_read(text, part):
    assert deployment.part_of(text) == part


@pytest.mark.parametrize("text", ["", "1", "5/5", "1/0", "-1/5", "1/5/6", "a/b", "٣/٥", "1 /5", "1/5\n"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(RecipeError, match="is no part I of N, with I from 0 to N - 1\nhint: --part 0/5"):
        deployment.part_of(text)


def test_ports_are_the_federations_unless_others_are_named(federation):
    identity = ServerIdentity.load(federation)
    assert deployment.Ports().of(identity) == ("[::]:9092", "127.0.0.1:9093")
    assert deployment.Ports("0.0.0.0", "10.0.0.1:5").of(identity) == ("0.0.0.0:9092", "10.0.0.1:5")
    with pytest.raises(RecipeError, match="is no address"):
        deployment.Ports("a b").of(identity)


def test_a_run_without_operators_says_so(tmp_path):
    folder.create(tmp_path / "run", recipe(tmp_path), "simulator", 3, None, {})
    with pytest.raises(RunError, match="is no run of `quorate federation serve`"):
        deployment.where_is_control(tmp_path / "run")


def test_nothing_is_left_running():
    assert [each.name for each in threading.enumerate() if each.name == "program"] == []
