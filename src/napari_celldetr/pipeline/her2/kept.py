"""What was measured on a slide as one file, which comes back only for the same slide and settings.

A zip of plain arrays with a description in JSON. What it was measured with stands in it: another
slide, pixel size, model or version of the code that measures, and it is refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import CellDETRError, DataError, ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.atomic import replacing, why
from napari_celldetr.pipeline.her2.measure import Her2Cells
from napari_celldetr.pipeline.her2.membrane import Bands
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS, Outlines
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows
from napari_celldetr.pipeline.her2.tumour import Refusal
from napari_celldetr.pipeline.ledger import code_version

KIND, SCHEMA = "celldetr-her2-reading", 1
MAX_BYTES = 64 * 2**30
ABOUT = "about"
_CODE = (
    "exclusions.py", "measure.py", "membrane.py", "outline.py", "slide_stain.py", "sparse_rows.py",
    "tissue_sample.py",
)  # fmt: skip
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MeasuredWith:
    """All that measurements depend on besides the cells, which are compared one by one.

    Attributes
    ----------
    slide : str
        Identity of its pixels.
    mpp : (x, y)
        µm per level-0 px.
    weights : str
        sha256 of the model that found the nuclei; '' where no model did.
    code : str
        Version of what measures.
    """

    slide: str
    mpp: tuple[float, float]
    weights: str
    code: str = ""

    def now(self) -> dict[str, Any]:
        """Plain values, with the code as it is now."""
        return {**asdict(self), "mpp": list(self.mpp), "code": self.code or measuring_code()}


@dataclass(frozen=True, slots=True, eq=False)
class KeptReading:
    """Measured cells, the stain they were read with, what evened it out, and when.

    `refused` says why the slide must not be scored; `notes` what could not be told of it.
    """

    reading: Her2Reading
    stain: SlideStain
    control: Control | None = None
    refused: Refusal | None = None
    time: str = ""
    notes: tuple[str, ...] = ()


@cache
def measuring_code() -> str:
    """Package version and a hash of the code between pixels and measurements."""
    sha = hashlib.sha256(code_version().encode())
    for name in _CODE:
        sha.update((Path(__file__).parent / name).read_bytes())
    return f"{code_version()}-{sha.hexdigest()[:12]}"


def write_reading(path: Path, kept: KeptReading, measured_with: MeasuredWith) -> None:
    """Write what was measured, in place of what was there. `ExportError` where it cannot be."""
    about = {
        "kind": KIND,
        "schema": SCHEMA,
        "note": RESEARCH_USE,
        "with": measured_with.now(),
        "time": kept.time or datetime.now(UTC).isoformat(timespec="seconds"),
        **_described(kept),
    }
    packed = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{ABOUT: packed}, **_arrays(kept.reading))  # type: ignore[arg-type]
    except OSError as error:
        raise ExportError(
            "The measured cells cannot be kept.",
            expected="a project folder with free space",
            found=why(error),
            remedy="free some space; until then write the report before the window is closed",
        ) from error


def read_reading(path: Path, measured_with: MeasuredWith) -> KeptReading:
    """What `write_reading` wrote. `DataError` where it is damaged, or measured with other things.

    Raises
    ------
    FileNotFoundError
        Nothing was kept.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused("a file that is too large")
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(bytes(file[ABOUT]))
            if about["kind"] != KIND or about["schema"] != SCHEMA:
                raise _refused("a file of something else, or of another version")
            _check_same(about["with"], measured_with.now())
            arrays = {name: file[name] for name in file.files if name != ABOUT}
        return _kept(about, arrays)
    except FileNotFoundError:
        raise
    except DataError:
        raise
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise _refused(str(error)[:120]) from error
    except (ValueError, LookupError, TypeError, AttributeError, CellDETRError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:120]}") from error


_WORDS = {
    "slide": "another picture",
    "mpp": "another pixel size",
    "weights": "nuclei of another model",
    "code": "another version of this program",
}


def _check_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    others = [words for name, words in _WORDS.items() if then[name] != now[name]]
    if others:
        raise DataError(
            "What was measured earlier does not hold any more.",
            expected="the same slide, pixel size, nuclei and version",
            found=", ".join(others),
            remedy="measure the slide again",
        )


def _described(kept: KeptReading) -> dict[str, Any]:
    cells, stain = kept.reading.measured.cells, kept.stain
    return {
        "class_names": cells.class_names,
        "source": cells.source.to_json(),
        "read_mpp": kept.reading.measured.mpp,
        "mpp": kept.reading.mpp,
        "stain": {
            "white": stain.white,
            "vectors": stain.vectors.tolist(),
            "gain": stain.gain,
            "notes": stain.notes,
        },
        "control": None if kept.control is None else asdict(kept.control),
        "refused": None if kept.refused is None else asdict(kept.refused),
        "notes": kept.notes,
    }


def _arrays(reading: Her2Reading) -> dict[str, NDArray[Any]]:
    measured = reading.measured
    cells, bands = measured.cells, measured.bands
    return {
        "boxes": cells.boxes,
        "scores": cells.scores,
        "class_ids": cells.class_ids,
        "excluded": reading.excluded,
        "centres": measured.outlines.centres,
        "radii": bands.radii,
        "level": bands.level,
        "cytoplasm": bands.cytoplasm,
        **{
            f"{name}_{part}": getattr(getattr(bands, name), part)
            for name in ("lines", "faced")
            for part in ("bits", "values", "starts")
        },
    }


def _kept(about: Mapping[str, Any], arrays: Arrays) -> KeptReading:
    n = len(arrays["boxes"])
    _check(arrays["radii"].shape == (n, RAYS) and arrays["centres"].shape == (n, 2), "outlines")
    for name in ("level", "cytoplasm", "excluded"):
        _check(arrays[name].shape == (n,), name)
    lines = _sparse(arrays, "lines", n, lambda v: np.isfinite(v).all())
    known = range(NOBODY, n)
    faced = _sparse(
        arrays, "faced", n, lambda v: v.min(initial=0) in known and v.max(initial=-1) in known
    )
    _check(not n or bool((faced.bits[:, 0] >= 128).all()), "faced")
    cells = Detections(
        arrays["boxes"],
        arrays["scores"],
        arrays["class_ids"],
        tuple(about["class_names"]),
        source=Source.from_json(about["source"]),
    )
    radii = arrays["radii"]
    bands = Bands(radii, lines, arrays["level"], faced, arrays["cytoplasm"])
    measured = Her2Cells(cells, Outlines(arrays["centres"], radii), bands, float(about["read_mpp"]))
    said, control, refused = about["stain"], about["control"], about["refused"]
    white = tuple(float(v) for v in said["white"])
    stain = SlideStain(
        (white[0], white[1], white[2]),
        np.array(said["vectors"], np.float64).reshape(3, 3),
        float(said["gain"]),
        tuple(map(str, said["notes"])),
    )
    return KeptReading(
        Her2Reading(measured, arrays["excluded"], float(about["mpp"])),
        stain,
        control and Control(Region(**control["region"]), float(control["expected_od"])),
        refused and Refusal(str(refused["reason"]), str(refused["remedy"])),
        str(about["time"]),
        tuple(map(str, about["notes"])),
    )


def _sparse(arrays: Arrays, name: str, n: int, holds: Callable[[NDArray[Any]], Any]) -> SparseRows:
    bits, values, starts = (arrays[f"{name}_{part}"] for part in ("bits", "values", "starts"))
    _check(bits.shape == (n, -(-RAYS // 8)) and starts.shape == (n + 1,), name)
    counts = np.unpackbits(bits, axis=1).sum(axis=1, dtype=np.int64)
    _check(np.array_equal(np.diff(starts), counts) and starts[0] == 0, name)
    _check(len(values) == starts[-1] and bool(holds(values)), name)
    return SparseRows(bits, values, starts, RAYS)


def _check(fits: bool, name: str) -> None:
    if not fits:
        raise _refused(f"{name} that do not fit the cells")


def _refused(found: str) -> DataError:
    return DataError(
        "What was measured earlier cannot be read.",
        expected="a file as napari-celldetr writes it",
        found=found,
        remedy="measure the slide again",
    )
