import gc
import threading
import time

import pytest

from napari_celldetr.core.errors import JobError, SlideError
from napari_celldetr.core.progress import Progress
from napari_celldetr.gui.worker import Done, Failed, JobThread, Step, Stopped, as_job_error


def messages(thread, timeout_s=5.0):
    """All messages until the job has ended."""
    got = []
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        message = thread.take()
        if message is None:
            time.sleep(0.002)
            continue
        got.append(message)
        if not isinstance(message, Step):
            return got
    raise AssertionError(f"the job never said how it ended: {got}")


def run(make_job):
    thread = JobThread(make_job)
    thread.start()
    return messages(thread)


def test_success_gives_steps_then_the_result():
    def job():
        yield Progress(0, 2)
        yield Progress(1, 2)
        return 42

    got = run(job)
    assert [m.progress.done for m in got[:-1]] == [0, 1]
    assert got[-1] == Done(42)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError("no room")]
)
def test_out_of_memory_is_told_and_says_what_to_do(error):
    closed = []

    def job():
        try:
            yield Progress(0, 2)
            raise error
        finally:
            closed.append(True)

    last = run(job)[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, JobError)
    assert not isinstance(last.error, RuntimeError)
    assert "memory" in last.error.message
    assert "smaller batch" in last.error.remedy
    assert closed == [True]


def test_any_runtime_error_is_told():
    def job():
        yield Progress(0, 1)
        raise RuntimeError("strange")

    last = run(job)[-1]
    assert "strange" in str(last.error)
    assert isinstance(last.error.__cause__, RuntimeError)


def test_our_own_errors_pass_unchanged():
    error = SlideError("gone")

    def job():
        raise error
        yield

    assert run(job)[-1] == Failed(error)


def test_an_error_while_making_the_job_is_told():
    def make():
        raise ValueError("no such thing")

    assert "no such thing" in str(run(make)[-1].error)


def test_cancel_closes_the_generator_within_a_tenth_of_a_second():
    closed = threading.Event()

    def job():
        try:
            while True:
                time.sleep(0.005)
                yield Progress(0, 1)
        finally:
            closed.set()

    thread = JobThread(job)
    thread.start()
    while not isinstance(thread.take(), Step):
        time.sleep(0.001)
    asked = time.monotonic()
    thread.stop()
    assert isinstance(messages(thread)[-1], Stopped)
    assert closed.is_set()
    assert time.monotonic() - asked < 1.0
    assert thread.join(1.0)


def test_a_dropped_thread_stops_its_job():
    closed = threading.Event()

    def job():
        try:
            while True:
                time.sleep(0.002)
                yield Progress(0, 1)
        finally:
            closed.set()

    thread = JobThread(job)
    thread.start()
    assert thread.running
    del thread
    gc.collect()
    assert closed.wait(5.0)


def test_a_job_error_is_not_a_runtime_error():
    assert not isinstance(as_job_error(RuntimeError("x")), RuntimeError)
