"""Arrays of Flower's messages as updates (d,), and a codec's messages as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field
from torch import Tensor

from quorate.codecs import Codec
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_frames import Count, Garbled, Header, Specs
from quorate.engines.flower_messages import read, require_fitting, tensors
from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.trees import Tree, flatten, nest

UPDATE = "update"
_HEADER, _ENCODED, _STATE = "quorate", "quorate.update", "quorate.codec"
_CHUNK = 1 << 20  # bytes


class Said(Header):
    """What stands beside an encoded update."""

    kind = "said"
    step: Annotated[Count, Field(description="how many updates its client has encoded before")]
    tensors: Specs
    bytes: Count


def arrays_of(content: Any) -> tuple[str, Any]:
    """Return the name and the ArrayRecord of a RecordDict that holds one.

    Raises:
        RunError: if it holds none, or several.
    """
    found = list(content.array_records.items())
    if len(found) != 1:
        raise RunError(f"a message holds {len(found)} ArrayRecords, of which one is the model", "put all arrays in one")
    return cast("tuple[str, Any]", found[0])


def _floats(arrays: Any) -> dict[str, Any]:
    return {name: held for name, array in arrays.items() if (held := array.numpy()).dtype.kind == "f"}


def flat(arrays: Any) -> Tensor:
    """Return all floats of an ArrayRecord as one vector (d,) of float32, in the order of their names."""
    found = [
        torch.from_numpy(np.array(held, dtype=np.float32)).reshape(-1) for _, held in sorted(_floats(arrays).items())
    ]
    return torch.cat(found) if found else torch.zeros(0)


def replaced(arrays: Any, vector: Tensor) -> Any:
    """Return an ArrayRecord whose floats are those of a vector (d,), in their own dtypes; see `flat`."""
    offset, new = 0, dict[str, Any]()
    for name, held in sorted(_floats(arrays).items()):
        part = vector[offset : offset + held.size].numpy().astype(held.dtype).reshape(held.shape)
        new[name], offset = Array(np.ascontiguousarray(part)), offset + held.size
    return ArrayRecord({name: new.get(name, array) for name, array in arrays.items()})


def with_floats(arrays: Any, floats: Any) -> Any:
    """Return an ArrayRecord with the floats of another one, which holds the same names."""
    return ArrayRecord({name: floats[name] if name in _floats(arrays) else each for name, each in arrays.items()})


def likeness(arrays: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of each array, by name."""
    return {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()}


@dataclass(frozen=True)
class Coding:
    """A codec between clients and server.

    Args:
        codec: how clients say what they have come to.
        seed: of all its randomness; the same on clients and server.

    Raises:
        Incompatible: if it can't stand alone.
    """

    codec: Codec
    seed: int

    def __post_init__(self) -> None:
        exchange = Exchange(self.codec)
        if exchange.meets_itself:
            raise RunError(
                f"{self.codec} needs meetings of all workers, but clients meet the server only", "TopK(0.01)"
            )

    def _at(self, step: int, node: int) -> At:
        return At(step, node, 1, Rand(self.seed).fold("flower"))

    def encode(self, start: Any, content: Any, state: Any, node: int) -> None:
        """Replace the arrays of a RecordDict by what the codec says of their difference to the start.

        Args:
            start: the ArrayRecord that the client was sent.
            state: the RecordDict of the client's context; the codec's state in it goes on.
            node: the client's.
        """
        key, arrays = arrays_of(content)
        if likeness(arrays) != likeness(start):
            raise RunError("the arrays that a client replies with are not like those that it was sent")
        given, exchange = flat(start), Exchange(self.codec)
        step = int(state[_HEADER]["step"]) if _HEADER in state else 0
        held: Tree = nest(_tensors(state[_STATE])) if _STATE in state else {}
        update = given - flat(arrays)
        message, after = exchange.say(update, held or exchange.init(given), self._at(step, node))
        blob = Blob({UPDATE: message}, _CHUNK)
        header = Said(step=step, tensors=blob.specs, bytes=blob.bytes)
        rest = {name: array for name, array in arrays.items() if array.numpy().dtype.kind != "f"}
        data = blob.read(0, blob.bytes)
        content[key] = ArrayRecord(rest | {_ENCODED: Array("uint8", (len(data),), "quorate", data)})
        content[_HEADER] = ConfigRecord({"kind": header.kind, "header": header.model_dump_json()})
        state[_HEADER] = ConfigRecord({"step": step + 1})
        state[_STATE] = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in flatten(after).items()})

    def decode(self, start: Any, content: Any, node: int) -> Any:
        """Return a RecordDict with the arrays that a client has come to, as far as the codec has said it.

        Args:
            start: the ArrayRecord that the client was sent.
            node: the client's.

        Raises:
            QuorateError: if it holds nothing that the codec can have said.
        """
        key, arrays = arrays_of(content)
        header = cast(Said, read(content, (Said,))[0])
        encoded = arrays.get(_ENCODED)
        if encoded is None:
            raise Garbled("arrays that hold no encoded update")
        given, exchange, data = flat(start), Exchange(self.codec), bytes(encoded.data)
        require_fitting(header.tensors, header.bytes, data, {UPDATE: exchange.emits(given)})
        update = exchange.hear(tensors(header.tensors, data)[UPDATE], given, self._at(header.step, node))
        floats = replaced(start, given - update)
        whole = ArrayRecord({name: arrays.get(name, array) for name, array in floats.items()})
        others = {name: each for name, each in content.items() if name not in (key, _HEADER)}
        return RecordDict({**others, key: whole})


def _tensors(arrays: Any) -> Mapping[str, Tensor]:
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in arrays.items()}
