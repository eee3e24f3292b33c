"""The only importer of napari, qtpy, magicgui and vispy."""
