"""The collector does not walk through napari while a slide is open, and does again afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from napari_celldetr.gui import pauses


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_is_there_is_set_aside_until_the_last_slide_is_closed() -> None:
    first, second = object(), object()
    pauses.set_aside()
    assert gc.get_freeze_count() == 0
    pauses.begin(first)
    pauses.begin(second)
    frozen = gc.get_freeze_count()
    assert frozen > 1000
    more = [[i] for i in range(5000)]
    pauses.set_aside()
    assert gc.get_freeze_count() >= frozen + len(more)
    pauses.end(first)
    pauses.end(first)
    assert gc.get_freeze_count() > 0
    pauses.end(second)
    assert gc.get_freeze_count() == 0
