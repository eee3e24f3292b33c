from napari_celldetr.core.progress import Progress, drain


def job():
    yield Progress(0, 4)
    yield Progress(2, 4, seconds=3.0)
    return "result"


def test_drain_shows_every_step_and_returns_the_result():
    steps = []
    assert drain(job(), steps.append) == "result"
    assert [s.done for s in steps] == [0, 2]
    assert drain(job()) == "result"


def test_estimates():
    assert Progress(0, 4).seconds_left is None
    assert Progress(2, 4, seconds=3.0).seconds_left == 3.0
    assert Progress(1, 4).fraction == 0.25
    assert Progress(0, 0).fraction == 1.0
