"""Train one PyTorch model on many machines that may be slow, flaky, or not to be trusted."""

__version__ = "0.1.0.dev0"
