"""Adaptive: which codec is used is decided before a run starts, by the link, the model and the time of computing.

It stands alone in a recipe. The choice and its reasons are printed, and kept in the run's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NoReturn

from pydantic import Field
from torch import Tensor

from quorate.candidates import LADDER, codec_of
from quorate.cluster import Seconds
from quorate.codecs import Plain, Side, State
from quorate.errors import RecipeError, RunError
from quorate.rand import At
from quorate.wire import Wire, require


@dataclass(frozen=True)
class Adaptive(Plain):
    """A place to be filled by the least lossy candidate whose messages take next to no time.

    Args:
        enabled: false: updates are sent as they are.
        candidates: from the least to the most lossy: "dense", or a codec with a number for its first setting.
        fraction: of the seconds of computing that a meeting may take, and by which a step may be longer than with the
            fastest candidate.
        coding: seconds per entry that coding takes, both ways, where it is not measured: in a simulation, whose clock
            does not charge it. Two cores of a server took 1 to 6 ns.
    """

    alone: ClassVar[bool] = True
    enabled: bool = True
    candidates: tuple[str, ...] = LADDER
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    coding: Seconds = 3e-9

    def bound(self, d: int) -> float:
        """Return 0 if it is switched off.

        Raises:
            RecipeError: otherwise: who needs to know it before a run can't leave the choice to it.
        """
        if self.enabled:
            raise RecipeError(
                "how much is lost by what adaptive will choose is not known before, but has to be, where workers talk"
                " in pairs",
                'name a codec, e.g. [[codec]] name = "int8"',
            )
        return 0.0

    def wire(self, before: Wire) -> Wire:
        """Declare that nothing changes, which is true of no candidate but the first; all are built once."""
        require(
            before == Wire(), "adaptive chooses all that is done to an update", "let [[codec]] adaptive stand alone"
        )
        require(bool(self.candidates), "adaptive has no candidates to choose from", 'candidates = ["dense", "bf16"]')
        for candidate in self.candidates:
            codec_of(candidate)
        return before

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Return the update itself if switched off.

        Raises:
            RunError: otherwise: no codec has been chosen.
        """
        if self.enabled:
            self._unresolved()
        return x, (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Return the head itself if switched off; see `encode`."""
        if self.enabled:
            self._unresolved()
        return head

    def _unresolved(self) -> NoReturn:
        raise RunError(
            "`adaptive` stands for a codec that has not been chosen: it is chosen by `quorate run`, or in a loop of"
            " your own by `quorate.engines.tuning`",
            "put the chosen codec in its place, e.g. ErrorFeedback(SampledK(0.01))",
        )


EXAMPLES = (Adaptive(enabled=False),)
