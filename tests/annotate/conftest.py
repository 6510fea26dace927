"""Fixtures that tests of the annotate stage share."""

import pytest


@pytest.fixture
def annotate_config(tmp_path, base):
    """The config file of a run `a` that only annotates."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
        "[teacher]\nin_flight = 6\n[annotate]\nmax_reply_tokens = 30\n"
    )
    return path
