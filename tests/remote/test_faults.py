"""Servers that fail: a read gives the right numbers or an error of ours, never wrong numbers."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    AccessDeniedError,
    CorruptDataError,
    FmristoreError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.io import clients
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec
from tests.campaigns import operations
from tests.remote.small_stores import AFFINE, FORMATS, KINDS
from tests.servers.fixtures import make_place
from tests.servers.places import Place
from tests.servers.proxy import Proxy, Rule, run_proxy
from tests.servers.stores import azure_connection

QUICK = {"config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 60}}
AT_ONCE = {"config_kwargs": {"retries": {"total_max_attempts": 1}, "read_timeout": 60}}
"""Options of s3fs that give up soon."""

DATA = np.random.default_rng(0).integers(-(2**15), 2**15, (24, 22, 20, 64)).astype("i2")
"""More than is read when a file is opened."""

# A warning of aiohttp to the clients of Azure and Google, which Python shows to nobody by default.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
    pytest.mark.once,
]

EVERY = 1_000_000
DATA_READ = r"GET .*(bytes=[1-9]|/0/c/)"
"""Requests for values: a range that does not begin at 0, or a chunk of an image in Zarr."""


def through(place: Place, proxy: Proxy, patience: Mapping[str, Any] = QUICK) -> Place:
    """The same place, reached through a proxy."""
    there = f"http://127.0.0.1:{place.port}"
    options = dict(place.options)
    if "connection_string" in options:
        options["connection_string"] = azure_connection(proxy.port)
    elif "endpoint_url" in options:
        options["endpoint_url"] = proxy.url
    if place.url.startswith("s3:"):
        options |= patience
    return replace(place, url=place.url.replace(there, proxy.url), options=options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def proxies() -> Iterator[Callable[[Place], Proxy]]:
    """A proxy for each server, made when it is first asked for."""
    made: dict[int, Any] = {}

    def find(place: Place) -> Proxy:
        if place.port not in made:
            manager = run_proxy(place.port)
            made[place.port] = (manager, manager.__enter__())
        proxy: Proxy = made[place.port][1]
        proxy.clear()
        return proxy

    yield find
    for manager, _ in made.values():
        manager.__exit__(None, None, None)


@pytest.fixture(scope="module")
def stored(request: pytest.FixtureRequest, folder: Path) -> Callable[[str], Place]:
    """A place on a server with an image in either kind of store, which the tests only read."""
    made: dict[str, Place] = {}

    def find(server: str) -> Place:
        if server not in made:
            place = made[server] = make_place(server, request, folder)
            for kind in KINDS:
                fs.NeuroVec.create(
                    DATA,
                    place.source(f"a.{kind}"),
                    space=AFFINE,
                    access="volume",
                    codec="dual",
                    storage_options=place.source_options,
                ).close()
        return made[server]

    return find


def outcome(place: Place, kind: str) -> str:
    """Read an image: "right", or the class of the error; wrong numbers fail the test."""
    try:
        with fs.open(place / f"a.{kind}", storage_options=place.options) as image:
            np.testing.assert_array_equal(image[..., 40], DATA[..., 40])
            np.testing.assert_array_equal(image[20, 18, 17], DATA[20, 18, 17])
    except FmristoreError as error:
        return type(error).__name__
    return "right"


Fixtures = tuple[Callable[[str], Place], Callable[[Place], Proxy]]


@pytest.fixture
def fixtures(stored: Any, proxies: Any, monkeypatch: pytest.MonkeyPatch) -> Fixtures:
    monkeypatch.setattr(clients, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(clients.Patience, "gone_until", {})
    return stored, proxies


def read_with(fixtures: Fixtures, server: str, kind: str, rule: Rule) -> str:
    """What comes of reading an image through a proxy with one rule, which must have been used."""
    stored, proxies = fixtures
    place = stored(server)
    proxy = proxies(place)
    kept = replace(rule)  # for the proxy counts in it
    proxy.rules.append(kept)
    found = outcome(through(place, proxy, AT_ONCE if rule.times == EVERY else QUICK), kind)
    assert proxy.faults
    return found


# Failures that pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", ["moto", "http"])
@pytest.mark.parametrize(
    ("do", "argument", "times"),
    [
        ("reset", 0, 1),
        ("cut", 100, 1),
        ("truncate", 100, 1),
        ("status", 503, 1),
        ("status", 429, 1),
        ("status", 500, 1),
    ],
)
def test_failures_that_pass_are_overcome(
    fixtures: Fixtures, server: str, kind: str, do: Any, argument: int, times: int
) -> None:
    rule = Rule(DATA_READ, do, argument, times)
    assert read_with(fixtures, server, kind, rule) == "right"


@pytest.mark.parametrize("kind", KINDS)
def test_google_is_asked_again(fixtures: Fixtures, kind: str) -> None:
    assert read_with(fixtures, "gcs", kind, Rule("GET .*alt=media", "status", 503, 1)) == "right"


@pytest.mark.parametrize("server", ["moto", "http"])
def test_latency_changes_nothing(fixtures: Fixtures, server: str) -> None:
    stored, proxies = fixtures
    place = stored(server)
    proxy = proxies(place)
    proxy.latency = 0.03
    assert outcome(through(place, proxy), "h5") == "right"


# Failures that stay ------------------------------------------------------------------------------

DAMAGED = ("CorruptDataError", "StorageError")
FAILED = ("StorageError",)
DENIED = ("AccessDeniedError",)
GONE = ("NotFoundError", "CorruptDataError")
STAYING: list[tuple[Any, int, tuple[str, ...]]] = [
    ("reset", 0, FAILED),
    ("cut", 100, DAMAGED),
    ("truncate", 100, DAMAGED),
    ("shorten", 100, DAMAGED),
    ("status", 503, FAILED),
    ("status", 429, FAILED),
    ("status", 403, DENIED),
    ("status", 401, DENIED),
    ("status", 404, GONE),
    ("norange", 0, ("CorruptDataError", "MetadataError")),
    ("wrongrange", 7, ("CorruptDataError", "MetadataError")),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", ["moto", "http"])
@pytest.mark.parametrize(("do", "argument", "expected"), STAYING)
def test_failures_that_stay_are_reported(
    fixtures: Fixtures, server: str, kind: str, do: Any, argument: int, expected: tuple[str, ...]
) -> None:
    rule = Rule(DATA_READ, do, argument)
    assert read_with(fixtures, server, kind, rule) in expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("server", "do", "argument", "expected"),
    [
        ("gcs", "status", 403, DENIED),
        ("gcs", "status", 404, GONE),
        ("gcs", "norange", 0, DAMAGED),
        ("gcs", "shorten", 10, DAMAGED),
        ("azure", "status", 403, DENIED),
        ("azure", "status", 404, GONE),
        ("azure", "shorten", 10, DAMAGED),
        ("rclone", "status", 403, DENIED),
        ("rclone", "status", 404, GONE),
    ],
)
def test_failures_of_other_services(
    fixtures: Fixtures, server: str, kind: str, do: Any, argument: int, expected: tuple[str, ...]
) -> None:
    pattern = r"GET .*(/0/c/|%2F0%2Fc%2F|a\.h5.* bytes=[1-9])"
    assert read_with(fixtures, server, kind, Rule(pattern, do, argument)) in expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", ["moto", "http"])
def test_a_server_that_says_nothing_at_all(fixtures: Fixtures, server: str, kind: str) -> None:
    stored, proxies = fixtures
    place = stored(server)
    proxy = proxies(place)
    proxy.rules.append(Rule("", "status", 503))
    there = through(place, proxy, AT_ONCE)
    assert outcome(there, kind) == "StorageError"
    if place.folder is None:
        with pytest.raises(StorageError):
            fs.NeuroVec.create(
                DATA, there / f"b.{kind}", space=AFFINE, storage_options=there.options
            )


def test_a_server_that_keeps_silent(fixtures: Fixtures) -> None:
    stored, proxies = fixtures
    import aiohttp

    place = stored("http")
    proxy = proxies(place)
    proxy.rules.append(Rule("bytes=[1-9]", "stall", 2))
    patience = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.3)}}
    there = replace(through(place, proxy), options=patience)
    assert outcome(there, "h5") == "StorageError"


@pytest.mark.parametrize(
    ("do", "argument", "options"),
    [
        ("reset", 0, {}),
        (
            "stall",
            2,
            {"config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 0.5}},
        ),
    ],
)
def test_a_server_that_is_gone_is_not_asked_for_ever(
    fixtures: Fixtures, monkeypatch: pytest.MonkeyPatch, do: Any, argument: int, options: Any
) -> None:
    """One request is repeated as often as was configured; those after it are made once."""
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0)
    stored, proxies = fixtures
    place = stored("moto")
    url = place / f"{do}.zarr"
    operations.FORMATS["parcellatedmultiscan"].make(
        url, operations.RUN, storage_options=place.options
    ).close()
    proxy = proxies(place)
    there = through(place, proxy, options)
    proxy.rules.append(Rule("", do, argument, after=12))
    with pytest.raises(StorageError), fs.open(url, storage_options=there.options) as found:
        found.add_scan("late", operations.RUN[..., :8], statistic="mean", tr=1.0)
    attempts = 2 if options else 5
    # aiohttp asks once more over a connection that was used before; a few requests follow.
    assert proxy.faults <= 2 * (attempts + 3)


def test_a_silent_web_server_is_not_waited_for_for_ever() -> None:
    import aiohttp

    web = clients.web_class()
    timeout = web(skip_instance_cache=True).client_kwargs["timeout"]
    assert 0 < timeout.sock_connect <= timeout.sock_read <= 60
    given = {"timeout": aiohttp.ClientTimeout(total=7)}
    assert web(client_kwargs=given, skip_instance_cache=True).client_kwargs == given


# Chunks that are missing -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_no_chunk_may_be_missing(name: str) -> None:
    """Each object below each array in turn is removed: what is read is right, or an error."""
    make, check_format = FORMATS[name]
    url = f"memory://{uuid.uuid4().hex}/a.zarr"
    memory = fsspec.filesystem("memory")
    make(url).close()
    with fs.open(url) as opened:
        check_format(opened)
    errors = 0
    for path in [path for path in memory.find(url) if not path.endswith("zarr.json")]:
        data = memory.cat_file(path)
        memory.rm_file(path)
        try:
            with fs.open(url) as opened:
                check_format(opened)
        except CorruptDataError:
            errors += 1
        finally:
            memory.pipe_file(path, data)
    assert errors


@pytest.mark.parametrize("name", FORMATS)
def test_a_404_is_no_fill_value(
    request: pytest.FixtureRequest, proxies: Callable[[Place], Proxy], name: str, tmp_path: Path
) -> None:
    """The same with objects that are listed, but not found when they are asked for."""
    make, check_format = FORMATS[name]
    place = make_place("http", request, tmp_path)
    make(place.source("a.zarr")).close()
    proxy = proxies(place)
    there = through(place, proxy)
    files = Path(place.source("a.zarr")).rglob("*")
    names = [str(p.relative_to(place.source("a.zarr"))) for p in files if p.is_file()]
    errors = 0
    for part in [part for part in names if not part.endswith("zarr.json")]:
        proxy.rules[:] = [Rule(f"GET .*/a.zarr/{part} ", "status", 404)]
        try:
            with fs.open(there / "a.zarr") as opened:
                check_format(opened)
        except (CorruptDataError, NotFoundError):
            errors += 1
    assert errors


# Flipped bits ------------------------------------------------------------------------------------

NUMBERS = np.arange(2**19, dtype="i4").reshape(1024, 512)


@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize("checked", [True, False])
def test_flipped_bits(
    request: pytest.FixtureRequest,
    proxies: Callable[[Place], Proxy],
    kind: str,
    checked: bool,
    tmp_path: Path,
) -> None:
    """A checksum finds them; without one nothing can, as the documentation says."""
    checksum = CodecSpec.of("fletcher32" if kind == "h5" else "crc32c")
    spec = ArraySpec(
        shape=NUMBERS.shape,
        dtype=NUMBERS.dtype,
        layout=ChunkLayout(chunks=(256, 256)),
        codecs=(checksum,) if checked else (),
    )
    place = make_place("http", request, tmp_path)
    with create_store(place.source(f"a.{kind}")) as store:
        store.root.create_array("0", spec).write(None, NUMBERS)
    proxy = proxies(place)
    url = through(place, proxy) / f"a.{kind}"
    with open_store(url) as store:
        array = store.root.array("0")
        np.testing.assert_array_equal(ChunkReader(array).read(), NUMBERS)
    for spot in (0, 1001, 262143):
        with open_store(url) as store:
            array = store.root.array("0")
            proxy.rules[:] = [Rule(r"GET .*(/0/c/|bytes=[1-9])", "corrupt", spot)]
            if checked:
                with pytest.raises(CorruptDataError):
                    ChunkReader(array).read()
            else:
                assert (ChunkReader(array).read() != NUMBERS).any()
            proxy.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_of_compressed_chunks_end_in_numbers_or_an_error(
    fixtures: Fixtures, kind: str
) -> None:
    stored, proxies = fixtures
    place = stored("http")
    proxy = proxies(place)
    there = through(place, proxy)
    for spot in range(0, 64, 5):
        proxy.rules[:] = [Rule(DATA_READ, "corrupt", spot)]
        try:
            with fs.open(there / f"a.{kind}", storage_options=there.options) as image:
                assert image[3, 4, 5].shape == (DATA.shape[3],)
        except FmristoreError:
            pass
        assert proxy.faults


# Web servers that are not as they should be ------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mood", ["no ranges", "gzip", "secret"])
def test_web_servers_in_every_mood(
    stored: Callable[[str], Place], nginx: Any, kind: str, mood: str
) -> None:
    place = stored("http")
    port = nginx["ports"][mood]
    there = replace(place, url=place.url.replace(str(place.port), str(port)))
    expected = {"no ranges": "CorruptDataError", "gzip": "right", "secret": "AccessDeniedError"}
    assert outcome(there, kind) == expected[mood]


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_server_without_ranges_and_lists_nothing(
    stored: Callable[[str], Place], plain_web: tuple[int, Path], kind: str
) -> None:
    port, shown = plain_web
    source = Path(stored("http").source(f"a.{kind}"))
    copy = shutil.copytree if source.is_dir() else shutil.copyfile
    copy(source, shown / f"a.{kind}")
    place = Place(f"http://127.0.0.1:{port}")
    assert outcome(place, kind) == "CorruptDataError"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_helps_where_there_are_no_ranges(
    stored: Callable[[str], Place], nginx: Any, kind: str, tmp_path: Path
) -> None:
    place = stored("http")
    url = place.url.replace(str(place.port), str(nginx["ports"]["no ranges"]))
    options = {"simplecache": {"cache_storage": str(tmp_path)}}
    assert outcome(Place(f"simplecache::{url}", options), kind) == "right"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", ["moto", "azure"])
def test_writing_without_permission(fixtures: Fixtures, server: str, kind: str) -> None:
    stored, proxies = fixtures
    place = stored(server)
    proxy = proxies(place)
    proxy.rules.append(Rule("^PUT", "status", 403))
    there = through(place, proxy)
    with pytest.raises(AccessDeniedError):
        fs.NeuroVec.create(DATA, there / f"b.{kind}", space=AFFINE, storage_options=there.options)
    proxy.clear()
    filesystem, path = fsspec.core.url_to_fs(there.url, **there.options)
    filesystem.invalidate_cache()
    assert not filesystem.exists(f"{path}/b.{kind}")
