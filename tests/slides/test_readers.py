"""Every format read right: pixels, levels, pixel size, and nothing of its private metadata."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import openslide
import pytest
import slide_files
import tifffile
from PIL import Image
from slide_files import halves, picture

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides import formats
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tile_cache import TileCache


@pytest.mark.parametrize("name", slide_files.LOSSLESS)
def test_lossless_formats_give_back_their_pixels(tmp_path, name):
    levels = halves(picture(), 2)
    path = slide_files.write(tmp_path, name, levels)
    with open_slide(path, probe=False) as slide:
        stored = len(slide.real_levels)
        assert stored == (1 if name.endswith("png") else 3)
        assert slide.size == (700, 500)
        assert slide.mpp == pytest.approx((0.5, 0.5), rel=1e-4)
        assert np.array_equal(slide.read(slide.region), levels[0])
        for level in range(stored):
            height, width = levels[level].shape[:2]
            assert slide.level_sizes[level] == (width, height)
            assert slide.downsamples[level] == pytest.approx(2**level, rel=0.02)
            assert np.array_equal(
                slide.read_level(level, 3, 5, width - 9, height - 11), levels[level][5:-6, 3:-6]
            )
            shown = slide.levels[level]
            assert shown.shape == (height, width, 3)
            assert shown.dtype == np.uint8
            assert np.array_equal(shown.compute(scheduler="sync"), levels[level])


@pytest.mark.parametrize("name", ["old.zarr", "ome_deflate.ome.tif"])
def test_the_trial_opening_accepts_good_files(tmp_path, name):
    path = slide_files.write(tmp_path, name, halves(picture(), 1))
    with open_slide(path) as slide:
        assert slide.mpp_source in ("ome-zarr", "ome-xml")


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_tiles_decode_as_openslide_decodes_them(tmp_path, subsampling):
    options = {"compression": "jpeg", "subsampling": subsampling, "tile": (128, 128)}
    path = slide_files.write_tiff(tmp_path / "jpeg.tif", halves(picture(), 1), **options)
    with open_slide(path, probe=False) as slide, openslide.OpenSlide(path) as reference:
        theirs = np.asarray(reference.read_region((0, 0), 0, slide.size))[..., :3]
        assert np.array_equal(slide.read(slide.region), theirs)


def test_content_decides_not_the_name(tmp_path):
    tiff = slide_files.write(tmp_path, "plain_lzw.tif", [picture()])
    shutil.copy(tiff, tmp_path / "really_a_tiff.png")
    with open_slide(tmp_path / "really_a_tiff.png", probe=False) as slide:
        assert np.array_equal(slide.read(slide.region), picture())


OPENSLIDE_READS = (
    "slides/CMU-1-Small-Region.svs",
    "slides/tcga-cr-7395_HE_jpeg2000_no-mpp.svs",
    "slides/CRC-AI-15_IHC.tif",
    "readers/small.svs",
    "readers/😐.svs",
    "readers/boxes.tiff",
    "readers/boxes_0.dcm",
    "readers/test_orient1.tif",
    "readers/yb10kx5k.zstd.tiff",
    "glia/stainai_Iba1_CR1.tif",
)


@pytest.mark.parametrize("name", OPENSLIDE_READS)
def test_real_files_equal_openslide(shared_data, name):
    path = shared_data / name
    with open_slide(path, probe=False) as slide, openslide.OpenSlide(path) as reference:
        assert slide.size == reference.dimensions
        assert [slide.level_sizes[i] for i in slide.real_levels] == list(reference.level_dimensions)
        ratios = [slide.downsamples[i] for i in slide.real_levels]
        assert ratios == pytest.approx(reference.level_downsamples)
        w, h = (min(s, 700) for s in slide.size)
        for x, y in ((0, 0), ((slide.size[0] - w) // 2, slide.size[1] - h)):
            rgba = np.asarray(reference.read_region((x, y), 0, (w, h))).astype(int)
            alpha = rgba[..., 3:]
            theirs = (rgba[..., :3] * alpha + 255 * (255 - alpha)) // 255
            ours = slide.read(Region(x, y, w, h))
            assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("OS-1-detail_HE.ome.tif", 0.2271),
        ("OS-2-ndpi_Ki67.ome.tif", 0.2271),
        ("OS-2-vsi_Ki67.ome.tif", 0.3461),
    ],
)
def test_real_ome_tiff_equals_tifffile(shared_data, name, mpp):
    path = shared_data / "slides" / name
    with open_slide(path, probe=False) as slide:
        assert slide.mpp == pytest.approx((mpp, mpp), abs=1e-4)
        assert slide.mpp_source == "ome-xml"
        assert np.array_equal(slide.read(slide.region), tifffile.imread(path))


def test_grey_and_picture_fixtures(shared_data):
    folder = shared_data / "readers"
    with open_slide(folder / "grey10kx5k.tif", probe=False) as slide:
        seen = slide.read(Region(4000, 2000, 700, 700))
        assert (seen[..., 0] == seen[..., 2]).all()
        assert np.array_equal(
            seen[..., 0], tifffile.imread(folder / "grey10kx5k.tif")[2000:2700, 4000:4700]
        )
    with open_slide(folder / "boxes.png", probe=False) as slide:
        expected = np.asarray(Image.open(folder / "boxes.png").convert("RGB"))
        assert np.array_equal(slide.read(slide.region), expected)


def test_real_oriented_tiff_turns_as_its_tag_says(shared_data):
    with (
        open_slide(shared_data / "readers" / "test_orient1.tif", probe=False) as upright,
        open_slide(shared_data / "readers" / "test_orient6.tif", probe=False) as turned,
    ):
        stored = tifffile.imread(shared_data / "readers" / "test_orient6.tif", key=0)
        assert turned.size == upright.size[::-1]
        whole = turned.read(turned.region)
        assert np.array_equal(
            whole[..., 0], np.rot90(stored if stored.ndim == 2 else stored[..., 0], -1)
        )
        part = turned.read(Region(31, 17, 77, 55))
        assert np.array_equal(part, whole[17:72, 31:108])


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_tiff_and_exif_orientation(tmp_path, orientation):
    pixels = picture(300, 200)
    tags = [(274, "H", 1, orientation, True)]
    path = slide_files.write_tiff(tmp_path / "o.tif", halves(pixels, 1), extratags=tags)
    seen = TURNS[orientation](pixels)
    with open_slide(path, probe=False) as slide:
        assert np.array_equal(slide.read(slide.region), seen)
        region = Region(20, 30, 111, 77)
        assert np.array_equal(slide.read(region), seen[30:107, 20:131])
        assert slide.level_sizes[1] == (seen.shape[1] // 2, seen.shape[0] // 2)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "o.jpg", exif=exif, quality=100, subsampling=0)
    with open_slide(tmp_path / "o.jpg", probe=False) as slide:
        assert slide.size == (seen.shape[1], seen.shape[0])
        assert np.abs(slide.read(slide.region).astype(int) - seen).mean() < 1.5


def test_sixteen_bit_grey_alpha_palette_and_bilevel(tmp_path):
    chance = np.random.default_rng(1)
    deep = chance.integers(0, 65536, (90, 120, 3)).astype(np.uint16)
    clear = chance.integers(0, 256, (90, 120, 4)).astype(np.uint8)
    grey = chance.integers(0, 256, (90, 120)).astype(np.uint8)
    bits = chance.integers(0, 2, (90, 120)).astype(bool)
    map16 = chance.integers(0, 65536, (3, 256)).astype(np.uint16)
    on_white = np.rint(clear[..., :3] * (clear[..., 3:] / 255) + 255 - clear[..., 3:])
    grey_rgb = np.repeat(grey[..., None], 3, 2)
    cases = {
        "deep": ({"data": deep, "photometric": "rgb", "predictor": True}, np.rint(deep / 257)),
        "alpha": (
            {"data": clear, "photometric": "rgb", "extrasamples": ["unassalpha"]},
            on_white,
        ),
        "grey": ({"data": grey, "photometric": "minisblack"}, grey_rgb),
        "inverted": ({"data": grey, "photometric": "miniswhite"}, 255 - grey_rgb),
        "palette": (
            {"data": grey, "photometric": "palette", "colormap": map16},
            np.rint(map16[:, grey].transpose(1, 2, 0) / 257),
        ),
        "float": ({"data": (grey / 255).astype(np.float32)}, grey_rgb),
    }
    for name, (options, expected) in cases.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, compression="deflate", metadata=None, **options)
        with open_slide(path, probe=False) as slide:
            assert np.abs(slide.read(slide.region) - expected).max() <= 1, name
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="minisblack", metadata=None)
    with open_slide(tmp_path / "bits.tif", probe=False) as slide:
        assert np.array_equal(slide.read(slide.region)[..., 0], bits * 255)
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    with open_slide(tmp_path / "alpha.png", probe=False) as slide:
        assert np.abs(slide.read(slide.region) - on_white).max() <= 1


def test_channels_in_planes_of_their_own(tmp_path):
    pixels = picture(120, 90)
    path = tmp_path / "planes.ome.tif"
    data = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(path, data, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    with open_slide(path, probe=False) as slide:
        assert np.array_equal(slide.read(slide.region), pixels)
    tifffile.imwrite(
        tmp_path / "five.ome.tif",
        np.zeros((5, 90, 120), np.uint8),
        photometric="minisblack",
        metadata={"axes": "CYX"},
        ome=True,
    )
    with pytest.raises(SlideError, match="channels"):
        open_slide(tmp_path / "five.ome.tif", probe=False)


def test_never_written_tiles_are_background_not_black(tmp_path):
    path = slide_files.write_tiff(tmp_path / "s.tif", [picture(128, 128)], compression="deflate")
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags[325]
        place = tag.valueoffset
    data = bytearray(path.read_bytes())
    data[place : place + 4] = b"\0\0\0\0"[
        : tag.dtype.itemsize if hasattr(tag.dtype, "itemsize") else 4
    ]
    path.write_bytes(data)
    with open_slide(path, probe=False) as slide:
        assert (slide.read(Region(0, 0, 64, 64)) == 255).all()
        assert np.array_equal(slide.read(Region(64, 0, 64, 64)), picture(128, 128)[:64, 64:])


def test_outside_is_background(tmp_path):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture(100, 80)])
    with open_slide(path, probe=False) as slide:
        seen = slide.read(Region(-20, -10, 160, 120))
        assert seen.shape == (120, 160, 3)
        assert np.array_equal(seen[10:90, 20:120], picture(100, 80))
        seen[10:90, 20:120] = 255
        assert (seen == 255).all()
        assert (slide.read(Region(5000, 5000, 30, 20), 1.0) == 255).all()


# -- pixel size ---------------------------------------------------------------------------


def sized(tmp_path, x, y=None, unit="CENTIMETER", name="r.tif"):
    resolution = (10_000 / x, 10_000 / (y or x))
    tifffile.imwrite(
        tmp_path / name, picture(64, 64), resolution=resolution, resolutionunit=unit, metadata=None
    )
    return tmp_path / name


def test_pixel_size_is_believed_only_when_plausible(tmp_path):
    with open_slide(sized(tmp_path, 0.25), probe=False) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert slide.mpp_source == "tiff tag"
        assert slide.warnings == ()
    for x, y in ((352.78, None), (0.05, None), (2.5, None), (0.5, 0.52)):
        with open_slide(sized(tmp_path, x, y), probe=False) as slide:
            assert slide.mpp is None
            assert "refused" in slide.mpp_source
            assert "mpp" in slide.warnings[0]
            with pytest.raises(SlideError, match="pixel size"):
                slide.read(slide.region, 0.5)
    with open_slide(sized(tmp_path, 0.5, 0.509), probe=False) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.509))


def test_given_pixel_size_replaces_and_is_checked(tmp_path):
    path = sized(tmp_path, 1000)
    with open_slide(path, mpp=0.25, probe=False) as slide:
        assert slide.mpp == (0.25, 0.25)
        assert slide.mpp_source == "user"
        assert slide.read(slide.region, 0.5).shape == (32, 32, 3)
    for bad in (0, -1, 5, float("nan")):
        with pytest.raises(SlideError):
            open_slide(path, mpp=bad, probe=False)


def test_real_pixel_sizes(shared_data):
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs", probe=False) as slide:
        assert slide.mpp == (0.499, 0.499)
        assert slide.mpp_source == "openslide"
        assert slide.objective == 20
        assert slide.warnings == ()
    with open_slide(shared_data / "slides" / "CRC-AI-15_IHC.tif", probe=False) as slide:
        assert slide.mpp is None
        assert "1000" in slide.mpp_source
    path = shared_data / "slides" / "tcga-cr-7395_HE_jpeg2000_no-mpp.svs"
    with open_slide(path, probe=False) as slide:
        assert slide.mpp is None
        assert slide.mpp_source == "missing"


def test_objective_that_contradicts_the_pixel_size_is_told(shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path, mpp=0.25, probe=False) as slide:
        assert "20× objective" in slide.warnings[0]


# -- identity, pickling, lifetime ---------------------------------------------------------


def test_identity_knows_the_content_not_the_name(tmp_path):
    first = slide_files.write(tmp_path, "plain_lzw.tif", [picture()])
    second = shutil.copy(first, tmp_path / "renamed.tif")
    other = slide_files.write(tmp_path, "plain_zstd.tif", [picture(seed=3)])
    with (
        open_slide(first, probe=False) as a,
        open_slide(second, probe=False) as b,
        open_slide(other, probe=False) as c,
    ):
        assert a.identity() == b.identity() != c.identity()
        assert len(a.identity()) == 64
    zarr_a = slide_files.write(tmp_path, "new.zarr", [picture()])
    with open_slide(zarr_a, probe=False) as slide:
        before = slide.identity()
    chunk = next(p for p in zarr_a.rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(b"x" + chunk.read_bytes())
    with open_slide(zarr_a, probe=False) as slide:
        assert slide.identity() != before


def test_a_slide_travels_as_its_path(tmp_path):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture()])
    with open_slide(path, mpp=0.3, probe=False) as slide:
        sent = pickle.dumps(slide)
        with pickle.loads(sent) as copy:
            assert isinstance(copy, Slide)
            assert copy.mpp == (0.3, 0.3)
            assert np.array_equal(copy.read(copy.region), picture())
    assert len(sent) < 1000


def test_reading_a_closed_slide_is_a_slide_error(tmp_path, shared_data):
    for path in (
        slide_files.write(tmp_path, "plain_lzw.tif", [picture()]),
        slide_files.write(tmp_path, "new.zarr", [picture()]),
        shared_data / "readers" / "boxes_0.dcm",
    ):
        slide = open_slide(path, probe=False)
        slide.close()
        with pytest.raises(SlideError):
            slide.read(Region(0, 0, 10, 10))


def test_plugins_are_asked_first_and_their_errors_are_ours(tmp_path, monkeypatch):
    path = tmp_path / "thing.xyz"
    path.write_bytes(b"XYZ!")

    def broken(path):
        raise KeyError("inside the plugin")

    reader = formats.Reader("xyz", lambda _, head: head == b"XYZ!", broken)
    monkeypatch.setattr(formats, "plugins", lambda: (reader,))
    with pytest.raises(SlideError, match="KeyError"):
        open_slide(path, probe=False)


# -- privacy ------------------------------------------------------------------------------

SENTINEL = "SENTINEL-7f3a"


def test_r24_private_metadata_stays_in_the_file(tmp_path, shared_data, caplog, capfd):
    fields = ("Artist", "HostComputer", "Software", "DateTime", "Copyright", "Make", "Model")
    codes = {
        "Artist": 315, "HostComputer": 316, "Software": 305, "DateTime": 306,
        "Copyright": 33432, "Make": 271, "Model": 272,
    }  # fmt: skip
    tags = [
        (codes[f], "s", 0, f"{SENTINEL}-{f}", True)
        for f in fields
        if f not in ("Software", "DateTime")
    ]
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(
        plain,
        picture(),
        description=f"{SENTINEL}-description",
        software=f"{SENTINEL}-software",
        extratags=tags,
        metadata=None,
    )
    ome = tmp_path / "ome.ome.tif"
    metadata = {
        "axes": "YXS",
        "Name": f"{SENTINEL}-name",
        "Description": f"{SENTINEL}-text",
        "Channel": {"Name": [f"{SENTINEL}-channel"]},
    }
    tifffile.imwrite(ome, picture(), metadata=metadata, ome=True)
    source = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    svs = tmp_path / "a.svs"
    sentinel = SENTINEL.encode()
    for field in (b"ScanScope ID = ", b"Filename = ", b"User = "):
        assert field in source
        at = source.index(field) + len(field)
        source = source[:at] + sentinel[:5] + source[at + 5 :]
    svs.write_bytes(source)
    zarr_path = slide_files.write(tmp_path, "old.zarr", [picture()])
    slide_files.edit_json(
        zarr_path / ".zattrs", lambda d: d.update({"omero": {"name": SENTINEL}, "x": SENTINEL})
    )
    seen = []
    for path in (plain, ome, svs, zarr_path):
        with open_slide(path) as slide:
            slide.read(Region(0, 0, 100, 100))
            public = [
                getattr(slide, n) for n in dir(slide) if not n.startswith("_") and n != "path"
            ]
            seen += [
                repr(slide),
                repr(public),
                repr(
                    vars(slide._backend.facts)
                    if hasattr(slide._backend.facts, "__dict__")
                    else slide._backend.facts
                ),
                slide.identity(),
            ]
            seen.append(pickle.dumps(slide).decode("latin1"))
        cut = tmp_path / f"cut_{path.name}"
        if path.is_file():
            cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
            try:
                with open_slide(cut) as slide:
                    slide.read(slide.region)
            except SlideError as error:
                seen.append(str(error))
    written = capfd.readouterr()
    everything = "\n".join([*seen, caplog.text, written.out, written.err])
    assert SENTINEL[:5] not in everything


def test_label_and_macro_are_never_levels(shared_data, tmp_path):
    pixels = picture(640, 480)
    with tifffile.TiffWriter(tmp_path / "m.tif") as writer:
        writer.write(pixels, photometric="rgb", tile=(64, 64), metadata=None)
        writer.write(
            pixels[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=9, metadata=None
        )
        writer.write(
            picture(100, 300), photometric="rgb", tile=(64, 64), subfiletype=1, metadata=None
        )
    with open_slide(tmp_path / "m.tif", probe=False) as slide:
        assert slide.real_levels == [0]


def test_the_cache_keeps_its_byte_limit():
    cache = TileCache(1000)
    made = []

    def make(i):
        return lambda: made.append(i) or np.full(300, i, np.uint8)

    for i in (0, 1, 2, 0, 3, 0):
        assert (cache.get(i, make(i)) == i).all()
        assert cache.used_bytes <= 1000
    assert made == [0, 1, 2, 3]
    big = cache.get("big", lambda: np.zeros(5000, np.uint8))
    assert cache.used_bytes == 5000
    assert not big.flags.writeable
    cache.clear()
    assert cache.used_bytes == 0
