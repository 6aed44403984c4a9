"""A process that does pieces of cohorts' local work for another one, until that one ends or needs it no more."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys

import torch

from quorate.engines.cohorts_parcels import receive, send
from quorate.engines.cohorts_pieces import Form


def serve(source: socket.socket) -> None:
    """Say "ready", and answer each piece of work with what came of it, or in words why it failed."""
    form, threads = receive(source)
    assert isinstance(form, Form)
    torch.set_num_threads(threads)
    send(source, "ready")
    while True:
        works = receive(source)
        try:
            answer: object = form.do(works)
        except Exception as error:  # whatever it is, the other process comes upon it too, where it can be told
            answer = f"{type(error).__name__}: {error}"
        send(source, answer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # goes to the whole group; the other process ends this one
    with contextlib.suppress(EOFError, OSError):
        serve(socket.socket(fileno=int(sys.argv[1])))
