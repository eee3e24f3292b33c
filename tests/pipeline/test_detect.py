from fakes import FakePredictor, FakeSlide, cell_field, spaced_centres

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.detect import detect

SMALL = DetectConfig(tile_px=256, halo_px=32, tissue_only=False)


def run(slide, config=SMALL, **options):
    steps = []
    options.setdefault("predictor", FakePredictor())
    cells = drain(detect(slide, config, **options), steps.append)
    return cells, steps


def test_finds_every_cell_once(tmp_path):
    slide = FakeSlide(cell_field())
    cells, steps = run(slide, workspace=tmp_path)
    truth = spaced_centres((1500, 1100))
    assert len(cells) == len(truth)
    assert steps[-1].report.done == steps[-1].total
