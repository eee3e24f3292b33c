"""The border no library's own exception type crosses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from napari_celldetr.core.errors import CellDETRError, SlideError


@contextmanager
def as_slide_error(name: str, doing: str) -> Iterator[None]:
    """Turn whatever a decoder or parser raises inside into a `SlideError` about file `name`.

    Only the foreign error's type is repeated: its text may quote paths or the file's metadata.
    """
    try:
        yield
    except CellDETRError:
        raise
    except Exception as error:  # decoders raise anything; this is the one border
        raise SlideError(
            f"The slide {name!r} failed at {doing}.",
            expected="readable image data",
            found=type(error).__name__,
            remedy="take the file again from its source; the rest of it may still be readable",
        ) from error
