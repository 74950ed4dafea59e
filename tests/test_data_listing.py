"""A folder's listing as arrays, and the headers that are not read twice."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from tombola.data import kept
from tombola.data.config import DataSpec
from tombola.data.images import ImageFileReader
from tombola.data.listing import Samples, joined
from tombola.data.registry import load_data
from tombola.errors import TombolaError

NAMES = [b"train/ant/1.png", b"train/ant/\xff\xfe.png", "train/bee/ß.png".encode(), b"x"]
SAMPLES = Samples.of("/data/", NAMES, [0, 0, 1, 2])


def test_a_listing_is_a_sequence_of_paths_and_labels() -> None:
    paths = [f"/data/{name.decode('utf-8', 'surrogateescape')}" for name in NAMES]
    pairs = list(zip(paths, [0, 0, 1, 2], strict=True))
    assert list(SAMPLES) == pairs == [SAMPLES[i] for i in range(4)]
    assert (len(SAMPLES), SAMPLES[-1], list(SAMPLES[1:3])) == (4, pairs[-1], pairs[1:3])
    assert list(SAMPLES.take([3, 0, 0])) == [pairs[3], pairs[0], pairs[0]]
    assert list(joined([SAMPLES.take([3]), SAMPLES.take([]), SAMPLES])) == [pairs[3], *pairs]
    assert list(pickle.loads(pickle.dumps(SAMPLES))) == pairs  # as it goes to workers that are not forked
    assert list(joined([SAMPLES.take([])])) == []
    with pytest.raises(IndexError):
        SAMPLES[4]


def test_known_are_files_as_they_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    about = np.array([[7, 10, 1, 1], [3, 10, 1, 1], [9, 10, 1, 1]], np.uint64)
    values = np.arange(96, dtype=np.uint8).reshape(3, 32)
    kept.Kept("a").add(about[:2], values[:2])
    kept.Kept("a").add(about[2:], values[2:])
    found, known = kept.Kept("a").find(about)
    assert known.all()
    assert (found == values).all()
    for column in range(4):
        other = about.copy()
        other[1, column] += 1
        assert kept.Kept("a").find(other)[1].tolist() == [True, False, True]
    assert not kept.Kept("b").find(about)[1].any()
    kept.Kept("a").add(other[1:2], values[:1])  # written again: the older row goes
    assert kept.Kept("a").find(about)[1].tolist() == [True, False, True]
    assert (kept.Kept("a").find(other[1:2])[0] == values[:1]).all()
    future = np.array([[8, 10, 2**63, 1]], np.uint64)
    kept.Kept("a").add(future, values[:1])
    assert not kept.Kept("a").find(future)[1].any()


def test_nothing_is_kept_where_the_user_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def no_account(number: int) -> NoReturn:
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    about = np.array([[7, 10, 1, 1]], np.uint64)
    kept.Kept("a").add(about, np.zeros((1, 32), np.uint8))
    assert not kept.Kept("a").find(about)[1].any()


def test_rows_go_that_nobody_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    today = kept._today()
    about = np.array([[7, 10, 1, 1], [3, 10, 1, 1], [9, 10, 1, 1]], np.uint64)
    values = np.arange(96, dtype=np.uint8).reshape(3, 32)

    def on(day: int) -> kept.Kept:
        monkeypatch.setattr(kept, "_today", lambda: day)
        return kept.Kept("a")

    on(today - 200).add(about[:2], values[:2])
    assert on(today - 100).find(about[:1])[1].all()
    on(today - 19).add(about[2:], values[2:])  # 181 days after the second was asked for
    found, known = on(today).find(about)
    assert known.tolist() == [True, False, True]
    assert (found[known] == values[known]).all()
    (file,) = (tmp_path / "tombola" / "files").iterdir()
    assert file.stat().st_size == 32 + 2 * 68


def test_the_cache_s_files_go_that_nobody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    about, values = np.array([[7, 10, 1, 1]], np.uint64), np.zeros((1, 32), np.uint8)
    for name, days in (("gone", 182), ("used", 170)):
        before = set(tmp_path.rglob("*.kept"))
        kept.Kept(name).add(about, values)
        (file,) = set(tmp_path.rglob("*.kept")) - before
        os.utime(file, (time.time() - days * 86400,) * 2)
    kept.Kept("new").add(about, values)
    assert [bool(kept.Kept(name).find(about)[1].all()) for name in ("gone", "used", "new")] == [False, True, True]
    assert len(list(tmp_path.rglob("*.kept"))) == 2


def test_two_processes_that_keep_at_once_lose_rows_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    about = np.array([[7, 10, 1, 1], [3, 10, 1, 1]], np.uint64)
    values = np.arange(64, dtype=np.uint8).reshape(2, 32)
    one, other = kept.Kept("a"), kept.Kept("a")
    one.add(about[:1], values[:1])
    for file in tmp_path.rglob("*.kept"):
        file.unlink()  # as a third one might
    other.add(about[1:], values[1:])
    found, known = kept.Kept("a").find(about)
    assert known.tolist() == [False, True]
    assert (found[1] == values[1]).all()


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "_SETTLED", -60.0)
    for index in range(12):
        file = tmp_path / "set" / "train" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(file)
    checked: list[str] = []
    check = ImageFileReader.check
    monkeypatch.setattr(ImageFileReader, "check", lambda self, path: (checked.append(path), check(self, path)))
    spec = DataSpec("folder", root=str(tmp_path / "set"), in_memory_limit=0.0)
    load_data(spec)
    assert len(checked) == 12
    load_data(spec)
    assert len(checked) == 12
    load_data(DataSpec("folder", root=spec.root, in_memory_limit=0.0, image_size=3))
    assert len(checked) == 24  # other demands
    Image.new("RGB", (5, 4)).save(file)
    with pytest.raises(TombolaError, match=r"images differ in size: .*11\.png is 4x5 and others 4x4"):
        load_data(spec)
    file.write_bytes(b"")
    with pytest.raises(TombolaError, match=r"^cannot read image .*11\.png .*; replace or remove it$"):
        load_data(spec)
