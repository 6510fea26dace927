"""The review form in Chromium, from a file: marking, retyping, removing, undo, keys, and what it saves."""

import html
import json
import re
import shutil
import subprocess

import pytest

from uniner.review import form
from uniner.review.read_back import ReadBack, ReviewFormat, read_reviews
from uniner.review.tasks import ReviewTask, TaskEntity

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = '</script><img src=x onerror="document.title=1">'
TEXT = f"\U0001f600 Ann met Bo\r\nand \U0001f468\u200d\U0001f469\u200d\U0001f467 {HOSTILE} in Rome"
DRIVER = """
const errors = [];
addEventListener("error", event => errors.push(String(event.message)));
const press = key =>
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const tick = () => new Promise(done => setTimeout(done, 20));
// Selects a piece of the shown text as a mouse does, over the marks inside it.
async function mark(from, to) {
  const nodes = document.createTreeWalker(element("text"), NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let place = 0, node;
  while ((node = nodes.nextNode())) {
    const end = place + node.data.length;
    if (from >= place && from < end) range.setStart(node, from - place);
    if (to > place && to <= end) range.setEnd(node, to - place);
    place = end;
  }
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  await tick();
}
(async () => {
  STEPS
  const out = document.createElement("pre");
  out.id = "out";
  out.textContent = JSON.stringify({ saved: savedFile(), errors, shown: element("text").textContent,
    images: document.images.length, state: element("state").textContent,
    done: element("count").textContent });
  document.body.append(out);
})();
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


def task(number, *mentions):
    places = [(TEXT.index(text), text, name) for text, name in mentions]
    found = [
        TaskEntity(start=start, end=start + len(text), text=text, type=name, score=0.5)
        for start, text, name in places
    ]
    return ReviewTask(
        passage_id=f"p{number}", doc_id="d", source="web", text=TEXT, part="unsure", entities=tuple(found)
    )


TASKS = [task(1, ("Ann", "person"), ("Rome", "person")), task(2), task(3)]


@pytest.fixture
def drive(tmp_path):
    """Return a function that opens the form from disk, takes steps, and returns what is to be seen."""

    def run(steps):
        page = form.review_form("run round 1", ["person", "city", HOSTILE], TASKS)
        path = tmp_path / "form.html"
        script = DRIVER.replace("STEPS", steps)
        path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000",
                   f"--user-data-dir={tmp_path}/chromium", "--dump-dom", path.as_uri()]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
        return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', shown, re.DOTALL)[1]))

    return run


def spans(review):
    return [(entity["text"], entity["type"]) for entity in review["entities"]]


def test_spans_are_marked_retyped_removed_and_undone_by_keys_and_saved_with_right_offsets(drive, tmp_path):
    bo, family = (len(TEXT[: TEXT.index(word)].encode("utf-16-le")) // 2 for word in ("Bo", "\U0001f468"))
    seen = drive(
        f"""
        element("reviewer").value = "Ann";
        await mark({bo}, {bo + 2}); press("1");                  // Bo is a person
        choose(2); press("2");                                    // Rome is a city
        choose(0); press("x");                                    // Ann is removed
        press("u");                                               // and is back
        await mark({bo - 4}, {bo + 2}); press("3"); press("u");   // an overlapping one, undone
        press("Enter");
        await mark({family + 1}, {family + 4}); press("2");      // from and to the middle of an emoji
        element("note").value = "a family"; element("note").dispatchEvent(new Event("input"));
        press("Enter");
        press("s");
        press("k");
        """
    )
    first, second, third = seen["saved"]["reviews"]
    assert seen["errors"] == [] and seen["images"] == 0 and seen["shown"] == TEXT
    assert spans(first) == [("Ann", "person"), ("Bo", "person"), ("Rome", "city")]
    assert second["note"] == "a family"
    assert spans(second) == [("\U0001f468\u200d\U0001f469", "city")]  # no half character
    assert (third["outcome"], spans(third)) == ("skipped", []) and seen["done"] == "3 of 3"
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(seen["saved"]))
    back, formats = ReadBack(), [ReviewFormat("form", form.is_saved_form, form.read_saved_form)]
    read_reviews(str(path), {each.passage_id: each for each in TASKS}, formats, "", back)
    assert back.errors == [] and [review.outcome for review in back.reviews] == ["ok", "ok", "skipped"]
    assert [entity.text for entity in back.reviews[0].entities] == ["Ann", "Bo", "Rome"]
    assert {review.reviewer for review in back.reviews} == {"Ann"} and back.reviews[0].at


def test_work_is_kept_when_the_page_is_opened_again_and_a_file_needs_a_name(drive):
    first = drive('element("reviewer").value = "Ann"; press("Enter");')
    assert first["done"] == "1 of 3"
    again = drive("""await tick(); element("reviewer").value = ""; press("d");
        errors.push(element("warning").textContent);""")
    assert again["done"] == "1 of 3" and again["state"] == "open"
    assert "Write your name" in again["errors"][0]
