"""What a federation's server and its clients say through Flower: a checked header in JSON, and tensors as one array.

The array holds the messages of `federation_blobs` as one run of bytes, so that a broadcast is one object, which Flower
stores once whoever it is sent to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field, ValidationError

from quorate.engines.federation_blobs import misfit, opened, places
from quorate.engines.federation_frames import HEADER_BYTES, Count, Garbled, Header, Id, Name, Numbers, Specs
from quorate.wire import Message

PROTOCOL = 1
_HEADER, _TENSORS, _BYTES = "quorate", "quorate.tensors", "bytes"


class Greeting(Header):
    """The server's question who a node is."""

    kind = "greeting"
    protocol: Count


class Present(Header):
    """A node's answer: which client it is, what it runs, and facts about itself."""

    kind = "present"
    protocol: Count
    number: Count
    configuration: Annotated[dict[Name, Name], Field(max_length=64)]
    facts: Numbers


class Errand(Header):
    """A request, of the same id for all clients that are asked the same.

    Args:
        run: names what the client keeps between rounds.
        last: the last request whose reply by this client was accepted.
    """

    kind = "errand"
    id: Id
    run: Id
    last: Id | None
    round: Count
    what: Name
    numbers: Numbers
    tensors: Specs
    bytes: Count


def record(header: Header, content: bytes = b"") -> Any:
    """Return a message as a RecordDict."""
    told = ConfigRecord({"kind": header.kind, "header": header.model_dump_json()})
    if not content:
        return RecordDict({_HEADER: told})
    array = Array("uint8", (len(content),), "quorate", content)
    return RecordDict({_HEADER: told, _TENSORS: ArrayRecord({_BYTES: array})})


def read(content: Any, known: Sequence[type[Header]]) -> tuple[Header, bytes]:
    """Return a message's header and the bytes of its tensors.

    Raises:
        Garbled: if it is none of the known ones.
    """
    told = content.config_records.get(_HEADER, {})
    kind, text = told.get("kind"), told.get("header")
    found = next((each for each in known if each.kind == kind), None)
    if found is None or not isinstance(text, str) or len(text) > HEADER_BYTES:
        raise Garbled(f"a message of the kind {str(kind)[:40]!r}, which may not come now")
    try:
        header = found.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])[:80]
        raise Garbled(f"a message `{kind}` whose `{where}` is wrong: {first['msg'][:80]}") from error
    array = content.array_records.get(_TENSORS, {}).get(_BYTES)
    return header, b"" if array is None else bytes(array.data)


def require_fitting(specs: Specs, declared: int, content: bytes, limits: Mapping[str, Message]) -> None:
    """Refuse tensors that are not as the recipe's parts send them.

    Args:
        declared: how many bytes the header says.
        limits: see `misfit`.

    Raises:
        Garbled: with what is wrong.
    """
    flaw = misfit(specs, limits)
    if flaw is not None:
        raise Garbled(f"tensors that can't be used: {flaw}")
    if not len(content) == declared == places(specs)[1]:
        raise Garbled(f"{len(content)} bytes of tensors that have {places(specs)[1]}, and {declared} as it says")


def tensors(specs: Specs, content: bytes) -> dict[str, Message]:
    """Return messages by name, whose bytes these are."""
    held = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    return opened(specs, held)


def digest(errand: Errand, sha256: str) -> str:
    """Return the id of a request whose tensors have that SHA-256.

    Equal requests have equal ones, so that one which is repeated after a crash is not worked out twice.
    """
    return hashlib.sha256(f"{errand.model_dump_json()}{sha256}".encode()).hexdigest()[:32]
