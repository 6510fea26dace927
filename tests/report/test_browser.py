"""The page in a real Chromium: filters, paging, panels, keys, comparison, hostile texts, and its speed."""

import random
import statistics
from dataclasses import replace

import pytest

from uniner.records import TaggedEntity
from uniner.report.collect import RunReport
from uniner.report.render import render_html
from uniner.report.sample import PassageSample, SampledPassage
from uniner.report.stages import StageRow

pytestmark = pytest.mark.slow

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- \"'& "
    "\x00\x1b[1m \u202eאב\u202c \ud800 end"
)
TYPES = ("person", "city", "drug")
STAGE = StageRow(stage="tag", rows=1, seconds=1.0, figure="1 entity")


def entity(text, surface, type_="person", score=0.9, start=None):
    start = text.find(surface) if start is None else start
    end = start + len(surface) if start >= 0 else -1
    return TaggedEntity(
        text=surface, type=type_, start=start, end=end, score=score,
        grounding="exact" if start >= 0 else "ungrounded",
    )  # fmt: skip


def write_page(path, passages, **sample):
    drawn = PassageSample(passages=tuple(passages), stage="tag", rows=99_999, chunks=9, keys=("k",), **sample)
    path.write_bytes(render_html(RunReport(name="here", stages=(STAGE,), sample=drawn)).encode())
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A page of 45 passages: every third from the source `law`, every fifth with an unsure city."""
    passages = []
    for number in range(45):
        text = f"Ann{number} met Bo in Bonn, number {number}."
        entities = [entity(text, f"Ann{number}"), entity(text, "Bo", score=0.95)]
        if number % 5 == 0:
            entities.append(entity(text, "Bonn", "city", score=0.3))
        passages.append(
            SampledPassage(
                passage_id=f"p{number}", text=text, source="law" if number % 3 == 0 else "news",
                outcome="unparseable" if number == 7 else "ok", entities=tuple(entities),
            )
        )  # fmt: skip
    return write_page(tmp_path_factory.mktemp("small") / "report.html", passages)


@pytest.fixture
def page(browser_page, small):
    browser_page.size(1280, 900)
    browser_page.prefer("light")
    browser_page.open(small)
    yield browser_page
    assert browser_page.errors == []


def shown(page):
    return page.run("[...document.querySelectorAll('#list .passage')].map(card => 'p' + card.passage)")


def said(page):
    return page.run("byId('said').textContent").split(" passages")[0]


def put(page, control, value):
    page.run(f"byId('{control}').value = '{value}'; byId('{control}').dispatchEvent(new Event('input'))")
    page.settle()


def test_filters_leave_what_is_asked_for(page):
    assert (said(page), shown(page)) == ("45", [f"p{number}" for number in range(20)])
    for control, value, left in (
        ("text", "NUMBER 12", "1"),
        ("source", "0", "15"),
        ("outcome", "1", "1"),
        ("high", "500", "9"),
    ):
        put(page, control, value)
        assert said(page) == left, control
        page.run("byId('clear').click()")
        assert said(page) == "45"
    put(page, "high", "500")
    put(page, "source", "0")
    assert shown(page) == ["p0", "p15", "p30"]
    assert page.run("byId('high-value').textContent") == "0.50"
    page.run("byId('clear').click()")
    put(page, "low", "920")
    assert page.run("document.querySelectorAll('#list mark:not(.dim)').length") == 20  # Bo of each passage
    put(page, "order", "score")
    page.run("byId('clear').click()")
    assert shown(page)[:9] == [f"p{number}" for number in range(0, 45, 5)]


def test_pages_turn_by_button_number_and_key(page):
    page.run("byId('next').click()")
    assert shown(page)[0] == "p20"
    page.press("n")
    assert (shown(page), page.run("byId('next').disabled")) == (
        [f"p{number}" for number in range(40, 45)],
        True,
    )
    page.press("n")
    assert shown(page)[0] == "p40"
    page.press("p")
    assert shown(page)[0] == "p20"
    page.run("byId('page').value = 1; byId('page').dispatchEvent(new Event('change'))")
    assert shown(page)[0] == "p0"


def test_a_type_shows_its_surfaces_and_a_surface_its_contexts(page):
    page.run("document.querySelector('#type-list button').click()")
    texts = "[...document.querySelectorAll('#panel .surface')].map(each => each.textContent)"
    assert page.run("byId('panel').querySelector('h3').textContent") == "person"
    assert page.run(texts)[:2] == ["Bo", "Ann0"] and len(page.run(texts)) == 46
    page.run("document.querySelector('#panel .surface').click()")
    assert page.run("document.querySelectorAll('#panel .contexts li').length") == 45
    assert "met Bo in Bonn" in page.run("document.querySelector('#panel .contexts li').textContent")
    page.run("document.querySelectorAll('#panel .contexts button')[43].click()")
    assert (page.run("document.activeElement.closest('.passage').passage"), shown(page)[0]) == (43, "p40")
    page.run("[...document.querySelectorAll('#list mark')].find(each => each.entity.passage === 40).click()")
    page.run("[...document.querySelectorAll('#panel > button')][0].click()")
    assert (said(page), shown(page)) == ("1", ["p40"])
    page.run("byId('clear').click()")
    page.run("document.querySelector('#list mark small').click()")  # the name of a type, in the text
    assert page.run("byId('panel').querySelector('h3').textContent") == "person"


def test_the_keyboard_alone_is_enough(page):
    page.press("j")
    page.press("j")
    assert page.run("document.activeElement.passage") == 1
    page.press("k")
    assert page.run("document.activeElement.passage") == 0
    page.run("document.querySelector('#list mark').focus()")
    page.press("Enter")
    assert page.run("byId('panel').hidden") is False
    page.press("Escape")
    assert page.run("byId('panel').hidden") is True
    page.press("/")
    assert page.run("document.activeElement.id") == "text"
    for letter in "nn0":  # keys are letters there
        page.press(letter)
    assert (page.run("byId('text').value"), said(page)) == ("nn0", "1")
    page.press("Escape")
    page.press("c")
    assert said(page) == "45"
    page.press("?")
    assert page.run("byId('help').open") is True
    page.run("byId('close-help').click()")
    assert page.run("byId('help').open") is False


def test_light_and_dark_follow_the_system_and_the_switch(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.prefer("dark")
    page.settle()
    dark = page.run(colour)
    assert dark != light
    page.run("byId('theme').click()")
    assert page.run(colour) == light
    page.press("t")
    assert page.run(colour) == dark
    page.run("localStorage.clear()")


def test_on_a_phone_nothing_is_wider_than_the_screen(page, small):
    page.size(390, 844, 2, mobile=True)
    page.open(small)
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run("byId('filters').open") is False


def test_two_runs_are_compared_passage_by_passage(browser_page, tmp_path):
    text = "Ann met Bo in New Bonn."
    ours = (
        entity(text, "Ann"),
        entity(text, "Bo"),
        entity(text, "Bonn", "city"),
        entity(text, "met", "drug"),
    )
    theirs = (entity(text, "Ann"), entity(text, "Bo", "city"), entity(text, "New Bonn", "city"))
    passage = SampledPassage(passage_id="p0", text=text, source="", outcome="ok", entities=ours, other=theirs)
    same = replace(passage, passage_id="p1", other=ours[:1], entities=ours[:1])
    only_there = replace(passage, passage_id="p2", entities=())
    lacking = replace(passage, passage_id="p3", other=None)
    path = write_page(
        tmp_path / "report.html", [passage, same, only_there, lacking], other="there", lacking=1
    )
    page = browser_page
    page.size(1280, 900)
    page.open(path)
    statuses = "entities.map((side) => side.map((entity) => entity.status))"
    assert page.run(statuses) == [["both", "apart", "type", "bounds"], ["both"], [], [""] * 4]
    assert page.run("others[0].map((entity) => entity.status)") == ["both", "type", "bounds"]
    cells = "(row) => [...row.children].map(cell => cell.textContent)"
    rows = f"[...document.querySelectorAll('#agreement tr')].slice(1).map({cells})"
    assert page.run(rows) == [["city", "0", "1", "4", "0.0 %"], ["person", "2", "1", "1", "66.7 %"]]
    assert "only here has: drug." in page.run("byId('agreement').textContent")
    for difference, left in (
        ("any", ["p0", "p2"]), ("other", ["p2"]), ("type", ["p0"]), ("bounds", ["p0"]), ("only", []),
    ):  # fmt: skip
        put(page, "difference", difference)
        assert shown(page) == left, difference
    put(page, "difference", "")
    assert page.run("document.querySelectorAll('#list .pair').length") == 4
    assert "Does not have this passage." in page.run("document.querySelector('#list').textContent")
    assert page.errors == []


def test_hostile_texts_are_shown_and_never_run(browser_page, tmp_path):
    hostile = (entity(HOSTILE, HOSTILE, HOSTILE), entity(HOSTILE, HOSTILE, HOSTILE, start=-1))
    passage = SampledPassage(
        passage_id=HOSTILE, text=HOSTILE, source=HOSTILE, outcome=HOSTILE, entities=hostile, other=hostile
    )
    page = browser_page
    page.open(write_page(tmp_path / "report.html", [passage], other=HOSTILE))
    page.run("document.querySelector('#type-list button').click()")
    page.run("document.querySelector('#panel .surface').click()")
    page.settle()
    assert page.run("window.hacked") is None
    assert page.run("document.images.length") == 0
    assert page.run("document.scripts.length") == 2
    for place in (
        "#list .text",
        "#list header b",
        "#list .outcome",
        "#type-list button",
        "#panel h3",
        "#source",
    ):
        text = page.run(f"document.querySelector('{place}').textContent")
        assert "</script><script>window.hacked = 1</script><img src=x onerror=" in text, place
        assert "<!-- \"'& [U+0000][U+001B][1m [U+202E]אב[U+202C] [U+D800] end" in text, place
    assert page.errors == []


def test_a_hundred_thousand_entities_open_and_page_quickly(browser_page, tmp_path, capsys):
    draw = random.Random(1)
    words = [f"{draw.choice('ABCDEFG')}{number:x}" for number in range(3000)]
    passages = []
    for number in range(5000):
        text = " ".join(draw.choices(words, k=160))
        starts = [place + 1 for place, sign in enumerate(text) if sign == " "]
        entities = tuple(
            entity(text, text[start : start + 4], f"type {draw.randrange(60)}", draw.random(), start)
            for start in sorted(draw.sample(starts, 20))
        )
        passages.append(
            SampledPassage(
                passage_id=f"p{number}", text=text, source=f"s{number % 9}", outcome="ok", entities=entities
            )
        )
    path, page = write_page(tmp_path / "report.html", passages), browser_page
    page.size(1280, 900)
    times = {}

    def measure(name, act):
        """Keep the median milliseconds of an action, by the clock and of the page's thread."""
        clock, thread = [], []
        for _ in range(15):
            before = page.thread_seconds()
            clock.append(act())
            thread.append(1000 * (page.thread_seconds() - before))
        times[name] = statistics.median(clock), statistics.median(thread)

    # A page that is opened may get a new process, whose time begins at 0.
    times["open"] = 1000 * page.open(path), 1000 * page.thread_seconds()
    measure("page", lambda: page.milliseconds("byId('next').click()"))
    measure("search", lambda: page.milliseconds("state.text = state.text ? '' : 'a1'; update()"))
    measure("surfaces", lambda: page.milliseconds("clearFilters(); showSurfaces(3)"))
    measure("contexts", lambda: page.milliseconds("showContexts('a1', 'A1')"))
    with capsys.disabled():
        print(
            f"\n5,000 passages, 100,000 entities, {path.stat().st_size / 1e6:.1f} MB, clock and thread, ms:"
        )
        print(", ".join(f"{name} {clock:.0f} {thread:.0f}" for name, (clock, thread) in times.items()))
    assert page.run("entities.flat().length") == 100_000
    assert 0 < times["open"][1] < 3000
    assert 0 < times["page"][1] < 100
    assert times["search"][1] < 500
    assert page.errors == []
