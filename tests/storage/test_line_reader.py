"""Lines: the same from every compression, broken files named, memory bounded whatever a line's length."""

import gzip
import subprocess
import sys

import pytest
import zstandard

from uniner.errors import UserError
from uniner.storage import decompression
from uniner.storage.line_reader import read_lines, read_text_lines

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
LINES = [f'{{"text": "{number * 7919 % 10007}"}}'.encode() for number in range(20_000)]


@pytest.fixture(params=list(COMPRESS))
def suffix(request):
    return request.param


def test_many_frames_read_as_one_file(tmp_path, suffix):
    path = tmp_path / f"0.jsonl{suffix}"
    frames = [b"\n".join(LINES[:9_000]) + b"\n", b"\n".join(LINES[9_000:])]
    path.write_bytes(b"".join(map(COMPRESS[suffix], frames)))
    found = list(read_lines(str(path)))
    assert [line.data for line in found] == LINES
    assert [line.number for line in found] == list(range(len(LINES)))
    assert found[-1].bytes_read == path.stat().st_size
    assert found[-1].offset == len(b"\n".join(LINES))


def test_lines_longer_than_a_block_are_whole(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(decompression, "_BLOCK_BYTES", 7)
    path = tmp_path / f"0.jsonl{suffix}"
    content = [b"a" * 30, b"", b"b", b"c" * 7, b"", b"d" * 6, b"e" * 29]
    path.write_bytes(COMPRESS[suffix](b"\n".join(content)))
    assert [line.data for line in read_lines(str(path))] == content
    long = [line.number for line in read_lines(str(path), longest=29) if line.data is None]
    assert long == [0]
    assert [line.data for line in read_lines(str(path), longest=29)][1:] == content[1:]


@pytest.mark.parametrize("broken", [".gz", ".zst"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_named(tmp_path, broken, keep):
    path = tmp_path / f"0.jsonl{broken}"
    data = COMPRESS[broken](b"\n".join(LINES))
    path.write_bytes(data[: int(len(data) * keep)])
    error = rf"0\.jsonl\{broken}: broken or truncated \w+ after line \d+; download"
    with pytest.raises(UserError, match=error):
        list(read_lines(str(path)))


@pytest.mark.parametrize("broken", [".gz", ".zst"])
def test_a_corrupt_file_or_one_of_another_kind_is_named(tmp_path, broken):
    path = tmp_path / f"0.jsonl{broken}"
    data = bytearray(COMPRESS[broken](b"\n".join(LINES)))
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match="broken or truncated"):
        list(read_lines(str(path)))
    path.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(UserError, match=r"broken or truncated \w+ after line 0"):
        list(read_lines(str(path)))


def zstd(data: bytes, window_log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


def test_a_zstd_window_is_read_up_to_128_mib_and_named_above(tmp_path):
    path = tmp_path / "0.jsonl.zst"
    path.write_bytes(zstd(b"first\n", 27))
    assert [line.data for line in read_lines(str(path))] == [b"first"]
    # Only the header's window descriptor, its sixth byte, asks for more memory.
    for window_log, size in ((28, "256 MiB"), (31, "2,048 MiB")):
        frame = bytearray(zstd(b"first\n", 27))
        frame[5] = (window_log - 10) << 3
        path.write_bytes(frame)
        again = rf"compress it again: `zstd -dc --long={window_log} 0\.jsonl\.zst"
        with pytest.raises(UserError, match=rf"with a zstd window of {size}, at most 128 MiB .*; {again}"):
            list(read_lines(str(path)))
        setting = "ingest.zstd_window_mib"
        named = rf"window of {size}, {setting} = 128; set {setting}={2**window_log >> 20} "
        with pytest.raises(UserError, match=f"{named}.*{again}"):
            list(read_lines(str(path), window_mib=128))
        found = read_lines(str(path), window_mib=2**window_log >> 20)
        assert [line.data for line in found] == [b"first"]
    with pytest.raises(UserError, match=r"zstd window of 2,048 MiB, ingest.zstd_window_mib = 2047"):
        list(read_lines(str(path), window_mib=2047))
    path.write_bytes(zstd(b"first\n", 20) + frame)
    with pytest.raises(UserError, match=r"with a zstd window over 128 MiB, .* --long=31 "):
        list(read_lines(str(path)))


def test_a_file_with_a_large_window_is_read_as_any_other(tmp_path):
    path = tmp_path / "0.jsonl.zst"
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    frames = [zstd(b"\n".join(LINES[:9_000]) + b"\n", 28), skipped, zstd(b"", 28), zstd(LINES[9_000], 20)]
    data = b"".join(frames)
    path.write_bytes(data)
    for window in (None, 128, 256):
        if window == 256:
            found = list(read_lines(str(path), window_mib=window))
            assert [line.data for line in found] == LINES[:9_001]
            assert found[-1].bytes_read == len(data)
        else:
            with pytest.raises(UserError, match="zstd window of 256 MiB"):
                list(read_lines(str(path), window_mib=window))
    for broken in (data[:-1], data[: len(data) // 2], data + b"more", b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="broken or truncated zstd after line"):
            list(read_lines(str(path), window_mib=256))


def test_zeros_after_a_gzip_member_are_padding_and_other_bytes_are_not(tmp_path):
    path = tmp_path / "0.jsonl.gz"
    member = gzip.compress(b"first\n")
    for padding in (b"\0", b"\0" * 1_000_000):
        path.write_bytes(member + padding + gzip.compress(b"") + member + padding)
        assert [line.data for line in read_lines(str(path))] == [b"first", b"first"]
    for tail in (b"garbage", b"\n", b"\0\0x", member[:-1], member[:1]):
        path.write_bytes(member + tail)
        found = read_lines(str(path))
        assert next(found).data == b"first", "what lies before the damage is read"
        with pytest.raises(
            UserError, match=f"broken or truncated gzip after line {2 if len(tail) > 9 else 1}"
        ):
            list(found)


def test_a_gzip_block_is_bounded_whatever_it_expands_to(tmp_path):
    path = tmp_path / "0.txt.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    blocks = [block for block, _ in decompression.read_blocks(str(path))]
    assert max(map(len, blocks)) <= 1 << 20
    assert sum(map(len, blocks)) == 50_000_000


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_valid_archive_may_be_empty_and_a_part_of_it_is_not(tmp_path, suffix):
    path = tmp_path / f"0.jsonl{suffix}"
    data = COMPRESS[suffix](b"")
    path.write_bytes(data)
    assert list(read_lines(str(path))) == []
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="broken or truncated"):
            list(read_lines(str(path)))


def test_a_plain_file_may_be_empty(tmp_path):
    (tmp_path / "0.jsonl").touch()
    assert list(read_lines(str(tmp_path / "0.jsonl"))) == []


def test_a_line_of_200_mb_is_passed_over_without_being_held(tmp_path):
    path = tmp_path / "0.jsonl.zst"
    path.write_bytes(b"".join(map(zstandard.compress, (b"first\n", *[b"x" * 10_000_000] * 20, b"\nlast\n"))))
    code = (
        "import resource, sys; from uniner.storage.line_reader import read_lines\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "list(read_lines(sys.argv[1], longest=3))\n"  # warm: the block's buffers
        "before = peak()\n"
        "print([line.data for line in read_lines(sys.argv[1], longest=20_000_000)], peak() - before)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    data, kilobytes = found.stdout.rsplit(" ", 1)
    assert data == "[b'first', None, b'last']"
    assert int(kilobytes) < 60_000


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_lines_end_in_any_of_three_ways_and_keep_their_numbers(tmp_path, end):
    (tmp_path / "types.txt").write_bytes(end.join(["person", "", "city"]).encode("utf-8-sig"))
    assert list(read_text_lines(str(tmp_path / "types.txt"))) == [(1, "person"), (2, ""), (3, "city")]
