"""kill -9 at any moment: every correction that was acknowledged is there, and can be undone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import killable_journal
import numpy as np
import pytest
from killable_journal import quick_folder

from napari_celldetr.core.annotations import Annotations
from napari_celldetr.pipeline.journal import Journal


class Child:
    """One process that edits until it is killed. It starts up before it is told to begin."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, killable_journal.__file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def begin(self, seed):
        self.process.stdin.write(f"{seed}\n".encode())
        self.process.stdin.flush()

    def lines(self):
        """What it says; a line cut by the kill is not an acknowledgement."""
        rest = b""
        while data := os.read(self.process.stdout.fileno(), 65536):
            *whole, rest = (rest + data).split(b"\n")
            yield [line.decode().split() for line in whole]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


def live_and_die(child, acknowledged, upto, pause):
    """Let a child edit until `upto` entries are acknowledged, then kill it a moment later."""
    killed = False
    for lines in child.lines():
        for first, second, *more in lines:
            if first == "open":
                count, seal = int(second), more[0]
                assert count >= len(acknowledged)
                if acknowledged and count == len(acknowledged):
                    assert seal == acknowledged[count]
                # An entry may be on disk whose acknowledgement was cut off.
                assert count <= len(acknowledged) + 1
                acknowledged.update({count: seal} if count else {})
            else:
                assert int(first) == len(acknowledged) + 1
                acknowledged[int(first)] = second
        if len(acknowledged) >= upto and not killed:
            time.sleep(pause)
            child.kill()
            killed = True
    error = child.process.stderr.read().decode()
    child.close()
    assert killed, error
    assert not error


@pytest.fixture
def folder():
    with quick_folder() as name:
        yield Path(name)


def edit_and_kill(path, edits, kills):
    """`edits` random edits at least, killed `kills` times; seq -> seal of the acknowledged."""
    rng = np.random.default_rng(5)
    cuts = np.sort(rng.integers(0, edits, kills))
    cuts[-1] = edits
    acknowledged = {}
    spare = Child(path)
    try:
        for life, cut in enumerate(cuts):
            child, spare = spare, Child(path) if life + 1 < kills else None
            child.begin(seed=life)
            live_and_die(child, acknowledged, int(cut), rng.uniform(0, 0.004))
    finally:
        if spare is not None:
            spare.close()
    return acknowledged


def check_all(path, acknowledged):
    with Journal.open(path, author="ada") as journal:
        found = {entry.seq: entry.seal for entry in journal.entries()}
        missing = {seq for seq, seal in acknowledged.items() if found.get(seq) != seal}
        assert not missing
        journal.verify()

        while journal.redo() is not None:
            pass
        live = journal.annotations()
        end = live.digest()
        steps = len(journal.standing())
        assert steps > len(acknowledged) / 3
        for _ in range(steps):
            live.apply(journal.undo().edit)
        assert journal.undo() is None
        nothing = Annotations().digest()
        assert live.digest() == journal.annotations().digest() == nothing != end
        for _ in range(steps):
            live.apply(journal.redo().edit)
        assert journal.redo() is None
        assert live.digest() == journal.annotations().digest() == end
    with Journal.open(path, author="ada", read_only=True) as journal:
        assert journal.annotations().digest() == end


def test_edits_survive_any_kill(folder):
    path = folder / "corrections.sqlite"
    acknowledged = edit_and_kill(path, 2_000, 20)
    assert len(acknowledged) >= 2_000
    check_all(path, acknowledged)


@pytest.mark.large
@pytest.mark.timeout(900)
def test_ten_thousand_edits_survive_a_hundred_kills(folder):
    path = folder / "corrections.sqlite"
    acknowledged = edit_and_kill(path, 10_000, 100)
    assert len(acknowledged) >= 10_000
    check_all(path, acknowledged)
