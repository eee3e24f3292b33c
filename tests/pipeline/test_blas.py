"""Linear algebra on one thread for a while, however many ask for it and in whatever order."""

from threadpoolctl import threadpool_info

from napari_celldetr.pipeline.blas import one_blas_thread


def threads():
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


def test_the_last_one_that_leaves_puts_back_what_the_first_found():
    before = threads()
    assert before
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    assert set(threads()) == {1}
    first.__exit__(None, None, None)
    assert set(threads()) == {1}
    second.__exit__(None, None, None)
    assert threads() == before


def test_it_is_put_back_after_an_error():
    before = threads()
    try:
        with one_blas_thread():
            raise ValueError
    except ValueError:
        pass
    assert threads() == before
