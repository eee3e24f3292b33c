"""Doubts about data are lines for people, without a place in the code."""

from __future__ import annotations

import warnings

import pytest

from napari_celldetr import cli
from napari_celldetr.cli.exits import Exit


def warn_at(place: str, category: type[Warning] = UserWarning) -> None:
    warnings.warn_explicit("Look again.", category, place, 7)


@pytest.mark.parametrize(
    ("place", "category", "shown"),
    [
        (cli.__file__, UserWarning, "warning: Look again.\n"),
        (cli.__file__, RuntimeWarning, f"{cli.__file__}:7: RuntimeWarning: Look again."),
        ("/elsewhere/library.py", UserWarning, "/elsewhere/library.py:7: UserWarning: Look again."),
    ],
)
@pytest.mark.filterwarnings("default")
def test_warnings_of_a_command(place, category, shown, capsys, monkeypatch):
    class Command:
        def configure(self, parser):
            pass

        def run(self, args, screen):
            warn_at(place, category)
            return Exit.OK

    monkeypatch.setattr(cli, "load_command", lambda name: Command())
    before = warnings.showwarning
    with warnings.catch_warnings():
        # As in a process of its own: pytest's recorder would keep the warning to itself.
        warnings.showwarning = lambda *told: print(warnings.formatwarning(*told[:4]))
        assert cli.main(["doctor"]) == 0
    assert warnings.showwarning is before
    found = capsys.readouterr()
    assert (found.err + found.out).startswith(shown)
