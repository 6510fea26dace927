"""The reply cache on storage: part files, their merging, the index."""

import random
import threading
from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from uniner.storage.sealed_parquet import open_sealed
from uniner.storage.stage_folder import StageFolder, parquet
from uniner.teacher.completion import TeacherReply
from uniner.teacher.reply_cache import CachedReply, ReplyCache, request_key, requests_digest, server_address


def cached(number):
    reply = TeacherReply(
        text=f"reply {number}", finish_reason="stop", refusal="", tokens_in=10, tokens_out=1, attempts=1
    )
    return CachedReply.of(request_key({"n": number}), reply, "run")


def test_replies_are_found_in_parts_in_the_merged_file_and_through_the_index(root):
    scope = {"model": "m"}
    cache, replies = ReplyCache(StageFolder(root), scope), {cached(n).key: cached(n) for n in range(6)}
    keys = list(replies)
    digest = requests_digest(keys)
    assert cache.find(digest, keys) == {}
    cache.save(digest, [replies[key] for key in keys[:2]])
    cache.save(digest, [replies[key] for key in keys[2:4]])
    assert cache.find(digest, keys) == {key: replies[key] for key in keys[:4]}
    cache.merge_parts(digest)
    assert len(StageFolder(root).tree()) == 1, "one file replaces the parts"
    assert cache.find(digest, keys) == {key: replies[key] for key in keys[:4]}
    other = requests_digest(keys[3:])
    assert ReplyCache(StageFolder(root), scope).find(other, keys[3:]) == {}
    index = ReplyCache(StageFolder(root), scope).read_index("run")
    assert index.paid == (40, 4)
    assert ReplyCache(StageFolder(root), scope, index).find(other, keys[3:]) == {
        keys[3]: replace(replies[keys[3]], run="")
    }
    assert ReplyCache(StageFolder(root), scope).read_index("another").paid == (0, 0)
    assert ReplyCache(StageFolder(root), {"model": "n"}).find(digest, keys) == {}


def test_a_part_that_is_removed_while_it_is_read_is_found_in_the_merged_file(tmp_path, monkeypatch):
    cache, digest = (
        ReplyCache(StageFolder(str(tmp_path)), {}),
        requests_digest([cached(1).key, cached(2).key]),
    )
    cache.save(digest, [cached(1)])
    cache.save(digest, [cached(2)])
    read, merged = cache._read, threading.Event()

    def read_late(name, columns=None):
        if not merged.is_set():
            merged.set()
            ReplyCache(StageFolder(str(tmp_path)), {}).merge_parts(digest)
        return read(name, columns)

    monkeypatch.setattr(cache, "_read", read_late)
    assert len(cache.find(digest, [cached(1).key, cached(2).key])) == 2


def test_a_run_that_merges_late_keeps_what_another_has_merged_meanwhile(tmp_path, monkeypatch):
    """Two runs of one cache at the same chunk: neither overwrites the other's paid replies."""
    keys = [cached(n).key for n in range(4)]
    digest = requests_digest(keys)
    late, other = (ReplyCache(StageFolder(str(tmp_path)), {}) for _ in range(2))
    late.save(digest, [cached(0)])
    other.save(digest, [cached(1)])
    write = late._write

    def write_late(name, replies):
        other.save(digest, [cached(2), cached(3)])
        other.merge_parts(digest)
        write(name, replies)

    monkeypatch.setattr(late, "_write", write_late)
    late.merge_parts(digest)
    assert other.find(digest, keys).keys() == set(keys)
    assert other.read_index("run").paid == (40, 4)


def test_the_index_has_replies_that_are_merged_while_it_is_read(tmp_path, monkeypatch):
    cache, digest = ReplyCache(StageFolder(str(tmp_path)), {}), requests_digest([cached(1).key])
    for number in range(3):
        cache.save(digest, [cached(number)])
    read, merged = cache._read, threading.Event()

    def read_late(name, columns=None):
        table = read(name, columns)
        if not merged.is_set():
            merged.set()
            ReplyCache(StageFolder(str(tmp_path)), {}).merge_parts(digest)
        return table

    monkeypatch.setattr(cache, "_read", read_late)
    index = cache.read_index("run")
    assert (len(index.prefixes), index.paid) == (3, (30, 3))


def test_a_reply_that_two_actors_paid_for_counts_twice(tmp_path):
    cache = ReplyCache(StageFolder(str(tmp_path)), {})
    for others in (1, 2):
        cache.save(requests_digest([cached(0).key, cached(others).key]), [cached(0), cached(others)])
    assert ReplyCache(StageFolder(str(tmp_path)), {}).read_index("run").paid == (40, 4)


def test_a_scope_knows_its_server_and_the_replies_of_earlier_versions(root):
    """Earlier versions wrote unsealed files into the scope without an address."""
    request, replies = {"model": "m"}, {cached(n).key: cached(n) for n in range(4)}
    keys, folder = list(replies), StageFolder(root)
    digest = requests_digest(keys)
    earlier = folder / request_key(request) / digest[:2]
    table = pa.Table.from_pylist([asdict(reply) for reply in replies.values()])
    earlier.write(f"{digest}.parquet", parquet(table))
    for server in ("", "https://a/v1", "http://b:8000/v1"):
        cache = ReplyCache(folder, request, server=server)
        assert cache.find(digest, keys) == replies, "paid for before the change"
        index = cache.read_index("run")
        assert index.paid == (40, 4)
        other = requests_digest(keys[1:])
        found = ReplyCache(folder, request, index, server).find(other, keys[1:])
        assert found == {key: replace(replies[key], run="") for key in keys[1:]}
    new = cached(9)
    ReplyCache(folder, request, server="https://a/v1").save(requests_digest([new.key]), [new])
    assert ReplyCache(folder, request, server="https://a/v1").find(requests_digest([new.key]), [new.key])
    for server in ("", "http://b:8000/v1"):
        cache = ReplyCache(folder, request, server=server)
        assert cache.find(requests_digest([new.key]), [new.key]) == {}
        assert not cache.read_index().groups_of([new.key])
    parts = ReplyCache(folder, request, server="https://a/v1")
    parts.save(digest, [cached(0)])
    parts.save(digest, [cached(1)])
    parts.merge_parts(digest)
    assert earlier.exists(f"{digest}.parquet"), "another server's runs read it too"


@pytest.mark.parametrize(
    "url",
    [
        "https://Host.example/v1",
        "https://host.example:443/v1/",
        "HTTPS://user:secret@host.example/v1?api-version=1",
        "host.example/v1",
    ],
)
def test_an_address_has_no_credentials_and_one_spelling(url):
    expected = "http://host.example/v1" if "://" not in url else "https://host.example/v1"
    assert server_address(url) == expected
    assert server_address("http://h:8000/v1") != server_address("http://h:8001/v1")


def test_failed_tries_that_an_earlier_version_kept_are_asked_again(tmp_path):
    bad = [
        replace(cached(1), text=""),
        replace(cached(2), finish_reason="error"),
        replace(cached(3), text=" "),
    ]
    good = [
        cached(0),
        replace(cached(4), text="", refusal="no"),
        replace(cached(5), text="", finish_reason="length"),
    ]
    cache = ReplyCache(StageFolder(str(tmp_path)), {})
    digest = requests_digest([reply.key for reply in bad + good])
    cache.save(digest, bad + good)
    assert cache.find(digest, [reply.key for reply in bad + good]) == {reply.key: reply for reply in good}
    index = cache.read_index("run")
    assert index.paid == (60, 6), "they were paid for all the same"
    again = ReplyCache(StageFolder(str(tmp_path)), {}, index)
    assert again.find("0" * 32, [reply.key for reply in bad]) == {}
    cache.save(digest, [cached(1)])
    cache.merge_parts(digest)
    assert len(cache.find(digest, [reply.key for reply in bad + good])) == 4


@pytest.mark.parametrize("sealed", [True, False])
def test_a_broken_file_is_set_aside_with_its_name_and_its_requests_are_asked_again(sealed, root, caplog):
    replies, folder = [cached(n) for n in range(8)], StageFolder(root)
    keys = [reply.key for reply in replies]
    digest = requests_digest(keys)
    ReplyCache(folder, {}).save(digest, replies)
    (name,) = folder.tree()
    data = folder.read(name)
    if not sealed:
        folder.remove([name])
        name = f"{name.rsplit('/', 1)[0]}/{digest}.parquet"
        data = parquet(open_sealed(data))
    for broken in (data[:-20], data[: len(data) // 2], b"", b"PAR1" + b"\0" * 99 + b"PAR1"):
        folder.write(name, broken)
        caplog.clear()
        said = []
        cache = ReplyCache(folder, {})
        cache.warn = said.append
        assert cache.find(digest, keys) == {}
        assert len(said) == 1 and name in said[0] and f"{name.rsplit('/', 1)[-1]}.broken" in said[0]
        assert folder.tree() == [f"{name}.broken"]
        folder.write(name, broken)
        index = ReplyCache(folder, {}).read_index("run")
        assert (len(index.prefixes), index.paid) == (0, (0, 0))
        assert "is broken" in caplog.text
        cache.save(digest, replies[:2])
        assert len(cache.find(digest, keys)) == 2
        folder.remove(folder.tree())


def test_no_changed_bit_gives_other_replies(tmp_path):
    replies, folder = {cached(n).key: cached(n) for n in range(20)}, StageFolder(str(tmp_path))
    digest = requests_digest(replies)
    ReplyCache(folder, {}).save(digest, list(replies.values()))
    (name,) = folder.tree()
    data, chance = folder.read(name), random.Random(0)
    for bit in chance.sample(range(8 * len(data)), 300):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        folder.write(name, bytes(flipped))
        cache = ReplyCache(folder, {})
        cache.warn = lambda line: None
        found = cache.find(digest, replies)
        assert found in ({}, replies)
        folder.write(name, bytes(flipped))
        assert cache.read_index("run").paid in ((0, 0), (200, 20))
        folder.remove(folder.tree())
