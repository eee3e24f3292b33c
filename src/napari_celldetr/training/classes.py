"""Class names of data sets, and the model's classes they stand for."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.training.label_files import read_table

UNKNOWN_WORD = "-"
REST = "*"
UNLABELLED = ("", "unknown")
"""What data sets write for a nucleus whose type nobody said."""


@dataclass(frozen=True)
class ClassMap:
    """From a data set's class names to the model's.

    Attributes
    ----------
    names : tuple of str
        The model's classes, in order. Without any, types do not matter and every id is -1.
    pairs : dict
        The data set's name -> a name in `names`, or ``-`` for a nucleus of unknown type (id -1).
        The name ``*`` stands for all that are not listed. A name that is not listed and equals
        one of `names` is that class.
    shared : bool
        Whether the map may serve several data sets, so that one of them need not have all names.
    """

    names: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    shared: bool = False

    def __post_init__(self) -> None:
        doubled = [n for n, count in Counter(a for a, _ in self.pairs).items() if count > 1]
        absent = {b for _, b in self.pairs if b != UNKNOWN_WORD} - set(self.names)
        if doubled or (absent and self.names):
            raise DataError(
                "The class map cannot be used.",
                expected="each class once, to one of " + ", ".join((*self.names, UNKNOWN_WORD)),
                found=(f"twice {doubled[0]!r}" if doubled else "to " + ", ".join(sorted(absent))),
                remedy="correct the map, or the model's classes",
            )

    @classmethod
    def parse(cls, text: str, names: Sequence[str] = ()) -> ClassMap:
        """A map out of ``tumor:tumour,dead:-``, or out of a CSV file with columns class, to.

        That of a file is `shared`.
        Raises `DataError` when it is malformed or leads to classes that `names` lacks.
        """
        if not text:
            return cls(tuple(names))
        shared = text.lower().endswith(".csv")
        if shared:
            rows = read_table(Path(text), ("class", "to"))
            pairs = [((r["class"] or "").strip(), (r["to"] or "").strip()) for r in rows]
        else:
            pieces = [piece.rpartition(":") for piece in text.split(",") if piece.strip()]
            pairs = [(a.strip(), b.strip()) for a, _, b in pieces]
        if not pairs or not all(a and b for a, b in pairs):
            raise DataError(
                "The class map cannot be read.",
                expected="CLASS:CLASS,CLASS:- or a CSV file with columns class, to",
                found=text,
                remedy="name for every class of the data one of the model's, or - for unknown",
            )
        return cls(tuple(names), tuple(pairs), shared)

    def check_names(self, words: Iterable[str], data_set: str) -> None:
        """Refuse names in the map that are none of the data's: a misspelt one would do nothing.

        `words` are all class names of the data, also those of parts not read; they are taken
        one by one until every name of the map is found. Names that stand for themselves are
        not looked for. Warns where the map is `shared`, else raises `DataError`.
        """
        absent = {a: None for a, b in self.pairs if a not in (REST, *UNLABELLED, b) and self.names}
        seen: dict[str, None] = {}
        found = iter(words)
        while absent and (word := next(found, None)) is not None:
            seen[word.strip()] = None
            absent.pop(word.strip(), None)
        if not absent:
            return
        names = [word for word in sorted(seen) if word not in UNLABELLED]
        known = ", ".join(names[:20]) or "no classes"
        lacking = ", ".join(repr(name) for name in absent)
        message = f"?map= names {lacking}, which the data set {data_set!r} does not have"
        if self.shared:
            warnings.warn(f"{message} (it has {known}).", stacklevel=2)
            return
        raise DataError(
            f"{message}.",
            expected=f"class names of the data (it has {known})",
            found=lacking,
            remedy="correct the name in ?map=, or leave it out",
        )

    def id_of(self, word: str) -> int | None:
        """Index into `names`, -1 for an unknown type, None where nothing says what to do."""
        word = word.strip()
        if not self.names:
            return UNKNOWN
        known = dict(self.pairs)
        to = known.get(word)
        if to is None and word in self.names:
            to = word
        if to is None and word in UNLABELLED:
            to = UNKNOWN_WORD
        to = known.get(REST) if to is None else to
        if to is None:
            return None
        return UNKNOWN if to == UNKNOWN_WORD else self.names.index(to)

    def ids(self, words: Iterable[str], data_set: str) -> NDArray[np.int16]:
        """`id_of` many words. Raises `DataError` that names all without a counterpart."""
        listed = list(words)
        table = {word: self.id_of(word) for word in dict.fromkeys(listed)}
        lacking = [word for word, index in table.items() if index is None]
        if lacking:
            raise DataError(
                f"Classes of the data set {data_set!r} have no counterpart in the model.",
                expected="one of " + (", ".join(self.names)) + ", or a map to them",
                found=", ".join(sorted(lacking)),
                remedy="add ?map="
                + ",".join(f"{word}:{UNKNOWN_WORD}" for word in sorted(lacking)[:8])
                + " with the model's class, or - for unknown, behind each colon",
            )
        return np.array([table[word] for word in listed], np.int16)
