"""Errors a user can act on: each says what was expected, what was found, and what to do."""

from __future__ import annotations


class CellDETRError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    message : str
        One plain sentence naming the thing that went wrong.
    expected, found, remedy : str, optional
        What should have been there, what was there, and what the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.expected = expected
        self.found = found
        self.remedy = remedy
        parts = [message]
        if expected is not None:
            parts.append(f"Expected: {expected}.")
        if found is not None:
            parts.append(f"Found: {found}.")
        if remedy is not None:
            parts.append(f"What to do: {remedy}.")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive pickling by default,
        # and these travel back from probe and cluster processes.
        return _rebuild, (type(self), self.message, self.expected, self.found, self.remedy)


def no_file(
    kind: type[CellDETRError], path: object, *, remedy: str = "check the path"
) -> CellDETRError:
    """The error of a `kind` for a file that is not there."""
    return kind(
        f"There is no file {str(path)!r}.",
        expected="a file that can be read",
        found="nothing of that name",
        remedy=remedy,
    )


class SlideError(CellDETRError):
    """A slide cannot be opened, understood or read."""


class ModelError(CellDETRError):
    """A model folder, card or weights file is not what it claims to be."""


class ConfigError(CellDETRError):
    """A setting is unknown, missing or out of range."""


class DataError(CellDETRError):
    """A training or evaluation data set is not what it claims to be."""


class AnnotationError(CellDETRError):
    """What a person said of cells does not fit together, or cannot be kept."""


class EmbeddingError(CellDETRError):
    """Embeddings do not fit the cells, each other, or what is asked of them."""


class ExportError(CellDETRError):
    """A result cannot be written or read back."""


class JobError(CellDETRError):
    """A running job failed. Not a RuntimeError: napari's workers swallow those."""


def _rebuild(
    kind: type[CellDETRError],
    message: str,
    expected: str | None,
    found: str | None,
    remedy: str | None,
) -> CellDETRError:
    return kind(message, expected=expected, found=found, remedy=remedy)
