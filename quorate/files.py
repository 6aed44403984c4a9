"""Writing files so that a reader, or a run that is resumed after a crash, sees all of a file or none of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file next to its place, flush it to the disk, and move it into place.

    Args:
        private: only its owner can read it, at no time anybody else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    if private:
        temporary.unlink(missing_ok=True)
    mode = 0o600 if private else 0o666
    with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
