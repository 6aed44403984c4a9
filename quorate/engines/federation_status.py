"""How a federation stands: what is shown of a server while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientStatus:
    """How a client stands.

    Args:
        state: "never seen", "away", "waiting", "asked" (it gets a request, or computes), "sending", "replied" or "shut
            out".
        seen: seconds since its last message; None if it never came.
        rounds: replies of it that were accepted.
        bytes_up: that it has sent, since the server was started.
        bytes_down: that it was sent.
        offences: messages that no honest client sends.
    """

    number: int
    name: str
    state: str
    seen: float | None
    rounds: int
    bytes_up: int
    bytes_down: int
    offences: int


@dataclass(frozen=True)
class Status:
    """How a federation stands.

    Args:
        run: which run it is.
        state: "running", "stopping" or "over".
        round: rounds done.
        rounds: how many there will be; None if that is not known.
        seconds: since the run began, time between crash and restart not counted.
        eta: seconds to go, as the rounds since the last start went; None if none is done yet.
        accuracy: of the last evaluation; None if there was none.
        clients: all that there may be.
    """

    run: str
    state: str
    round: int
    rounds: int | None
    seconds: float
    eta: float | None
    accuracy: float | None
    clients: tuple[ClientStatus, ...]

    @property
    def bytes_up(self) -> int:
        """The bytes that clients have sent, since the server was started."""
        return sum(client.bytes_up for client in self.clients)

    @property
    def bytes_down(self) -> int:
        """The bytes that clients were sent, since the server was started."""
        return sum(client.bytes_down for client in self.clients)
