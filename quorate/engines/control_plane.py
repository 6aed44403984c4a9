"""The port of a federation's server where operators ask how things stand, and stop a run.

It believes an authority of its own, so that a client's certificate does not get as far as a question. Over gRPC with
mutual TLS; a question is empty, and an answer JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from pydantic import TypeAdapter, ValidationError

from quorate.certificates import ClientIdentity, Refused, ServerIdentity
from quorate.engines.federation_status import Status
from quorate.errors import QuorateError, RunError

SERVICE = "quorate.Control"
_LARGEST = 1 << 26  # bytes of an answer
_ENOUGH = 1 << 10  # bytes of a question
_DEADLINE = 10.0  # seconds that an operator waits for an answer
_STATUS = TypeAdapter(Status)


class Control(NamedTuple):
    """What operators can do.

    Args:
        status: returns how the run stands.
        stop: has the server stop when it can go on later without loss; it returns at once.
    """

    status: Callable[[], Status]
    stop: Callable[[], None]


async def _opened(identity: ServerIdentity, address: str, control: Control) -> tuple[grpc.aio.Server, int]:
    async def status(_: bytes, context: Any) -> bytes:
        await _require_operator(identity, context)
        return to_json(control.status())

    async def stop(_: bytes, context: Any) -> bytes:
        name = await _require_operator(identity, context)
        control.stop()
        return json.dumps({"stopped_by": name}).encode()

    handlers = {
        "Status": grpc.unary_unary_rpc_method_handler(status),
        "Stop": grpc.unary_unary_rpc_method_handler(stop),
    }
    shown = identity.control
    options = [("grpc.max_receive_message_length", _ENOUGH), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=16)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    credentials = grpc.ssl_server_credentials([(shown.key, shown.cert)], shown.ca, require_client_auth=True)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise RunError(
            f"operators can't be listened for at {address}: is another server there?", "--control 127.0.0.1:9094"
        ) from error
    await server.start()
    return server, port


@asynccontextmanager
async def answering(identity: ServerIdentity, address: str, control: Control) -> AsyncIterator[int]:
    """Answer operators at HOST:PORT as long as the context lasts, and yield the port; 0 takes a free one.

    Raises:
        RunError: if the address can't be listened at.
    """
    server, port = await _opened(identity, address, control)
    try:
        yield port
    finally:
        await server.stop(grace=0.2)


async def _require_operator(identity: ServerIdentity, context: Any) -> str:
    shown = context.auth_context().get("x509_pem_cert", (b"",))[0]
    try:
        return identity.operator_of(shown)
    except QuorateError as error:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.problem)
        raise


def status(operator: ClientIdentity, address: str | None = None) -> Status:
    """Ask a server how its run stands.

    Args:
        address: HOST:PORT of its control port; None: those that the operator's bundle names.

    Raises:
        Refused: if the server does not know the operator.
        RunError: if no server answers.
    """
    return from_json(_asked(operator, address, "Status"))


def stop(operator: ClientIdentity, address: str | None = None) -> None:
    """Have a server stop; see `status`."""
    _asked(operator, address, "Stop")


def to_json(status: Status) -> bytes:
    """Return a status as JSON."""
    return _STATUS.dump_json(status)


def from_json(text: bytes) -> Status:
    """Read a status.

    Raises:
        RunError: if it is none.
    """
    try:
        return _STATUS.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise RunError(
            f"what the server answers is no status: {where + ': ' if where else ''}{first['msg'][:80]}",
            "use the server's version of quorate",
        ) from error


def _asked(operator: ClientIdentity, address: str | None, method: str) -> bytes:
    credentials = grpc.ssl_channel_credentials(operator.ca, operator.key, operator.cert)
    options = [
        ("grpc.max_receive_message_length", _LARGEST),
        ("grpc.enable_http_proxy", 0),
        ("grpc.ssl_target_name_override", "localhost"),  # its authority vouches for this server only, however reached
    ]
    until, reasons = time.monotonic() + _DEADLINE, []
    for each in [address] if address is not None else operator.addresses:
        with grpc.secure_channel(each, credentials, options) as channel:
            ask: Any = channel.unary_unary(f"/{SERVICE}/{method}")
            try:
                return bytes(ask(b"", timeout=max(1.0, until - time.monotonic())))
            except grpc.RpcError as error:
                code, words = error.code(), str(error.details())
                if code == grpc.StatusCode.PERMISSION_DENIED:
                    raise Refused(f"the server refuses operator `{operator.name}`: {words}") from error
                reasons.append(f"{each} ({_in_words(code, words)})")
    raise RunError(
        f"no server of federation `{operator.federation}` answers an operator at {', '.join(reasons)}",
        "is it running? Name its control port with --control HOST:PORT",
    )


def _in_words(code: Any, words: str) -> str:
    """Say why nobody answered, so far as it can be told from outside."""
    if "CERTIFICATE_VERIFY_FAILED" in words or "Hostname Verification" in words or "Peer name" in words:
        return "its certificate is not the federation's"
    if "refused" in words:
        return "nobody listens there"
    if "Socket closed" in words or "Connection reset" in words:
        return "the connection was closed: it may not believe this certificate"
    return str(code.name).lower().replace("_", " ")
