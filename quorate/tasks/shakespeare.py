"""The next character of a speaker in a play, by a small recurrent network; each speaker can be a worker.

Source of the task: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep
networks from decentralized data", AISTATS 2017, section 3; of the unit: Cho et al., "Learning phrase representations
using RNN encoder-decoder for statistical machine translation", EMNLP 2014. Accuracies are not comparable with theirs:
the text, its division and the network are others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.errors import DataError, RecipeError
from quorate.tasks import Data, Task, accuracy
from quorate.tasks.files import LIMIT, find
from quorate.tasks.files.turns import read_turns

TEST = 0.1  # share of each speaker's sequences, the last ones


class NextCharacter(nn.Module):
    """Scores of the next character after each one, (n, length) -> (n, characters, length)."""

    def __init__(self, characters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, characters)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(x))
        scores: Tensor = self.scores(states)
        return scores.transpose(-1, -2)


def shakespeare(
    *,
    data: Path | None = None,
    file: str = "shakespeare/tiny_shakespeare.txt",
    length: int = 64,
    embedding: int = 32,
    hidden: int = 96,
    speakers: int | None = None,
) -> Task:
    """Predict each next character of what a speaker says, all turns of a speaker joined; names are not in the text.

    Args:
        data: the data folder.
        file: inside it, turns with an empty line between them, each a line `NAME:` and then what is said.
        length: characters of a sequence; a rest that is shorter is left out, and so are speakers of no more.
        embedding: length of a character's vector.
        hidden: units of the recurrent layer.
        speakers: the so many with the most text, of equal ones those who speak first, are kept; None: all. With as
            many clients, each is one speaker, with text to train and to be tested on.

    Returns:
        A task with x (n, length), int64, characters numbered from 0 in the order of Unicode; y (n, length), the same
        moved on by one; the speaker is the key, numbered from 0 in the order of first turns. `accuracy` is the share
        of characters predicted right; the last tenth of each speaker's sequences, rounded, is the test.

    Raises:
        RecipeError: if a number is out of range.
        DataError: if the file is missing or not as it should be, or has no speaker with enough text.
    """
    for name, value, usual in (("length", length, 64), ("embedding", embedding, 32), ("hidden", hidden, 96)):
        if not 1 <= value <= 2**16:
            raise RecipeError(f"{name} is a whole number from 1 to {2**16}; got {value}", f"set {name} = {usual}")
    path = find(data, file)
    spoken = _most(read_turns(path), speakers)
    alphabet = sorted(set().union(*spoken.values()))
    if sum(map(len, spoken.values())) * 16 > LIMIT:
        raise DataError(f"`{path}` holds sequences of more than {LIMIT} bytes", "split the file")
    number = {character: i for i, character in enumerate(alphabet)}
    x, y, key, test = [], [], [], []
    for speaker, text in enumerate(spoken.values()):
        n = max(0, len(text) - 1) // length
        stream = torch.tensor([number[character] for character in text[: n * length + 1]], dtype=torch.int64)
        x.append(stream[: n * length].view(n, length))
        y.append(stream[1:].view(n, length))
        key.append(torch.full((n,), speaker))
        test.append(torch.arange(n) >= n - round(TEST * n))
    whole, last = Data(torch.cat(x), torch.cat(y), torch.cat(key)), torch.cat(test)
    if not last.any():
        raise DataError(
            f"`{path}` has no speaker with enough text for training and test sequences of {length} characters",
            "set a smaller length",
        )
    return Task(
        model=lambda: NextCharacter(len(alphabet), embedding, hidden),
        loss=functional.cross_entropy,
        train=_part(whole, ~last),
        test=_part(whole, last),
        metrics={"accuracy": accuracy},
    )


def _most(spoken: dict[str, str], speakers: int | None) -> dict[str, str]:
    """Keep those who say most, in the order of first turns.

    Raises:
        RecipeError: if there are not so many speakers, or it would be none.
    """
    if speakers is None:
        return spoken
    if not 1 <= speakers <= len(spoken):
        raise RecipeError(
            f"speakers is how many of the {len(spoken)} are kept, at least 1; got {speakers}",
            f"set speakers = {min(64, len(spoken))}, or leave it out",
        )
    kept = set(sorted(spoken, key=lambda name: -len(spoken[name]))[:speakers])
    return {name: text for name, text in spoken.items() if name in kept}


def _part(data: Data, chosen: Tensor) -> Data:
    assert data.key is not None
    return Data(data.x[chosen], data.y[chosen], data.key[chosen])
