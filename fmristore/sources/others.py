"""Files that are neither images which are read here nor stores: what they are, and what to do.

Known are formats of images, tables, surfaces, streamlines, archives and libraries of arrays, by
the endings of their names or their first bytes, and what stands in the place of a file that was not
fetched (pointers of git-annex and Git LFS, pages of a web server).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fmristore.sources.files import refuse_surface
from fmristore_stores.errors import FmristoreError, NotFoundError, UnknownFormatError
from fmristore_stores.io.location import is_hdf5, is_local, name_of

__all__ = ["explained"]

_HEAD = 4096


class _Kind(NamedTuple):
    """A kind of file."""

    endings: str
    """Regular expression of the end of a name in lower case, without the dot before it."""
    magic: str
    """Regular expression of the first bytes, as Latin-1; empty if they say nothing."""
    text: str
    """Sentence on it with what to do; ``{name}`` is the name of the file."""


_ARRAY = (
    "fs.NeuroVec.create(array, url, space=affine), or NeuroVol for one volume; a mask, labels or "
    "weights may be the array itself"
)
_SITK = 'SimpleITK.WriteImage(SimpleITK.ReadImage("{name}"), "image.nii.gz")'

_INSTEAD = (
    _Kind(
        "",
        r"version https://git-lfs",
        "a pointer of Git LFS and not the file itself: fetch it with git lfs pull",
    ),
    _Kind(
        "",
        r"(?:/annex/objects/|\.git/annex/)",
        "a pointer of git-annex and not the file itself: fetch it with datalad get",
    ),
    _Kind(
        "",
        r"(?is)\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)",
        "a page of a web server and not the file itself: it may ask for a login, or the URL is "
        "that of a page about the file; take the link that downloads it",
    ),
)
"""Things found in the place of a file, whatever its name."""

_KINDS = (
    _Kind(
        r"dcm|dicom|ima",
        r"(?s).{128}DICM",
        "a DICOM file: convert the series to NIfTI first, for example with dcm2niix",
    ),
    _Kind(
        r"mif(?:\.gz)?|mih",
        r"mrtrix image",
        "an image of MRtrix: convert it to NIfTI first, with mrconvert {name} image.nii.gz",
    ),
    _Kind(
        r"nrrd|nhdr",
        r"NRRD",
        f"an image in NRRD: convert it to NIfTI first, for example with {_SITK}",
    ),
    _Kind(
        r"mha|mhd",
        r"ObjectType *=",
        f"an image in MetaImage: convert it to NIfTI first, for example with {_SITK}",
    ),
    _Kind(
        r"npy",
        r"\x93NUMPY",
        'an array of numpy, which has no affine: array = numpy.load("{name}", mmap_mode="r"), then '
        f"{_ARRAY}",
    ),
    _Kind(
        r"npz",
        "",
        "an archive of numpy, whose arrays have no affine: array = "
        f'numpy.load("{{name}}")[...] by its name, then {_ARRAY}',
    ),
    _Kind(
        r"mat",
        r"MATLAB \d",
        "a file of MATLAB, whose arrays have no affine: read it with scipy.io.loadmat (h5py for "
        f"version 7.3), then {_ARRAY}",
    ),
    _Kind(
        r"pt|pth|pkl|pickle|joblib|safetensors",
        "",
        f"objects of a Python library, which are not read: load the array with it, then {_ARRAY}",
    ),
    _Kind(
        r"nc|cdf|nc4",
        r"CDF[\x01\x02\x05]",
        "a netCDF file, which is no store of fmristore: take the array with xarray.open_dataset, "
        f"then {_ARRAY}",
    ),
    _Kind(
        r"rds|rda|rdata",
        r"(?:X|RDX[23])\n",
        "a file of R, which is not read here: write the image with RNifti::writeNifti, or as a "
        "file of R's fmristore",
    ),
    _Kind(
        r"vmr|v16|vtc|fmr|stc|vmp|glm|msk|voi",
        "",
        "a file of BrainVoyager by its name: convert it to NIfTI first, for example with bvbabel",
    ),
    _Kind(r"v", r"MATRIX72v", "an image in ECAT: give the image that nibabel.load reads from it"),
    _Kind(
        r"trk|tck|trx|vtk|vtp|fib",
        r"(?:TRACK|mrtrix tracks|# vtk)",
        "streamlines or a mesh and no image of voxels: make a map of them first, for example with "
        "tckmap",
    ),
    _Kind(
        r"annot|pial|white|inflated|sphere|curv|sulc|thickness|area|label",
        r"\xff\xff\xfe",
        "a surface of FreeSurfer and no image of voxels: map it to a volume first, for example "
        "with mri_surf2vol or mri_label2vol",
    ),
    _Kind(
        r"1d|dset|spec",
        "",
        "a file of AFNI without voxels: convert what it holds to NIfTI first, with 3dAFNItoNIFTI",
    ),
    _Kind(
        r"csv|tsv|txt|xlsx?|parquet|feather|ods",
        r"(?:PAR1|ARROW1)",
        "a table and no image of voxels: names= takes tables of labels; series of parcels (T, K), "
        "as an array or data frame, are for ParcellatedScanSummary.create(series, url, "
        "parcellation=...)",
    ),
    _Kind(
        r"bvals?|bvecs?",
        "",
        "a file beside an image and not the image: give the image, and what is beside it is found",
    ),
    _Kind(
        r"fif|edf|bdf|vhdr|set|mff|ds",
        "",
        "a recording of EEG or MEG by its name and no image of voxels, which alone are stored here",
    ),
    _Kind(
        r"tiff?|png|jpe?g|gif|bmp|svg|pdf",
        r"(?:II\*\x00|MM\x00\*|\x89PNG|\xff\xd8\xff|GIF8|%PDF)",
        f"a picture, which has no affine: read its array with another library, then {_ARRAY}",
    ),
    _Kind(
        r"zip|tar|tgz|tar\.(?:gz|bz2|xz)|7z|rar|xz",
        r"(?:PK\x03\x04|7z\xbc\xaf|Rar!|\xfd7zXZ|(?s:.{257})ustar)",
        "an archive: unpack it; an image or a Zarr store inside of a zip can also be named "
        "(zip://name.nii.gz::archive.zip)",
    ),
)
_MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_GLOB = re.compile(r"[*?\[]")
_STORE = re.compile(r"\.(?:h5|hdf5|zarr)$", re.IGNORECASE)


@contextlib.contextmanager
def explained(url: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Let the error of a file that cannot be opened say what the file is, and what to do.

    Parameters
    ----------
    url : str
        Normalised, of the file that is opened in the block.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    UnknownFormatError
        With more to say, where the block raises it and the file is of a kind that is known.
    NotFoundError
        With more to say, where the name looks like a pattern or leads to what was not fetched.
    """
    try:
        yield
    except UnknownFormatError as error:
        refuse_surface(url)
        text = _described(url, storage_options)
        if text is None or error.node:
            raise
        raise UnknownFormatError(text, url=url) from error
    except NotFoundError as error:
        text = _absent(url)
        if text is None:
            raise
        raise NotFoundError(f"{error.message}: {text}", url=url) from error


def _absent(url: str) -> str | None:
    """Reason why there is nothing at a path, as far as the path tells."""
    if not is_local(url):
        return None
    path = Path(url)
    if path.is_symlink():
        return (
            f"the link leads to {str(path.readlink())[:200]!r}, which is not here; in a dataset of "
            "git-annex fetch it with datalad get or git annex get"
        )
    if _GLOB.search(path.name):
        return "names are literal; give the files of a pattern as sorted(glob.glob(pattern))"
    return None


def _described(url: str, storage_options: Mapping[str, Any] | None) -> str | None:
    """Sentence on a file, None if its kind is not known."""
    name = name_of(url)
    if is_local(url) and Path(url).is_dir():
        return _folder(Path(url))
    if is_local(url) and Path(url).exists() and not Path(url).is_file():
        return None  # a pipe, socket or device, which the error names
    head = _head(url, storage_options)
    for kind in _INSTEAD:
        if re.match(kind.magic, head):
            return kind.text
    short = re.split(r"[/\\]", name)[-1]
    for kind in _KINDS:
        if re.search(rf"\.(?:{kind.endings})$", short.lower()):
            return kind.text.format(name=short)
    for kind in _KINDS:
        if kind.magic and re.match(kind.magic, head):
            return kind.text.format(name=short)
    if _STORE.search(name) and not is_hdf5(head.encode("latin-1")):
        return (
            "named as a store, but neither an HDF5 file nor a Zarr store: no HDF5 signature and no "
            "zarr.json; it is damaged, was not downloaded whole, or is another kind of file"
        )
    return None


def _folder(folder: Path) -> str | None:
    """Sentence on a folder that is no store."""
    if _STORE.search(folder.name) or any((folder / marker).exists() for marker in _MARKERS):
        return None
    if (folder / "dataset_description.json").exists():
        return "the folder of a BIDS dataset: convert it with fmristore.convert_bids"
    first = (path for _, path in zip(range(1000), folder.iterdir(), strict=False))
    if any(re.search(r"\.(?:dcm|dicom|ima)$", path.name.lower()) for path in first):
        return "a folder of DICOM files: convert it to NIfTI first, for example with dcm2niix"
    return "a folder and no Zarr store: expected a file; name the image in it"


def _head(url: str, storage_options: Mapping[str, Any] | None) -> str:
    """First bytes of a file, decompressed, a letter for each; empty if they cannot be read."""
    from fmristore.nifti.files import open_decoded

    try:
        with open_decoded(url, storage_options) as (file, _):
            return file.read(_HEAD).decode("latin-1")
    except FmristoreError:
        return ""
