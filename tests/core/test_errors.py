import pickle

import pytest

from napari_celldetr.core import errors


@pytest.mark.parametrize("kind", errors.CellDETRError.__subclasses__())
def test_errors_say_all_they_know_and_survive_pickling(kind):
    error = kind("It failed.", expected="this", found="that", remedy="do so")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == "It failed. Expected: this. Found: that. What to do: do so."
    assert (back.expected, back.found, back.remedy) == ("this", "that", "do so")


def test_a_job_error_is_not_a_runtime_error():
    assert not issubclass(errors.JobError, RuntimeError)


def test_parts_that_are_missing_are_not_mentioned():
    assert str(errors.SlideError("Gone.")) == "Gone."
