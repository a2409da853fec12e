"""Many runs on a cluster of dask, here two processes of this machine; and one store by all of them.

pip install "fmristore[dask]"
"""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import fmristore as fs
from fmristore.demo import make_dataset


def main() -> None:
    """Work in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        run = make_dataset(Path(name) / "bids", shape=(16, 18, 12, 40))
        sources = [*[run] * 4, Path(name, "missing.nii.gz")]
        urls = [f"{name}/{stem}.h5" for stem in ("run-0", "run-1", "run-2", "run-3", "missing")]
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=name
        )
        with cluster, Client(cluster) as client:
            report = fs.convert(sources, urls, executor=client, journal=f"{name}/journal.jsonl")
            print(str(report).replace(name, "..."))
            again = fs.convert(sources, urls, executor=client, journal=f"{name}/journal.jsonl")
            print(str(again).splitlines()[0])

            # One store by all of them: each worker writes whole shards, and it appears at once.
            place, affine = f"{name}/one.ome.zarr", np.eye(4)
            with fs.reserve(place, shape=(16, 18, 12, 40), dtype="f4", space=affine) as new:
                new.fill(f"{name}/run-0.h5", executor=client)
                with new.publish(executor=client) as one, fs.open(f"{name}/run-0.h5") as first:
                    print("one store by many: equal", np.array_equal(one[...], first[...]))
        print("bytes that came back from each:", [len(pickle.dumps(one)) for one in report])


if __name__ == "__main__":
    main()
