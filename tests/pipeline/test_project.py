"""A project: all as it was yesterday, one who writes, and nothing beside the user's files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import project_child
import pytest
from fakes import FakeSlide, cell_field
from journal_edits import add, relabel
from killable_journal import quick_folder
from project_child import table

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline import project_record
from napari_celldetr.pipeline.journal import Journal
from napari_celldetr.pipeline.journal_errors import DamagedJournalError
from napari_celldetr.pipeline.project import Project, SlideFacts, default_folder, user_name
from napari_celldetr.pipeline.project_cells import RunAbout

IDENTITY = "0123456789abcdef" * 4
FACTS = SlideFacts("s.svs", IDENTITY, (5000, 4000), (0.25, 0.26), Region(10, 20, 400, 300), "/a/s")


@pytest.fixture
def root():
    with quick_folder() as name:
        yield Path(name) / "project"


@pytest.fixture
def project(root):
    return Project.open(root, author="ada")


def folder_of(project, identity=IDENTITY):
    return project.folder / "slides" / identity[:32]


# -- the folder --------------------------------------------------------------------------


def test_the_default_lies_among_the_users_data(monkeypatch):
    monkeypatch.delenv("CELLDETR_PROJECT", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    for system, base in (("linux", "/data"), ("win32", "/local")):
        monkeypatch.setattr(sys, "platform", system)
        assert default_folder() == Path(base, "napari-celldetr", "projects", "default")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder().parts[-5:-3] == ("Library", "Application Support")
    monkeypatch.setenv("CELLDETR_PROJECT", "/mine")
    assert default_folder() == Path("/mine")


def test_a_project_is_begun_once(root, monkeypatch):
    monkeypatch.setenv("CELLDETR_PROJECT", str(root))
    first = Project.open()
    assert (first.name, first.author) == ("project", user_name())
    raw = (root / "project.json").read_bytes()
    again = Project.open(root, author="bob")
    assert (again.name, again.created, again.author) == ("project", first.created, "bob")
    assert (root / "project.json").read_bytes() == raw
    assert (again.slides(), again.problems) == ([], [])


@pytest.mark.parametrize("names", [["s.svs"], ["slides/s.svs"], ["project.json", "s.svs"]])
def test_a_folder_with_other_things_is_refused_and_left_alone(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    before = sorted(root.rglob("*"))
    with pytest.raises(AnnotationError) as caught:
        Project.open(root)
    assert caught.value.remedy
    assert sorted(root.rglob("*")) == before


def test_an_empty_folder_or_one_with_hidden_files_will_do(root):
    root.mkdir()
    (root / ".DS_Store").write_text("x")
    assert Project.open(root).slides() == []
    with pytest.raises(AnnotationError, match="not a project"):
        Project.open(root / ".DS_Store")


# -- slides ------------------------------------------------------------------------------


def test_yesterdays_slide_is_as_it_was(project):
    view = {"centre": [120.5, 88.25], "zoom": 0.5, "threshold": 0.4, "classes": ["a"]}
    about = RunAbout("he", "f" * 64, '{"tile_px": 256}', 0.4, Region(1, 2, 3, 4), "9 tiles")
    with project.slide(FACTS) as record, record.journal() as journal:
        assert not record.read_only
        assert (record.view(), record.latest_cells(), record.runs()) == ({}, None, [])
        journal.append(relabel(3))
        record.save_cells(table(300, seed=1), about)
        record.save_view(view)
    with Project.open(project.folder, author="bob").slide(FACTS) as record:
        with record.journal() as journal:
            assert journal.author == "bob"
            assert len(journal.annotations()) == 3
        cells, found = record.latest_cells()
        assert cells == table(300, seed=1)
        assert cells.source == table(300, seed=1).source
        for name in ("model", "weights", "config", "threshold", "region", "report"):
            assert getattr(found, name) == getattr(about, name)
        assert found.cells == 300
        assert found.time.endswith("+00:00")
        assert record.load_cells(found.name)[0] == cells
        assert record.view() == view
        assert record.problems == []


def test_recent_slides_are_listed_with_the_last_one_first(project, monkeypatch):
    times = iter(f"2026-01-0{day}T00:00:00.000+00:00" for day in range(1, 9))
    monkeypatch.setattr(project_record, "now", lambda: next(times))
    other = SlideFacts("t.tif", "f" * 64, (10, 10))
    for facts in (FACTS, other, SlideFacts("moved.svs", IDENTITY, (5000, 4000), path="/b")):
        project.slide(facts).close()
    first, second = project.slides()
    assert (first.name, first.path, first.opened[:10]) == ("moved.svs", "/b", "2026-01-03")
    assert (second.name, second.size, second.mpp, second.bounds) == ("t.tif", (10, 10), None, None)
    # Opened by what is known of it, without a path: the known one stays.
    project.slide(SlideFacts("moved.svs", IDENTITY, (5000, 4000))).close()
    assert project.slides()[0].path == "/b"


def test_a_slide_leaves_nothing_but_the_allowed_facts(project):
    slide = FakeSlide(cell_field((300, 200), seed=1))
    slide.properties = {"aperio.User": "SENTINEL", "label": "SENTINEL"}
    with project.slide(slide) as record:
        said = json.loads((record.folder / "slide.json").read_text())
        assert record.facts.size == slide.size
    keys = {"schema", "name", "identity", "size", "mpp", "bounds", "path", "opened"}
    assert set(said) == keys
    for file in project.folder.rglob("*"):
        assert file.is_dir() or b"SENTINEL" not in file.read_bytes()
    assert project.slides()[0].identity == slide.identity()


@pytest.mark.parametrize("identity", ["../../x", "", "ABC", "é" * 50, "a" * 31])
def test_an_identity_of_any_kind_stays_in_the_project(project, identity):
    with project.slide(SlideFacts("s", identity, (1, 1))) as record:
        assert record.folder.parent == project.folder / "slides"
        assert len(record.folder.name) == 32
    assert [facts.identity for facts in project.slides()] == [identity]


# -- one who writes ----------------------------------------------------------------------


def test_the_second_opener_reads_and_sees_who_writes(project):
    bobs = Project.open(project.folder, author="bob")
    with project.slide(FACTS) as one, bobs.slide(FACTS) as two:
        assert two.read_only
        assert (two.holder.user, two.holder.pid) == ("ada", os.getpid())
        assert "ada on" in two.hindrance
        with one.journal() as journal, two.journal() as other:
            journal.append(add())
            assert len(other.annotations()) == 1
            with pytest.raises(AnnotationError, match="reading only"):
                other.append(add())
        one.save_view({"zoom": 1})
        assert two.view() == {"zoom": 1}
        one.write_json("her2.json", {"tumour": "all"})
        assert two.read_json("her2.json") == {"tumour": "all"}
        assert two.read_json("else.json") == {}
        assert two.file("her2.json").is_file()
        for write in (
            lambda: two.write_json("her2.json", {}),
            lambda: two.file("her2.npz", write=True),
            lambda: two.save_view({}),
            lambda: two.save_cells(table(1, seed=0)),
            two.recover_journal,
        ):
            with pytest.raises(AnnotationError, match="reading only") as caught:
                write()
            assert "ada on" in caught.value.found
        assert not two.try_take_over()
        one.close()
        assert two.try_take_over()
        assert (two.read_only, two.holder, two.hindrance) == (False, None, "")
        two.save_view({"zoom": 2})
        assert one.try_take_over() is False
        assert one.holder.user == "bob"


@pytest.mark.parametrize("network", [False, True])
def test_a_reader_beside_another_program_and_after_its_death(project, network):
    child = subprocess.Popen(
        [sys.executable, project_child.__file__, project.folder, IDENTITY, "cleo"]
        + ["network"] * network,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    def tell(command):
        child.stdin.write(command + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"

    assert child.stdout.readline() == "False\n"
    with project.slide(FACTS) as record:
        assert (record.holder.user, record.holder.pid) == ("cleo", child.pid)
        with record.journal() as journal:
            for count in (1, 2, 3):
                tell("add")
                assert len(journal.annotations()) == count
            tell("save")
            assert record.latest_cells()[0] == table(50, seed=1)
        assert not record.try_take_over()
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        # The note of the dead one is still there; the lock is what counts.
        assert (record.folder / "holder.json").exists()
        assert record.try_take_over()
        with record.journal() as journal:
            assert (journal.read_only, len(journal.annotations())) == (False, 3)
            journal.append(add())
    assert not (record.folder / "holder.json").exists()


def test_notes_and_halves_of_a_killed_program_do_not_matter(project):
    project.slide(FACTS).close()
    folder = folder_of(project)
    (folder / "cells").mkdir()
    (folder / "holder.json").write_text('{"user": "gone", "pid": 1}')
    (folder / ".view.json.1-ab.celldetr-tmp").write_text("half")
    (folder / "cells" / ".x.parquet.1-ab.celldetr-tmp").write_text("half")
    with project.slide(FACTS) as record:
        assert not record.read_only
        assert json.loads((folder / "holder.json").read_text())["user"] == "ada"
    assert not list(folder.rglob("*celldetr-tmp"))


@pytest.mark.parametrize("note", ["", "[]", "{", '{"user": 3, "host": "\\u0000\\n", "pid": "x"}'])
def test_a_holder_whose_note_is_nonsense_is_somebody(project, note):
    with project.slide(FACTS) as one:
        (one.folder / "holder.json").write_text(note)
        with project.slide(FACTS) as two:
            assert two.read_only
            assert str(two.holder).startswith("somebody on another computer")


def test_a_disk_that_takes_nothing_leaves_a_slide_to_read(project, monkeypatch):
    with project.slide(FACTS) as record, record.journal() as journal:
        journal.append(add())

    def full(*_, **__):
        raise AnnotationError("No space.", found="the disk is full")

    monkeypatch.setattr(project_record, "write_json", full)
    with project.slide(FACTS) as record:
        assert (record.read_only, record.holder) == (True, None)
        assert "disk is full" in record.hindrance
        with record.journal() as journal:
            assert len(journal.annotations()) == 1
        monkeypatch.undo()
        assert record.try_take_over()


# -- a journal that is damaged -----------------------------------------------------------


def test_work_goes_on_beside_a_damaged_journal(project):
    with project.slide(FACTS) as record, record.journal() as journal:
        for _ in range(100):
            journal.append(relabel(50))
    path = folder_of(project) / "corrections.sqlite"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    path.write_bytes(raw)
    with project.slide(FACTS) as record:
        with pytest.raises(DamagedJournalError) as caught:
            record.journal()
        assert record.recover_journal() == caught.value.intact > 0
        with record.journal() as journal:
            assert journal.path.name == "corrections-2.sqlite"
            assert len(journal) == caught.value.intact
            journal.append(add())
    assert path.read_bytes() == raw
    with project.slide(FACTS) as record, record.journal() as journal:
        assert len(journal) == caught.value.intact + 1
    with Journal.open(path, author="", read_only=True) as journal:
        assert len(journal) == caught.value.intact


@pytest.fixture
def powerless(root):
    """A function that takes away all rights to write in the project, root's own included."""
    if not hasattr(os, "geteuid"):
        pytest.skip("rights work otherwise on Windows")
    user = os.geteuid()

    def take_rights():
        for path in (root.parent, *root.rglob("*"), root):
            path.chmod(0o555 if path.is_dir() else 0o444)
        if user == 0:
            os.seteuid(65534)

    yield take_rights
    if user == 0:
        os.seteuid(0)
    for path in (root.parent, root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_project_on_a_disk_that_cannot_be_written_can_be_read(project, powerless):
    with project.slide(FACTS) as record, record.journal() as journal:
        journal.append(add())
        record.save_cells(table(5, seed=1))
    powerless()
    project = Project.open(project.folder, author="bob")
    with project.slide(project.slides()[0]) as record:
        assert (record.read_only, record.holder) == (True, None)
        assert "cannot be locked" in record.hindrance
        with record.journal() as journal:
            assert len(journal.annotations()) == 1
        assert record.latest_cells()[0] == table(5, seed=1)
        path = record.journal_path
    with pytest.raises(AnnotationError, match="read-only"):
        Journal.open(path, author="bob")
    with pytest.raises(AnnotationError, match="cannot be written"):
        project.slide(SlideFacts("t", "b" * 64, (1, 1)))
    with pytest.raises(AnnotationError, match="cannot be written"):
        Project.open(project.folder.parent / "new")
