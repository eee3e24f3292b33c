"""Edits as bytes: exact, small, and refused when they are damaged."""

import json
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_edits import relabel, same

from napari_celldetr.core.annotations import Area, AreaChange, CellStates, Edit
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.journal_payload import MAX_BYTES, decode, encode

TEXT = st.text("ab\u00e9\u2028\U0001f642\0", max_size=9)
CORNER = st.floats(-1e7, 1e7, allow_nan=False).map(float)


@given(
    st.integers(0, 60),
    st.integers(0, 2**32),
    st.text("ab\u00e9\u2028\U0001f642\0", max_size=9),
    st.lists(CORNER, max_size=9),
)
def test_an_edit_survives_being_written_down(n, seed, name, corners):
    edit = relabel(n, seed=seed, names=("a", name + "b"))
    areas = [AreaChange("gone", Area(((0, 0), (9, 0), (0, 9)), "region", name), None)]
    for i, x in enumerate(corners):
        areas.append(AreaChange(str(i), None, Area(((x, 0.1), (x + 8, 0.2), (x, 9)))))
    edit = Edit(name, edit.keys, edit.before, edit.after, edit.class_names, tuple(areas))
    assert same(decode(encode(edit), name), edit)


def test_what_did_not_change_is_not_stored_twice():
    edit = relabel(1000)
    moved = Edit(
        "", edit.keys, edit.before,
        CellStates(edit.before.boxes + 3, edit.after.class_ids, edit.after.scores,
                   edit.after.status),
        edit.class_names,
    )  # fmt: skip
    assert len(encode(edit)) < len(encode(moved)) - 3 * 1000


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_are_refused_or_are_an_edit(data):
    payload = bytearray(encode(relabel(data.draw(st.sampled_from([1, 200])))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut])):
        try:
            assert isinstance(decode(damaged, "x"), Edit)
        except AnnotationError:
            continue


def test_a_body_that_claims_to_be_huge_is_refused_before_it_is_unpacked():
    header = json.dumps({"n": 1, "classes": [], "changed": [], "areas": []}).encode()
    bomb = zlib.compress(bytes(50_000_000), 9)
    for size in (85, MAX_BYTES + 1, 0xFFFFFFFF):
        start = journal_payload_start(len(header), size)
        tracemalloc.start()
        with pytest.raises(AnnotationError):
            decode(start + header + bomb, "x")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def journal_payload_start(header, body):
    return struct.pack("<4sBxxxII", b"CDJ1", 1, header, body)
