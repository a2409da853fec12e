"""What is shown of stores holds no password, token or signature of their URLs and options."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import fsspec
import nibabel as untyped_nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.bids.member import Member
from fmristore.cli import app
from fmristore.many.task import Task
from fmristore.model.space import HeaderWarning
from fmristore.viewer.content import about
from fmristore_stores.secrets import masked

nibabel: Any = untyped_nibabel
RUN = np.random.default_rng(0).integers(1, 99, (4, 5, 3, 6)).astype("i2")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://me:p@hush@host/a.h5", "https://***@host/a.h5"),
        ("https://host/a.h5?rlkey=hush&dl=1", "https://host/a.h5?rlkey=***&dl=1"),
        ("https://host/a.h5#access_token=hush", "https://host/a.h5#access_token=***"),
        ("https://host/a.h5?mail=me@host", "https://host/a.h5?mail=me@host"),
    ],
)
def test_secrets_of_urls(url: str, wanted: str) -> None:
    assert masked(url) == wanted


def fail_with(source: str) -> None:
    raise RuntimeError(f"cannot read {source}")


def test_no_secret_in_what_is_shown_of_a_store(tmp_path: Path) -> None:
    folder = f"memory://me:hush@{uuid.uuid4().hex}"
    url = f"{folder}/sub-01_task-rest_bold.h5"
    with fs.NeuroVec.create(RUN, url, space=np.eye(4), tr=1.0) as image:
        plan = image.plan[0, 0, 0]
        seen = [repr(image), image._repr_html_(), repr(plan), str(plan), plan.explain()]
        seen += [json.dumps(about(image)), repr(image._handle.locator)]
    verified = fs.verify(url)
    copied = fs.transcode(url, tmp_path / "b.h5")
    virtual = fs.virtualize(url, tmp_path / "a.refs.json")
    for report in (verified, copied, virtual):
        seen += [repr(report), str(report), report._repr_html_(), json.dumps(report.to_json())]
    seen += [str(copied.plan), repr(copied.plan), json.dumps(copied.plan.to_json())]
    runs = fs.map_runs(fs.verify, [url], journal=tmp_path / "journal")
    assert runs[url].result.ok
    failed = fs.map_runs(fail_with, [url], storage_options={"token": "hush"})
    seen += [str(runs), (tmp_path / "journal").read_text(), str(failed), failed[url].traceback]
    seen += [repr(runs), repr(failed), json.dumps([runs.to_json(), failed.to_json()])]
    stores = fs.Collection(folder, storage_options={})
    seen += [repr(stores), repr(stores[0]), repr(stores.members)]
    seen += [repr(Member(url, stores[0].entry, None, {"token": "hush"}))]
    seen += [repr(Task(name="a", function=fs.verify, options={"token": "hush"}))]
    for text in seen:
        assert "hush" not in text
    assert "me:***@" in seen[0]


@pytest.mark.parametrize(
    "arguments", [["info"], ["verify"], ["plan", "[0]"], ["ls"], ["export", "{}.nii"]]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_in_what_commands_print(
    tmp_path: Path, arguments: list[str], *, as_json: bool
) -> None:
    url = f"memory://me:hush@{uuid.uuid4().hex}/a.h5"
    fs.NeuroVec.create(RUN, url, space=np.eye(4), tr=1.0).close()
    command, *rest = arguments
    call = [command, url, *(one.format(tmp_path / "b") for one in rest), "--trusted"]
    result = CliRunner().invoke(app, [*call, *["--json"] * as_json])
    assert result.exit_code == 0, result.output
    assert "a.h5" in result.output
    assert "hush" not in result.output + result.stderr


def test_no_secret_in_warnings(tmp_path: Path) -> None:
    url = f"memory://me:hush@{uuid.uuid4().hex}/a.nii"
    image = nibabel.Nifti1Image(RUN, np.eye(4))  # with a TR of 1 in an unknown unit
    fsspec.filesystem("memory").pipe_file(url, image.to_bytes())
    with pytest.warns(HeaderWarning, match=r"a\.nii") as noted:
        fs.convert(url, tmp_path / "b.h5").close()
    assert not [one for one in noted if "hush" in str(one.message)]


def test_no_secret_in_what_estimators_show() -> None:
    estimators = pytest.importorskip("fmristore.nilearn")
    for kind in (estimators.NiftiMasker, estimators.FirstLevelModel):
        made = kind(storage_options={"key": "hush", "secret": "hush"})
        seen = repr(made), made._repr_html_(), str(made._repr_mimebundle_())
        for text in seen:
            assert "hush" not in text
        assert "storage_options" in seen[0]  # older scikit-learn has no parameters in its HTML
        assert made.get_params()["storage_options"] == {"key": "hush", "secret": "hush"}
