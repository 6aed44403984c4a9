from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from quorate.engines.cohorts import Cohorts
from quorate.engines.cohorts_parcels import Parcel, receive, send
from quorate.federated.local import Trained
from quorate.federated.unfolded import folded
from tests.engines.test_cohorts import planned, training

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="further processes need Linux")
BEGIN = 120.0  # seconds
FORMS = {"large": [40] * 5, "wide": [8] * 150, "cnn": [20, 3, 0, 9], "mlp": [12, 12, 7]}


def begun(made) -> Cohorts:
    """Return cohorts of two processes, the other of which is ready."""
    together = Cohorts(made.gradient, processes=2)
    together(planned(made, [8, 8]))
    assert together.wait(BEGIN), together.lost
    return together


def helper(together: Cohorts) -> int:
    """Return the other process's number."""
    assert together._crew is not None
    return together._crew.helpers[0].pid


def same(left, right) -> bool:
    pairs = list(zip(left, right, strict=True))
    assert all(isinstance(each, Trained) for pair in pairs for each in pair)
    return all(torch.equal(folded(a.parameters), folded(b.parameters)) and a.loss == b.loss for a, b in pairs)


def gone(process: int, seconds: float = 10.0) -> bool:
    """Return whether a process ends in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", FORMS)
def test_one_process_and_two_have_the_same_bits_and_none_is_left(name):
    made = training(name, torch.float32)
    works = planned(made, FORMS[name], epochs=2)
    alone, together = Cohorts(made.gradient)(works), begun(made)
    other = helper(together)
    assert same(alone, together(works))
    assert same(alone, together(works))
    assert together.lost == []
    assert together.reasons == {}
    together.close()
    assert gone(other)
    assert same(alone, together(works))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_had_is_done_again_and_said(stop):
    made = training("cnn", torch.float32)
    works = planned(made, [20] * 6)
    together = begun(made)
    os.kill(helper(together), signal.SIGSTOP)  # so that it has work when it is killed
    dying = subprocess.Popen(
        ["sh", "-c", f"sleep 0.5; kill -{int(stop)} {helper(together)}; kill -CONT {helper(together)}"]
    )
    assert same(Cohorts(made.gradient)(works), together(works))
    dying.wait()
    assert len(together.lost) == 1
    assert "its work was done again" in together.lost[0]
    assert same(Cohorts(made.gradient)(works), together(works))
    together.close()


def test_a_process_that_is_silent_for_too_long_is_ended(monkeypatch):
    monkeypatch.setattr("quorate.engines.cohorts_processes._PATIENCE", 0.5)
    monkeypatch.setattr("quorate.engines.cohorts_processes._ENDING", 0.5)
    made = training("cnn", torch.float32)
    together, works = begun(made), planned(made, [20] * 6)
    other = helper(together)
    os.kill(other, signal.SIGSTOP)
    assert same(Cohorts(made.gradient)(works), together(works))
    assert "silent" in together.lost[0]
    assert gone(other)


def test_a_loss_that_is_not_finite_is_the_error_of_its_client_alone():
    made = training("cnn", torch.float32)
    works = planned(made, [12] * 4, factor=1.0)
    made.gradient.data.x[works[2].orders[0]] = torch.inf
    together = begun(made)
    others = set(works[2].orders[0].tolist())
    clean = [not others & set(work.orders[0].tolist()) for work in works]
    wanted = Cohorts(made.gradient)(works)
    got = together(works)
    assert [str(each) for each in got if not isinstance(each, Trained)] == [
        str(each) for each in wanted if not isinstance(each, Trained)
    ]
    assert not isinstance(got[2], Trained)
    assert "not finite" in str(got[2])
    assert [isinstance(each, Trained) for each in got] == [isinstance(each, Trained) for each in wanted]
    assert all(isinstance(each, Trained) for each, fine in zip(got, clean, strict=True) if fine)
    assert together.lost == []
    together.close()


def test_a_loss_that_cannot_be_sent_leaves_the_work_to_one_process():
    made = training("mlp", torch.float32)
    made.gradient.objective.loss = lambda output, y: torch.nn.functional.cross_entropy(output, y)
    together, works = Cohorts(made.gradient, processes=2), planned(made, [12, 12])
    assert same(Cohorts(made.gradient)(works), together(works))
    assert not together.wait(0.1)
    assert "no further process could be started" in together.lost[0]


def test_a_process_ends_with_the_one_that_began_it():
    program = (
        "import os, signal, torch; from tests.engines.test_cohorts_processes import begun, helper, training;"
        "together = begun(training('mlp', torch.float32));"
        "print(helper(together), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=BEGIN)
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_a_parcel_keeps_what_is_one_tensor_one_and_says_where_a_sender_has_ended():
    ours, theirs = socket.socketpair()
    one, none = torch.arange(6.0)[::2], torch.zeros(0, 3)
    content = {
        "a": [one, one],
        "empty": none,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(True),
    }
    send(ours, content)
    got = receive(theirs)
    assert got["a"][0] is got["a"][1]
    assert torch.equal(got["a"][0], one)
    assert got["empty"].shape == (0, 3)
    assert torch.equal(got["half"], content["half"])
    assert bool(got["scalar"]) is True
    got["a"][0] += 1
    assert one.tolist() == [0, 2, 4]
    ours.sendall(b"half")
    ours.close()
    with theirs, pytest.raises(EOFError, match="has ended"):
        receive(theirs)


def test_large_tensors_of_a_parcel_are_one_memory():
    ours, theirs = socket.socketpair()
    large = torch.arange(1 << 18, dtype=torch.float32).view(2, -1)
    before = large.clone()
    with Parcel([large]) as parcel:
        parcel.send(ours)
        parcel.share([large])
    assert torch.equal(large, before)
    with ours, theirs:
        (got,) = receive(theirs)
    got[0, 5] = -1
    assert large[0, 5] == -1
