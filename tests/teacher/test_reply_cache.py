"""The reply cache on storage: part files, their merging, the index."""

import threading
from dataclasses import replace

from uniner.storage.stage_folder import StageFolder
from uniner.teacher.completion import TeacherReply
from uniner.teacher.reply_cache import CachedReply, ReplyCache, request_key, requests_digest


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


def test_a_reply_that_two_actors_paid_for_counts_twice(tmp_path):
    cache = ReplyCache(StageFolder(str(tmp_path)), {})
    for others in (1, 2):
        cache.save(requests_digest([cached(0).key, cached(others).key]), [cached(0), cached(others)])
    assert ReplyCache(StageFolder(str(tmp_path)), {}).read_index("run").paid == (40, 4)
