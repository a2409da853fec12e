"""An analysis as users write it; neither mypy --strict nor pyright finds fault with it."""

from __future__ import annotations

from typing import Unpack, assert_type

import nibabel
import xarray

import fmristore as fs


def store(source: str, url: str, **options: Unpack[fs.LayoutOptions]) -> fs.NeuroVec:
    """Pass options on, which checkers and editors know."""
    return fs.NeuroVec.create(source, url, space_name="MNI152NLin2009cAsym", **options)


def analyse(path: str) -> xarray.Dataset:
    """Store, summarise, convert and export."""
    bold = store(path, "bold.h5", access="both", codec="fast", overwrite=True, max_memory="1GiB")
    image = bold.to_nibabel()
    assert_type(image, nibabel.Nifti1Image)
    with fs.MaskedNeuroVec.create(bold, "masked.zarr", mask="mask.nii.gz") as masked:
        assert_type(masked, fs.MaskedNeuroVec)
        assert_type(fs.convert(masked, "again.h5", overwrite=True), fs.MaskedNeuroVec)
        dense = masked.to_dense("dense.ome.zarr", access="volume", progress=print)
        dense.to_nifti("dense.nii.gz", overwrite=True)
    runs = fs.convert([path, "second.nii.gz"], "runs.h5", tr=2.0)
    assert_type(runs, fs.NeuroVecSeq)
    many = fs.convert([path, "second.nii.gz"], ["a.h5", "b.h5"], jobs=2, access="volume")
    assert_type(many, fs.RunsReport)
    assert_type(fs.verify(list(many.results), executor=None, deep=True), fs.RunsReport)
    assert fs.verify("a.h5").ok
    assert_type(fs.parcellate(["a.h5"], "atlas.nii.gz", ["s.h5"], names="t.tsv"), fs.RunsReport)
    assert_type(fs.transcode({"a": "a.h5"}, {"a": "a.zarr"}, journal="j.jsonl"), fs.RunsReport)
    latent = fs.LatentNeuroVec.from_pca(bold, "latent.h5", 20, mask="mask.nii.gz")
    assert_type(latent.save("latent.zarr"), fs.LatentNeuroVec)
    fs.transcode("bold.h5", "bold.ome.zarr", codec="keep", progress=print)
    multi = fs.ParcellatedMultiScan.create({"rest": bold}, "sub.h5", parcellation="atlas.nii.gz")
    multi.add_scan("task", runs, statistic="mean")
    rest = fs.parcellate(multi["rest"], "atlas.nii.gz", "rest.zarr", statistic="std")
    return rest.to_xarray()


def mistaken(path: str) -> None:
    """Mistakes that checkers find before the call does."""
    fs.convert(path, "a.h5", overwite=True)  # type: ignore[call-overload]
    fs.convert(path, "a.h5", jobs=2)  # type: ignore[call-overload]
    fs.NeuroVec.create(path, "a.h5", access="fast")  # type: ignore[arg-type]
