"""Pictures of the page for the documentation: ``python -m tests.viewer.pictures docs/images``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import fmristore as fs
from fmristore.demo import make_dataset
from tests.browser import running_browser

_READY = """(async () => {
    await fmristore.ready;
    document.getElementById('chunks').click();
    await fmristore.page.change({ voxel: [11, 14, 12], step: 20 });
    await fmristore.page.showCarpet();
})()"""


def main() -> None:
    """Draw the page of a made-up run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as work, running_browser() as browser:
        run = make_dataset(Path(work))
        fs.convert(run, f"{work}/bold.h5").close()
        with fs.view(f"{work}/bold.h5", open_browser=False) as page:
            browser.show_as(1100, 1050)
            browser.open(page.url)
            browser.run(_READY)
            browser.run("document.querySelector('#facts dd').textContent = 'bold.h5'")
            browser.picture(Path(work) / "view.png")
        with Image.open(f"{work}/view.png") as picture:
            picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(
                folder / "view.png", optimize=True
            )


if __name__ == "__main__":
    main()
