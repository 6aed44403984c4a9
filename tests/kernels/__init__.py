"""Tests of Triton kernels: on the GPU where there is one, else in the interpreter that `tests/conftest.py` asks for."""
