"""Grids that must be one: what is said where a mask or labels do not lie on that of an image."""

from __future__ import annotations

from fmristore.model.space import NeuroSpace

__all__ = ["advice", "apart", "other_shape"]


def apart(what: str, image: NeuroSpace, own: NeuroSpace) -> str:
    """Sentence on two grids of one shape that lie elsewhere, and what to do.

    Parameters
    ----------
    what : str
        Thing that lies on the other grid, such as ``"mask"``.
    image, own : NeuroSpace
        Grid of the image, and of that thing.
    """
    return (
        f"{what} and image have the same shape but lie {image.grid_distance(own):.3g} mm apart; "
        f"{advice(what, image, own)}"
    )


def advice(what: str, image: NeuroSpace, own: NeuroSpace) -> str:
    """Sentence on what to do with something that lies on another grid of the same shape."""
    resample = f"resample the {what} (nilearn.image.resample_to_img with interpolation='nearest')"
    if image.orientation != own.orientation:
        return (
            f"their axes run differently ({own.orientation} and {image.orientation}): bring both "
            f"into one orientation, for example with nibabel.as_closest_canonical, or {resample}"
        )
    return f"{resample}, or pass the array itself to ignore this"


def other_shape(what: str, shape: tuple[int, ...], image: tuple[int, ...]) -> str:
    """Sentence on a mask or labels of another shape than the image, and what to do.

    Parameters
    ----------
    what : str
        Such as ``"the mask"``.
    shape, image : tuple of int
        Its shape, and that of the image.
    """
    hint = "resample it to the image (nilearn.image.resample_to_img with interpolation='nearest')"
    if len(shape) == 2 and shape[1] == 3:
        hint = "indices of voxels (n, 3) are no array of the grid: give them as voxels"
    elif len(shape) < 3:
        hint = "give an array on the grid, such as values.reshape(image.shape[:3])"
    elif len(shape) > 3 and shape[:3] == image[:3]:
        hint = "take one volume of it, such as values[..., 0]"
    return f"{what} has shape {shape}, the image {image}: {hint}"
