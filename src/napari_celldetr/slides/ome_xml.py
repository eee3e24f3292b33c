"""The few things OME-XML is asked: which planes make the picture, and its pixel size."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.limits import refuse

UM_PER = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "pm": 1e-6,
    "Å": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}
NOT_A_SLIDE = ("label", "macro", "thumbnail", "overview")


@dataclass(frozen=True, slots=True)
class OmePicture:
    """One OME image: `planes` are the IFD numbers of its channels (one when interleaved)."""

    width: int
    height: int
    planes: tuple[int, ...]
    mpp: tuple[float, float] | None
    objective: float | None = None


def is_ome(description: str) -> bool:
    """Whether an ImageDescription is OME-XML."""
    start = description.lstrip("\ufeff \t\r\n")[:2000]
    return start.startswith("<") and ("<OME" in description[:10_000] or "<ome:OME" in start)


def parse_ome(description: str, name: str) -> OmePicture:
    """The largest picture of an OME-XML text that is not a label or an overview.

    Raises `SlideError` for entity tricks, broken XML, and anything that is not grey or RGB.
    """
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise refuse(name, "OME-XML without a document type", "a DOCTYPE or ENTITY declaration")
    with as_slide_error(name, "its OME-XML"):
        root = ET.fromstring(description.lstrip("\ufeff \t\r\n"))
        pictures = list(_pictures(root, name))
    if not pictures:
        raise refuse(name, "a picture in the OME-XML", "none")
    return max(pictures, key=lambda p: p.width * p.height)


def _children(node: ET.Element, tag: str) -> list[ET.Element]:
    return [child for child in node if child.tag.rpartition("}")[2] == tag]


def _pictures(root: ET.Element, name: str) -> list[OmePicture]:
    objectives = _objectives(root)
    found, next_plane = [], 0
    for image in _children(root, "Image"):
        pixels = _children(image, "Pixels")
        if not pixels:
            continue
        planes, count = _planes(pixels[0], next_plane, name)
        next_plane += count
        title = (image.get("Name") or "").lower()
        if any(word in title for word in NOT_A_SLIDE):
            continue
        width, height = int(pixels[0].get("SizeX", "0")), int(pixels[0].get("SizeY", "0"))
        reference = next(iter(_children(image, "ObjectiveSettings")), None)
        power = objectives.get(reference.get("ID", "")) if reference is not None else None
        found.append(OmePicture(width, height, planes, _mpp(pixels[0]), power))
    return found


def _planes(pixels: ET.Element, first: int, name: str) -> tuple[tuple[int, ...], int]:
    channels = _children(pixels, "Channel")
    size_c = int(pixels.get("SizeC", "1"))
    per = int(channels[0].get("SamplesPerPixel", "1")) if channels else 1
    stacks = int(pixels.get("SizeZ", "1")) * int(pixels.get("SizeT", "1"))
    ifds = max(size_c // max(per, 1), 1) * stacks
    data = next(iter(_children(pixels, "TiffData")), None)
    start = int(data.get("IFD", first)) if data is not None else first
    separate = size_c // max(per, 1)
    if separate not in (1, 3):
        raise refuse(
            name,
            "one grey or RGB picture (brightfield)",
            f"{size_c} separate channels",
            "export the slide as RGB",
        )
    # Channels of one focal plane and time lie next to each other only in C-first order.
    order = pixels.get("DimensionOrder", "XYCZT")
    step = 1 if order.find("C") == 2 else stacks
    return tuple(start + i * step for i in range(separate)), ifds


def _mpp(pixels: ET.Element) -> tuple[float, float] | None:
    sizes = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        factor = UM_PER.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if text is None or factor is None:
            return None
        sizes.append(float(text) * factor)
    return sizes[0], sizes[1]


def _objectives(root: ET.Element) -> dict[str, float]:
    found = {}
    for node in root.iter():
        if node.tag.rpartition("}")[2] == "Objective" and node.get("NominalMagnification"):
            found[node.get("ID", "")] = float(node.get("NominalMagnification", "nan"))
    return found
