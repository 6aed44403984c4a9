"""Files of measurements: lines of JSON, one for each step that is written down, and TensorBoard events of the same."""

from __future__ import annotations

import json
from os import SEEK_END
from pathlib import Path
from typing import Any

from quorate.files import write_atomically


class Metrics:
    """Lines of JSON, and TensorBoard events, as they come.

    Args:
        path: of the JSON lines.
        events: the folder of TensorBoard events; None for none.
        after: the steps done when a resumed run goes on; later lines are taken back.
    """

    def __init__(self, path: Path, events: Path | None, after: int) -> None:
        kept = [line for line in read_lines(path) if line["step"] <= after]
        texts = [json.dumps(line) + "\n" for line in kept]
        write_atomically(path, "".join(texts).encode())
        self._file = path.open("a")
        self._last: tuple[int, int, dict[str, Any]] | None = None
        if kept:
            self._last = kept[-1]["step"], len("".join(texts[:-1])), kept[-1]
        self._events = None
        if events is not None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(events), purge_step=after + 1 if after else None)

    @property
    def last(self) -> int:
        """The step of the last line, 0 if there is none."""
        return self._last[0] if self._last is not None else 0

    def write(self, line: dict[str, Any]) -> None:
        """Write one line; a second one of the same step adds to the first."""
        before: dict[str, Any] = {}
        if self._last is not None and self._last[0] == line["step"]:
            _, offset, before = self._last
            self._file.truncate(offset)
            line = before | {name: value for name, value in line.items() if value is not None}
        self._file.seek(0, SEEK_END)
        self._last = line["step"], self._file.tell(), line
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in line.items():
                if name != "step" and value is not None and value != before.get(name):
                    self._events.add_scalar(name, value, line["step"])
            self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of JSON lines; a last one that was cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
