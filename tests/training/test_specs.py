"""Words that name data sets: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.training.specs import DataSpec, parse_data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pannuke:a", DataSpec("pannuke", Path("a"), 0.25, 1.0)),
        ("lizard:a*2", DataSpec("lizard", Path("a"), 0.5, 2.0)),
        ("geojson:a", DataSpec("geojson", Path("a"), None, 1.0)),
        ("geojson:a@0.3", DataSpec("geojson", Path("a"), 0.3, 1.0)),
        ("points:a*auto+dab", DataSpec("points", Path("a"), 0.5, 1.0, True, (), True)),
        (
            "pannuke:a@0.25*0.5+dab?map=x:y,z:-&group=^f",
            DataSpec("pannuke", Path("a"), 0.25, 0.5, True, (("map", "x:y,z:-"), ("group", "^f"))),
        ),
        ("points:what?", DataSpec("points", Path("what?"), 0.5, 1.0)),
        ('"points:my data/a b@0.4"', DataSpec("points", Path("my data/a b"), 0.4, 1.0)),
        ("points:'my data'@0.4", DataSpec("points", Path("my data"), 0.4, 1.0)),
        (
            "geojson:a?map='Immune cells:lymphocyte'",
            DataSpec("geojson", Path("a"), None, 1.0, False, (("map", "Immune cells:lymphocyte"),)),
        ),
        ("points:C:\\data\\new@0.5", DataSpec("points", Path("C:\\data\\new"), 0.5, 1.0)),
    ],
)
def test_words(text, expected):
    assert parse_data(text) == [expected]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("points:a?colour=red", "options complete, empty, group, map"),
        ("points:a?empty=yes", "empty=background or unknown"),
        ("points:a?map=", "map=something"),
        ("geojson:a?tile=9", "tile=64 to 8192"),
        ("points:a?map=a:b&map=c:d", "the option map is given twice"),
        ("points:a b:c", "unknown kind 'b'; kinds: points, "),
        ("points:'a", "not closed.*quote words with spaces"),
        ("points:fields@0,5", "the µm/px '0,5' is not a number.*write 0.5."),
        ("points:fields@0.5*,3", "the share ',3' is not a number.*write .3."),
        ("points:fields@half", "the µm/px 'half' is not a number.*write @0.5"),
        ("points:fields@", "the µm/px is missing.*write @0.5"),
        ("points:fields@50", "50 µm/px is not between 0.05 and 4"),
        ("points:fields*0", "the share 0 is not above 0"),
        ("point:fields", "unknown kind 'point'.*write points:"),
        ("point:", "unknown kind 'point'"),
        ("points:", "no folder after the colon"),
        ("points:@0.5", "no folder after the colon"),
        ("fields", "no kind before a colon.*e.g. points:fields"),
        ("points:my fields@0.5", "no kind before a colon.*--data \"'points:my fields@0.5'\""),
        ("coco:a", "add @ and the µm/px"),
        ("composition:a", "COMPOSITION|composition:FOLDER@MPP"),
        ("points:a*automatic", r"share 'automatic' is not a number.*\*auto"),
    ],
)
def test_words_that_cannot_be_read(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_data(text)
