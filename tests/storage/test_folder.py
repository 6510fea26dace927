"""Folders: a file is whole or missing, whatever happens to its writer."""

import subprocess
import sys

from uniner.storage.folder import Folder


def test_a_writer_killed_in_the_middle_leaves_no_partial_file(tmp_path, wait_until):
    """SIGKILL while a big file is written again and again: a file under its final name is whole."""
    code = (
        "import sys; from uniner.storage.folder import Folder\n"
        "folder = Folder(sys.argv[1])\n"
        "while True: folder.write('file', b'x' * 30_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")])
    wait_until(lambda: writer.poll() is not None or list((tmp_path / "f").glob(".*.tmp")), 60)
    assert writer.poll() is None, "the writer ended by itself"
    writer.kill()
    writer.wait()
    folder = Folder(str(tmp_path / "f"))
    assert folder.sizes().get("file", 30_000_000) == 30_000_000
    folder.remove_leftovers()
    assert not list((tmp_path / "f").glob(".*.tmp"))
