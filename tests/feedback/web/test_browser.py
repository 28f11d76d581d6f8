"""In a real Chromium: ranking by keyboard and by drag, without script, in Arabic; hostile texts; two browsers."""

import pytest
from starlette.responses import Response

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.projects import change_settings
from lit_llm.feedback.store.rankings import rows
from lit_llm.feedback.web.sessions import Session

PASSWORD = "correct horse battery"
HOSTILE = (
    "<script>window.__pwned=1;alert(1)</script>",
    "<img src=x onerror=alert(2)><svg/onload=alert(3)>",
    "[x](javascript:alert(4)) <a href='javascript:window.__pwned=1'>link</a>",
    "</textarea></div></template><script>alert(5)</script> {{ 7*7 }} {% raw %} ${7*7} <%= 7*7 %>",
    "\u202egnp.exe\u202c \u200b\u2066 \x07 end\"onfocus=alert(6) autofocus='",
    "<style>*{display:none}</style><base href=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>",
)


@pytest.fixture
def browse(chromium, site, app, store, ada):  # noqa: ARG001 - the account must be there
    """Opens a browser of its own, logged in; afterwards nothing may have run that is not ours."""
    opened, wrong = [], []

    def open_page(name="Ada", **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(120_000)  # waits end when what they wait for is there: an idle machine takes none
        page = context.new_page()
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith(site) else wrong.append(f"fetched {asked.url}"))
        opened.append((context, page))
        (who,) = [account for account in accounts.annotators(store) if account.name == name]
        response = Response()
        app.state.sessions.write(response, Session().logged_in(who.id, who.session_version, "en"))
        key, _, value = response.headers["set-cookie"].partition(";")[0].partition("=")
        context.add_cookies([{"name": key, "value": value, "url": site}])
        page.goto(site)
        return page

    yield open_page
    for context, page in opened:
        if (
            context is not None
            and page.url.startswith("http")
            and page.evaluate("typeof window.__pwned") != "undefined"
        ):
            wrong.append("a text ran as script")
        context.close()
    assert not wrong


def ranking(store):
    """{text: rank} of the only ranking."""
    (row,) = rows(store, too_fast=True)
    return dict(zip(row["completions"], row["ranking"], strict=True))


def texts(page):
    return page.locator(".answer").all_inner_texts()


def send(page, selector):
    """A click that sends a form, without script: what comes next is read from the page that answers."""
    with page.expect_navigation():
        page.click(selector)


def said(page, text):
    page.wait_for_function("text => document.getElementById('announce').textContent.includes(text)", arg=text)


def test_by_keyboard_alone(browse, store):
    page = browse()
    a, b, c, d = texts(page)
    page.wait_for_function("document.activeElement.classList.contains('card')")  # without Tab
    page.keyboard.press("2")
    said(page, "Answer A: rank 2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("=")
    said(page, "Answer C: rank 2, tied with A")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Alt+ArrowDown")
    said(page, "Answer D: rank 3")
    page.keyboard.press("Alt+ArrowUp")
    said(page, "Answer D: rank 2")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {b: 1, d: 2, a: 3, c: 3}
    assert page.get_by_text("Your ranking was saved").is_visible()
    page.goto(page.url.split("/items")[0])  # what comes next
    page.wait_for_function("document.activeElement.classList.contains('card')")
    page.keyboard.press("1")
    said(page, "Answer A: rank 1")


def test_all_else_by_keyboard_without_tab(browse, store):
    """Flag, rating, note, comment, all bad, skip; under an Arabic keyboard too, whose letters are elsewhere."""
    page = browse()
    page.wait_for_function("document.activeElement.classList.contains('card')")
    for key in ("f", "p", "ArrowRight", "ArrowUp", "Enter"):  # private data; severity: slight
        page.keyboard.press(key)
    said(page, "Answer A flagged: Private data")
    for key in ("r", "6", "ArrowDown", "2", "Escape", "ArrowRight", "n"):
        page.keyboard.press(key)
    page.keyboard.insert_text("كافٍ")
    page.keyboard.press("Escape")
    page.evaluate(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ؤ', code: 'KeyC', bubbles: true}))"
    )
    page.keyboard.insert_text("both short")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.mouse.click(5, 400)  # beside everything: the keys still know their answer
    page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '٢', code: 'Digit2', bubbles: true}))"
    )
    said(page, "Answer B: rank 2")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    (row,) = rows(store, too_fast=True)
    assert row["all_bad"] and row["comment"] == "both short"
    assert [(flag["kind"], flag["severity"]) for flag in row["flags"]] == [("privacy", 1)]
    first = next(n for n, rated in enumerate(row["ratings"]) if rated and rated.get("helpful"))
    assert (row["ratings"][first]["helpful"], row["ratings"][first]["honest"]) == (6, 2)
    assert "كافٍ" in str(row)
    page.wait_for_function("document.activeElement.classList.contains('card')")
    for key in ("s", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url("**/items/*?done=skipped")


PLACES = """() => [...document.querySelectorAll('body *')].filter(one => !one.closest('.fields')).map(one => {
  const box = one.getBoundingClientRect(); return [box.x, box.y, box.width, box.height].map(Math.round).join();
})"""


@pytest.mark.parametrize("width", [1280, 390])
def test_opening_a_flag_moves_nothing(browse, width):
    page = browse()
    page.set_viewport_size({"width": width, "height": 844})
    page.locator("#flagging-B summary").scroll_into_view_if_needed()
    before = page.evaluate(PLACES)
    page.click("#flagging-B summary")
    assert page.locator("#flagging-B .fields").is_visible()
    assert page.evaluate(PLACES) == before


def test_on_a_telephone_the_tools_are_a_sheet_at_the_bottom(browse, store):
    page = browse()
    page.set_viewport_size({"width": 390, "height": 844})
    a, b, *_ = texts(page)
    sheet = page.locator(".side").bounding_box()
    assert round(sheet["y"] + sheet["height"]) == 844 and sheet["height"] < 844 / 3 and round(sheet["width"]) == 390
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    drag(page, ".chip[data-key=B]", ".slot[data-rank='1']")
    drag(page, ".chip[data-key=A]", ".slot[data-rank='2']")
    page.click(".sheet-handle")
    page.fill("[name=comment]", "from a bus")
    page.click("#submit")
    page.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {b: 1, a: 2}
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # the last answer's own tools are not behind the sheet
    last = page.locator(".card").last.bounding_box()
    assert last["y"] + last["height"] <= page.locator(".side").bounding_box()["y"]


MARKDOWN = """# Heaps
A **heap** keeps `a[0]` *least*; see [this](javascript:alert(8)) and <b>that</b>.

- push: `O(log n)`
- العنصر **الأصغر** في `a[0]`

```python
def f(x):
    return "<script>window.__pwned = 1</script>"  # **not bold**
```
| a | b |
|---|---|
> quoted"""


def test_markdown_and_code_are_shown_as_such(browse, with_items):
    with_items("What is a **heap**?", [MARKDOWN, "plain"])
    page = browse()
    answer = page.locator(".answer", has_text="push")
    assert answer.evaluate("one => one.textContent") == MARKDOWN  # every character: a flag counts them
    weight = "one => getComputedStyle(one).fontWeight"
    assert answer.locator(".h1").evaluate(weight) == answer.locator(".strong").first.evaluate(weight) == "700"
    assert answer.locator(".md.code .strong").count() == 0 and "def f(x):" in answer.locator(".md.code").inner_text()
    assert answer.locator(".sign").first.bounding_box()["width"] == 0
    assert [answer.locator(".item").nth(n).evaluate("one => getComputedStyle(one).direction") for n in (0, 1)] == [
        "ltr", "rtl",
    ]  # fmt: skip
    assert page.locator("main a[href^=javascript], main .text :is(a, b, script, img)").count() == 0
    assert page.locator(".conversation .strong").inner_text() == "**heap**"
    select = "one => getSelection().selectAllChildren(one)"
    answer.locator(".item .strong").evaluate(select)
    page.click("text=Flag this passage")
    flagged = page.locator(".card", has=page.locator(".md.code")).locator("[name^=flag_span]").input_value()
    start, end = map(int, flagged.split("-"))
    assert MARKDOWN[start:end] == "**الأصغر**"


def drag(page, source, target, height=0.5):
    one, two = page.locator(source).bounding_box(), page.locator(target).bounding_box()
    page.mouse.move(one["x"] + one["width"] / 2, one["y"] + one["height"] / 2)
    page.mouse.down()
    page.mouse.move(two["x"] + two["width"] / 2, two["y"] + two["height"] * height, steps=4)
    page.mouse.up()


def test_by_drag(browse, store):
    page = browse()
    a, b, _, d = texts(page)
    drag(page, ".chip[data-key=A]", ".slot[data-rank='1']")
    drag(page, "#card-B .handle", ".slot[data-rank='2']")
    drag(page, ".chip[data-key=C]", ".slot[data-rank='2']")  # onto B: a tie
    drag(page, ".chip[data-key=D]", ".slot[data-rank='1']", 0.9)  # between 1 and 2
    assert [page.locator(f"#card-{key} select").first.input_value() for key in "ABCD"] == ["1", "3", "3", "2"]
    drag(page, ".chip[data-key=C]", ".slot.tray")
    page.wait_for_selector("#status[data-state=saved]")  # the draft is kept without being asked
    page.reload()
    assert [page.locator(f"#card-{key} select").first.input_value() for key in "ABCD"] == ["1", "3", "", "2"]
    page.click("#submit")
    page.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {a: 1, d: 2, b: 3}


def test_where_ties_are_not_allowed_a_card_pushes_the_others_down(browse, store):
    change_settings(store, allow_ties=False)
    page = browse()
    a, b, c, _ = texts(page)
    for key, rank in (("A", "1"), ("B", "1"), ("C", "2")):
        page.focus(f"#card-{key}")
        page.keyboard.press(rank)
        page.keyboard.press("=")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {b: 1, c: 2, a: 3}


def test_without_script(browse, store):
    page = browse(java_script_enabled=False)
    a, b, *_ = texts(page)
    assert not page.locator("#board").is_visible()
    page.select_option("[name='rank.A']", "2")
    page.select_option("[name='rank.B']", "1")
    page.click("#flagging-A summary")
    page.select_option("[name='flag_kind.A']", "privacy")
    page.fill("[name='flag_quote.A']", "Answer")
    send(page, "#flagging-A button")
    assert "Private data · clear · “Answer”" in page.inner_text("#card-A .flags")
    send(page, "#card-B button[value='down:B']")
    assert page.input_value("[name='rank.B']") == "2"
    send(page, "#submit")
    assert "Your ranking was saved" in page.inner_text("main")
    assert ranking(store) == {a: 1, b: 2}
    (row,) = rows(store, too_fast=True)
    assert [(flag["kind"], flag["start"], flag["end"]) for flag in row["flags"]] == [("privacy", 0, 6)]
    page.click("details.skip summary")
    page.select_option("[name=skip_reason]", "expertise")
    send(page, "details.skip button")
    assert "The item was skipped" in page.inner_text("main")
    send(page, "text=Undo the last one")
    assert "Here it is again" in page.inner_text("main")


def test_a_selected_passage_is_flagged_by_its_code_points(browse, store, with_items):
    text = "👩‍🚀 one\u202e two <b>three</b> 🚀🚀 four"
    with_items("Where?", [text, "another"])
    page = browse()
    card = page.locator(".card", has_text="three")
    card.locator(".answer").evaluate(
        """(text) => { const last = text.lastChild.lastChild; const at = last.data.indexOf('three');
        getSelection().setBaseAndExtent(last, at, last, last.data.indexOf('four') - 1); }"""
    )
    page.click("text=Flag this passage")
    card.locator("[name^=flag_kind]").select_option("other")
    card.get_by_role("button", name="Add this flag").click()
    assert "“three</b> 🚀🚀”" in card.locator(".flags").inner_text()
    page.keyboard.press("1")
    page.check("[name=all_bad]")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    (row,) = rows(store, too_fast=True)
    (flag,) = row["flags"]
    assert text[flag["start"] : flag["end"]] == "three</b> 🚀🚀"


def test_in_arabic(browse, store, tmp_path):
    page = browse(color_scheme="dark")
    page.click("button[name=language]")
    page.wait_for_selector("html[lang=ar][dir=rtl]")
    assert page.inner_text("#submit").startswith("إرسال")
    first, board = page.locator("#card-A").bounding_box(), page.locator("#board").bounding_box()
    assert board["x"] < first["x"]  # the board stands on the left
    a, b, *_ = texts(page)
    page.focus("#card-A")
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    said(page, "رتّب إجابتين على الأقل")
    page.keyboard.press("ArrowLeft")  # forwards, in this direction of reading
    page.keyboard.press("2")
    said(page, "الإجابة ب: الرتبة 2")
    assert len(page.screenshot(path=tmp_path / "arabic.png")) > 20_000
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {a: 1, b: 2}
    page.set_viewport_size({"width": 360, "height": 700})  # a narrow screen has nothing beside it
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#submit").bounding_box()["width"] > 200


def test_hostile_texts_run_nothing(browse, store, with_items):
    with_items("\n".join(HOSTILE), list(HOSTILE))
    accounts.add_annotator(store, "<img src=x onerror=alert(7)>", PASSWORD)
    page = browse("<img src=x onerror=alert(7)>")
    seen = texts(page)
    assert sorted(seen) == sorted(
        text.translate({n: f"U+{n:04X}" for n in map(ord, "\u202e\u202c\u200b\u2066\x07")}) for text in HOSTILE
    )
    page.fill("[name=comment]", HOSTILE[3])
    page.click("#card-A .noting summary")
    page.fill("[name='note.A']", HOSTILE[1])
    page.focus("#card-A")
    page.keyboard.press("1")
    page.wait_for_selector("#status[data-state=saved]")
    page.reload()
    assert page.input_value("[name=comment]") == HOSTILE[3]
    page.check("[name=all_bad]")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    page.goto(page.url.split("/items")[0] + "/recent")
    assert page.locator("img, svg, main script, main style, a[href^=javascript]").count() == 0


def test_two_browsers_on_one_item(browse, store):
    one, two = browse(), browse()
    assert one.url == two.url
    a, b, *_ = texts(one)
    two.route("**/api/items/*", lambda route: route.abort())  # its network is away for a while: not even drafts arrive
    for page, ranks, comment in ((two, "21", "the second"), (one, "12", "the first")):
        for key, rank in zip("AB", ranks, strict=True):
            page.focus(f"#card-{key}")
            page.keyboard.press(rank)
        page.fill("[name=comment]", comment)
    one.keyboard.press("Control+Enter")
    one.wait_for_url("**/items/*?done=saved")
    two.keyboard.press("Control+Enter")  # it will be tried until it arrives
    two.unroute("**/api/items/*")
    two.wait_for_selector(".conflict")
    assert "changed in another window" in two.inner_text(".conflict") and "the first" in two.inner_text(".conflict")
    assert two.input_value("[name=comment]") == "the second" and ranking(store) == {a: 1, b: 2}
    two.click("text=Save mine over it")
    two.wait_for_url("**/items/*?done=saved")
    assert ranking(store) == {a: 2, b: 1}


def test_a_password_changed_meanwhile_loses_nothing(browse, store, ada):
    page = browse()
    page.fill("[name=comment]", "typed before")
    page.wait_for_selector("#status[data-state=saved]")
    accounts.set_password(store, ada.id, PASSWORD)
    page.fill("[name=comment]", "typed after")
    page.keyboard.press("Control+Enter")
    page.get_by_text("You were logged out").first.wait_for()
    page.check("[name=all_bad]")
    other = page.context.new_page()
    other.goto(page.url.partition("/items")[0])
    other.fill("[name=name]", "Ada")
    other.fill("[name=password]", PASSWORD)
    other.click("main form button")
    other.wait_for_url("**/items/*")
    page.keyboard.press("Control+Enter")  # with the token of the session before
    page.wait_for_url("**/items/*?done=saved")
    assert [row["comment"] for row in rows(store, too_fast=True)] == ["typed after"]


def test_an_answer_lost_on_its_way_is_no_conflict(browse, store):
    page = browse()
    page.focus("#card-A")
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("4")
    page.wait_for_selector("#status[data-state=saved]")

    arrived = []

    def reach_the_server_once_and_be_lost(route):
        if not arrived:
            arrived.append(route.fetch().status)
        route.abort()

    page.route("**/api/items/*", reach_the_server_once_and_be_lost)
    page.keyboard.press("Control+Enter")
    page.get_by_text("Could not save").first.wait_for()
    page.unroute("**/api/items/*")
    assert arrived == [200]
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/items/*?done=saved")
    assert sorted(ranking(store).values()) == [1, 2]
