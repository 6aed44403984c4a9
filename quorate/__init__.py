"""Train one PyTorch model on many machines that may be slow, flaky, or not to be trusted."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quorate.engines.ddp_hook import ddp_hook as ddp_hook

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    """Import what stands here for convenience when it is first asked for: torch takes seconds."""
    if name == "ddp_hook":
        from quorate.engines.ddp_hook import ddp_hook

        return ddp_hook
    raise AttributeError(f"module `quorate` has no attribute `{name}`")
