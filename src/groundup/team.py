"""The processes that run one training stage together, as a stage sees them. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.meeting import Meeting


@dataclass(frozen=True)
class Team:
    """This process's place among `size` processes. Process 0 is the main one: it writes the files and speaks."""

    rank: int = 0
    size: int = 1
    threads: int | None = None  # each process computes with so many; None: with as many as torch finds
    meeting: Meeting | None = None  # in shared memory, where all of them run on one machine
    rendezvous: str | None = None  # a file through which torch.distributed connects those that torchrun did not start


class Helped(Exception):  # noqa: N818 - it is not an error
    """The end of a stage in a process that only helped to train: the main one does the rest."""
