"""A federation as people start it: processes of this machine, over real TLS."""

from __future__ import annotations

import socket

import pytest

from quorate import deployment, folder, founding
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.engines import control_plane
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.recipe import load, parse
from tests.commands import output_of, result, started, until

RECIPE = """
workers = 3
[simulator]
batching = "exact"
[task]
name = "digits"
[program]
name = "federated"
rounds = {rounds}
cohort = 2
[optimizer]
name = "sgd"
lr = 0.1
[record]
evaluate = 0
[federation]
absence = 1.0
"""


@pytest.fixture
def federation(tmp_path):
    """The folder of a federation of two clients, on ports that are free; a third one may come."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        port, control = first.getsockname()[1], second.getsockname()[1]
    founding.init(tmp_path / "federation", "ours", port=port, control_port=control)
    for name in ("one", "two"):
        founding.invite(tmp_path / "federation", name)
    return tmp_path / "federation"


def write_recipe(tmp_path, rounds):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(rounds=rounds))
    return path


def said(process):
    """Wait for a process to end; return its exit status and what it said."""
    out, err = process.communicate(timeout=200)
    return process.returncode, out + err


@pytest.mark.processes
def test_a_federation_from_its_founding_to_a_revoked_client_a_stop_and_a_resumption(federation, tmp_path):
    recipe, run = write_recipe(tmp_path, 100_000), tmp_path / "run"
    operator = ClientIdentity.load(federation / "operator.json", "operator")

    def status():
        try:
            return control_plane.status(operator)
        except RunError:
            return None

    def done():
        found = status()
        return found.round if found else -1

    def join(name, number):
        bundle = federation / "invitations" / f"{name}.json"
        return started("federation", "join", bundle, recipe, "--part", f"{number}/3")

    with join("one", 0) as one, join("two", 1) as two:
        with started("federation", "serve", recipe, "--identity", federation, "--out", run) as server:
            until(lambda: (how := status()) and min(each.rounds for each in how.clients[:2]) > 2)
            before = status()
            assert before.run == str(run.resolve())
            assert [each.name for each in before.clients] == ["one", "two", ""]
            founding.revoke(federation, "two")
            code, text = said(two)
            assert (code, "error: the server refuses this client: client `two` (1) is revoked" in text) == (1, True)
            assert status().clients[1].state == "revoked"
            rounds = done()
            until(lambda: done() > rounds + 5)
            control_plane.stop(operator)
            code, text = said(server)
            assert (code, f"an operator has stopped the server; `quorate resume {run}` goes on" in text) == (0, True)
        assert one.poll() is None
        with started("resume", run) as server:
            until(lambda: done() > rounds + 10)
            assert status().clients[1].state == "revoked"
            founding.revoke(federation, "one")
            code, text = said(one)
            assert (code, "client `one` (0) is revoked" in text) == (1, True)
            control_plane.stop(operator)
            assert said(server)[0] == 0
    assert (federation / "invitations" / "one-home").is_dir()


@pytest.mark.processes
def test_processes_of_this_machine_come_to_what_a_simulation_comes_to_bit_by_bit(tmp_path):
    recipe = write_recipe(tmp_path, 4)
    code, out, err = output_of("run", recipe, "--workers", 3, "--out", tmp_path / "real", "--json")
    assert code == 0, err
    code, simulated, err = output_of("run", recipe, "--out", tmp_path / "simulated", "--json")
    assert code == 0, err
    assert result(out)["parameters_sha256"] == result(simulated)["parameters_sha256"]
    assert result(out)["bytes"] == result(simulated)["bytes"]
    facts = folder.read(tmp_path / "real")
    assert (facts["status"], facts["engine"], facts["here"]) == ("finished", "federation", True)
    assert "after 4 rounds of 3 clients" in out
    assert sorted(path.name for path in (tmp_path / "real" / "clients").iterdir()) == ["0", "1", "2"]


def test_a_program_that_is_no_federation_s_is_refused(federation, tmp_path):
    other = parse('[program]\nname = "synchronous_sgd"\nsteps = 1\n[optimizer]\nname = "sgd"\nlr = 0.1', "a", tmp_path)
    with pytest.raises(QuorateError, match=r"no program of a federation's server"):
        deployment.serve(other, ServerIdentity.load(federation), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(QuorateError, match=r"no program of a federation's server"):
        deployment.join(federation / "invitations" / "one.json", other)


@pytest.mark.parametrize(("text", "part"), [(None, None), ("0/1", (0, 1)), ("2/5", (2, 5))])
def test_a_part_is_read(text, part):
    assert deployment.part_of(text) == part


@pytest.mark.parametrize("text", ["", "1", "5/5", "1/0", "-1/5", "1/5/6", "a/b", "\u0663/5", "1 /5", "1/5\n"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(RecipeError, match="is no part I of N, with I from 0 to N - 1\nhint: --part 0/5"):
        deployment.part_of(text)


def test_ports_are_the_federations_unless_others_are_named(federation):
    identity = ServerIdentity.load(federation)
    port, control = identity.registry.port, identity.registry.control_port
    assert deployment.Ports().of(identity) == (f"[::]:{port}", f"127.0.0.1:{control}")
    assert deployment.Ports("0.0.0.0", "10.0.0.1:5").of(identity) == (f"0.0.0.0:{port}", "10.0.0.1:5")
    with pytest.raises(RecipeError, match="is no address"):
        deployment.Ports("a b").of(identity)


def test_a_run_without_operators_says_so(tmp_path):
    folder.create(tmp_path / "run", load(write_recipe(tmp_path, 1)), "simulator", 3, None, {})
    with pytest.raises(RunError, match="is no run of `quorate federation serve`"):
        deployment.where_is_control(tmp_path / "run")
