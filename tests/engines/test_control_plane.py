"""The control port over real TLS on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from quorate import founding
from quorate.certificates import ClientIdentity, Refused, ServerIdentity
from quorate.engines.control_plane import Control, answering, from_json, status, stop
from quorate.engines.federation_status import ClientStatus, Status
from quorate.errors import RunError

HOW = Status(
    run="runs/a",
    state="running",
    round=3,
    rounds=9,
    seconds=4.5,
    eta=None,
    accuracy=0.5,
    clients=(ClientStatus(0, "one", "asked", seen=0.5, rounds=3, bytes_up=7, bytes_down=8, offences=0),),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("control") / "federation"
    founding.init(made, "ours")
    founding.invite(made, "one")
    return made


@pytest.fixture
def operator(folder):
    return ClientIdentity.load(folder / "operator.json", "operator")


def ask(folder, question, control=None):
    """Return what `question(address)` returns, which is asked in a thread of its own."""
    control = control or Control(lambda: HOW, lambda: None)

    async def run():
        async with answering(ServerIdentity.load(folder), "127.0.0.1:0", control) as port:
            with ThreadPoolExecutor(1) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, question, f"127.0.0.1:{port}")

    return asyncio.run(run())


def test_an_operator_is_told_how_things_stand(folder, operator):
    assert ask(folder, lambda address: status(operator, address)) == HOW


def test_an_operator_can_stop_the_server(folder, operator):
    stopped = []
    ask(folder, lambda address: stop(operator, address), Control(lambda: HOW, lambda: stopped.append(True)))
    assert stopped == [True]


@pytest.mark.parametrize("name", ["client", "other_federation", "nobody"])
def test_others_do_not_get_as_far_as_a_question(folder, operator, tmp_path, name):
    if name == "client":
        shown = ClientIdentity.load(folder / "invitations" / "one.json")
    else:
        founding.init(tmp_path / "federation", "theirs")
        shown = ClientIdentity.load(tmp_path / "federation" / "operator.json", "operator")
    keys = {"key": None, "cert": None} if name == "nobody" else {"key": shown.key, "cert": shown.cert}
    asked = []
    with pytest.raises(RunError, match=r"no server of federation `ours` answers .*it may not believe this certificate"):
        ask(
            folder,
            lambda address: status(dataclasses.replace(operator, **keys), address),
            Control(lambda: asked.append(True) or HOW, lambda: asked.append(True)),
        )
    assert asked == []


def test_an_operator_whose_bundle_was_renewed_is_refused_by_name(folder, operator, tmp_path):
    copy = tmp_path / "federation"
    shutil.copytree(folder, copy)
    founding.renew(copy)
    with pytest.raises(Refused, match=r"the server refuses operator `operator`: .* or one that has been renewed"):
        ask(copy, lambda address: status(operator, address))


def test_a_server_of_another_federation_is_not_believed(folder, operator, tmp_path):
    founding.init(tmp_path / "federation", "theirs")
    with pytest.raises(RunError, match="its certificate is not the federation's"):
        ask(tmp_path / "federation", lambda address: status(operator, address))


def test_a_port_where_nobody_listens_is_named(operator):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=f"{address} \\(nobody listens there\\)\nhint: is it running"):
        status(operator, address)


def test_a_port_that_is_taken_is_named(folder):
    async def run(address):
        async with answering(ServerIdentity.load(folder), address, Control(lambda: HOW, lambda: None)):
            pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=f"operators can't be listened for at {address}"):
            asyncio.run(run(address))


def test_an_answer_that_is_no_status_is_refused():
    for text in (b"", b"{}", b"\xff", b'{"run": 1}'):
        with pytest.raises(RunError, match="is no status"):
            from_json(text)
