"""The documentation builds strictly, says every setting, and quotes messages that exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uniner.config.reference import markdown, sections

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a broken link or a page outside the menu ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_pages_need_no_other_server(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        links = re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]*>', text)
        assert not [link for link in links if 'href="http' in link or 'href="//' in link], page


def test_every_setting_is_on_the_page_of_settings(site):
    page = (site / "settings.html").read_text(encoding="utf-8")
    for section, model in sections().items():
        assert f"[{section}]" in page
        for key in model.model_fields:
            assert key == "kind" or f"<code>{key}</code>" in page, f"{section}.{key}"


def test_marks_in_a_setting_s_text_are_text():
    table = markdown("ingest")
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows), "four cells a row"
    assert "<" not in table


def test_every_page_of_settings_in_the_docs_is_of_a_section():
    pages = " ".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    named = re.findall(r"<!-- settings: (\S+) -->", pages)
    assert {"ingest", "annotate", "build", "train", "encoder", "evaluate", "tag", "all"} <= set(named)


def test_quoted_errors_are_messages_of_the_code():
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "uniner").rglob("*.py"))
    joined = re.sub(r'"\s*(?:#.*)?\n?\s*f?"', "", code)  # a message over several lines
    assert len(quoted) > 20
    for message in quoted:
        assert message in joined or re.search(rf"\b{message} = ", joined) or f'"{message}"' in joined, message
