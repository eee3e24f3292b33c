"""Project folders damaged or meant to harm: refused within limits, the rest stays usable."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from journal_edits import add
from killable_journal import quick_folder
from project_child import table

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline import project_files
from napari_celldetr.pipeline.project import Project, SlideFacts
from napari_celldetr.pipeline.project_files import read_json, write_json

FACTS = SlideFacts("s.svs", "0123456789abcdef" * 4, (5000, 4000), path="/a/s.svs")
OTHER = SlideFacts("t.svs", "f" * 64, (10, 10))
NONSENSE = {
    "empty": b"",
    "text": b"nonsense",
    "bytes": bytes(range(256)),
    "list": b"[1, 2]",
    "NaN": b'{"schema": NaN}',
    "deep": b'{"a":' * 100_000,
    "digits": b'{"schema": ' + b"9" * 100_000 + b"}",
    "huge": b'{"a": "' + b"x" * (5 * 2**20) + b'"}',
    "wrong": b'{"schema": "1", "view": 3, "name": [], "size": {}}',
    "old": b'{"schema": 0}',
}


@pytest.fixture
def outside():
    with quick_folder() as name:
        yield Path(name)


@pytest.fixture
def root(outside):
    """A project of two slides with corrections, results and views."""
    root = outside / "project"
    project = Project.open(root, author="ada")
    for facts in (OTHER, FACTS):
        with project.slide(facts) as record, record.journal() as journal:
            journal.append(add())
            record.save_cells(table(5, seed=1))
            record.save_view({"zoom": 1})
    return root


def folder_of(root, facts=FACTS):
    return root / "slides" / facts.identity[:32]


def usable(root, facts=FACTS, *, but=""):
    """Everything of a slide can be used, but for one part."""
    with Project.open(root, author="ada").slide(facts) as record:
        assert not record.read_only
        if but != "corrections":
            with record.journal() as journal:
                assert len(journal.annotations()) == 1
        found = record.latest_cells()
        assert found is None if but == "cells" else found[0] == table(5, seed=1)
        assert record.view() == ({} if but == "view" else {"zoom": 1})
        return record.problems


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("part", ["project", "slide", "view", "cells"])
def test_nonsense_in_one_file_is_told_and_the_rest_can_be_used(root, part, kind):
    path = {
        "project": root / "project.json",
        "slide": folder_of(root) / "slide.json",
        "view": folder_of(root) / "view.json",
        "cells": next((folder_of(root) / "cells").glob("*.json")),
    }[part]
    path.write_bytes(NONSENSE[kind])
    began = time.perf_counter()
    project = Project.open(root, author="ada")
    listed = [facts.identity for facts in project.slides()]
    assert listed == [FACTS.identity, OTHER.identity][part == "slide" :]
    assert len(project.problems) == (part in ("project", "slide"))
    problems = usable(root, but=part)
    assert len(problems) == (part in ("slide", "view", "cells"))
    assert all("What to do" in words for words in problems)
    assert usable(root, OTHER) == []
    assert time.perf_counter() - began < 5
    # What the slide itself says is known and written anew.
    assert (path.read_bytes() != NONSENSE[kind]) == (part == "slide")


@pytest.mark.parametrize(
    "change",
    [
        {"size": [0, 5]},
        {"size": [1e400, 5]},
        {"mpp": [-1, 1]},
        {"mpp": ["x", "y"]},
        {"bounds": [1, 2, 3]},
        {"bounds": [0, 0, -5, 5]},
        {"name": 3},
        {"path": "x" * 20_000},
        {"identity": "e" * 64},
    ],
)
def test_facts_that_cannot_be_are_not_listed(root, change):
    path = folder_of(root) / "slide.json"
    said = json.loads(path.read_text()) | change
    path.write_text(json.dumps(said).replace("Infinity", "1e400"))
    project = Project.open(root)
    assert [facts.identity for facts in project.slides()] == [OTHER.identity]
    assert len(project.problems) == 1


def test_another_slides_record_is_not_written_over(root):
    path = folder_of(root) / "slide.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"identity": FACTS.identity[:32] + "e" * 32}))
    raw = path.read_bytes()
    with pytest.raises(AnnotationError, match="another slide"):
        Project.open(root).slide(FACTS)
    assert path.read_bytes() == raw


@pytest.mark.parametrize("name", ["project.json", "slide.json"])
def test_a_newer_version_is_refused_and_left_alone(root, name):
    path = root / name if name == "project.json" else folder_of(root) / name
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"schema": 2, "more": "things"}))
    raw = path.read_bytes()
    with pytest.raises(AnnotationError, match="newer version"):
        Project.open(root).slide(FACTS)
    assert path.read_bytes() == raw


def test_a_lost_project_file_is_made_again(root):
    (root / "project.json").unlink()
    project = Project.open(root)
    assert len(project.slides()) == 2
    assert (root / "project.json").exists()


def test_a_foreign_journal_is_refused_and_left_alone(root):
    path = folder_of(root) / "corrections.sqlite"
    path.write_bytes(b"something else " * 400)
    raw = path.read_bytes()
    usable(root, but="corrections")
    with (
        Project.open(root).slide(FACTS) as record,
        pytest.raises(AnnotationError, match="not a journal"),
    ):
        record.journal()
    assert path.read_bytes() == raw


needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


@needs_links
@pytest.mark.parametrize(
    "name",
    ["corrections.sqlite", "corrections.sqlite-wal", "view.json", "slide.json", "lock.sqlite",
     "holder.json", "cells"],
)  # fmt: skip
def test_links_that_lead_out_are_neither_read_nor_written(root, outside, name):
    target = outside / "secret"
    path = folder_of(root) / name
    if path.is_dir():
        path.rename(target)
    else:
        target.write_bytes(path.read_bytes() if path.exists() else b"{}")
        path.unlink(missing_ok=True)
    path.symlink_to(target)
    before = _contents(target)
    with Project.open(root).slide(FACTS) as record:
        said = [record.hindrance, *record.problems]
        for use in (
            record.journal,
            record.latest_cells,
            record.view,
            lambda: record.save_view({"zoom": 2}),
            lambda: record.save_cells(table(5, seed=2)),
        ):
            try:
                used = use()
            except AnnotationError as error:
                said.append(str(error))
            else:
                getattr(used, "close", lambda: None)()
        said += record.problems
    assert any("is a link" in words for words in said)
    assert _contents(target) == before


def _contents(path):
    if path.is_dir():
        return {p.name: p.read_bytes() for p in path.iterdir()}
    return path.read_bytes()


@needs_links
def test_a_slides_folder_that_leads_out_is_refused(root, outside):
    folder_of(root).rename(outside / "elsewhere")
    folder_of(root).symlink_to(outside / "elsewhere")
    before = sorted((outside / "elsewhere").rglob("*"))
    project = Project.open(root)
    assert [facts.identity for facts in project.slides()] == [OTHER.identity]
    with pytest.raises(AnnotationError, match="is a link"):
        project.slide(FACTS)
    assert sorted((outside / "elsewhere").rglob("*")) == before


@needs_links
def test_a_project_that_is_reached_by_a_link_is_the_users_choice(root, outside):
    (outside / "link").symlink_to(root)
    assert usable(outside / "link") == []


@needs_links
def test_files_that_are_no_files_do_not_hang(root):
    path = folder_of(root) / "view.json"
    path.unlink()
    os.mkfifo(path)
    assert "no plain file" in usable(root, but="view")[0]


def test_a_folder_of_very_many_names_is_read_to_a_limit(root, monkeypatch):
    monkeypatch.setattr(project_files, "MAX_NAMES", 100)
    for i in range(200):
        (root / "slides" / f"{i:032x}").mkdir()
    project = Project.open(root)
    assert len(project.slides()) <= 100


def test_a_view_that_is_too_large_or_no_json_leaves_the_old_one(root):
    with Project.open(root).slide(FACTS) as record:
        for view in ({"x": "y" * 70_000}, {"x": float("nan")}, {"x": {1, 2}}, {("a", 1): 2}):
            with pytest.raises(AnnotationError, match=r"view\.json"):
                record.save_view(view)
        assert record.view() == {"zoom": 1}


def test_a_json_file_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(tmp_path, path, {"a": 1})

    def fails(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(AnnotationError, match="disk is full"):
        write_json(tmp_path, path, {"a": 2})
    assert read_json(tmp_path, path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
