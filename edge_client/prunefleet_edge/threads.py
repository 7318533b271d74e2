"""With how many threads torch trains: one, unless told otherwise. Importing this does not import torch."""

from __future__ import annotations

DEFAULT_THREADS = 1
"""Not torch's choice, for two reasons, both measured with torch 2.13.0 (CPU, x86): with two threads the backward pass
of slim convolutions (widths such as 10, 8, 20, 24, 40, 45) corrupts memory inside oneDNN and the process dies; and
small networks train faster with one."""


def use_threads(num_threads: int) -> None:
    """Let torch compute with ``num_threads`` threads in this process, 1 or more."""
    import torch

    torch.set_num_threads(num_threads)
