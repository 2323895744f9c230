"""The page in a real browser, on the real backend; what is faked is listed in page_fakes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from appstack import PASSWORD, Web
from page_fakes import Fakes
from page_server import FRONTEND, serve
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from testkit import Process, wait_until

SECTIONS = ("items", "research", "ask", "chat", "itinerary", "workers")
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}


@dataclass
class Page:
    browser: Chrome
    address: str

    def open(self, fragment: str = "") -> None:
        self.browser.get(f"{self.address}/?{os.urandom(4).hex()}{fragment}")

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str) -> object:
        return self.browser.execute_script(f"return {script}")

    def text(self, selector: str) -> str:
        # In one script: the element may be replaced between finding it and reading it.
        return str(self.run(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def sees(self, selector: str, text: str, seconds: float = 15) -> None:
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}", seconds)

    def fill(self, form: str, **values: str) -> None:
        for name, value in values.items():
            field = self.one(f"#{form} [name={name}]")
            field.clear()
            field.send_keys(value)
        self.one(f"#{form} button:not([type=button])").click()

    def log_in(self) -> None:
        self.open()
        self.fill("login", username="admin", password=PASSWORD)
        wait_until(self.one("#items").is_displayed, "the items show")

    def go(self, section: str) -> None:
        self.one(f"nav a[href='#{section}']").click()
        wait_until(self.one(f"#{section}").is_displayed, section)

    def size(self, metrics: dict) -> None:
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def shoot(self, name: str) -> None:
        """A picture for a person, where CRISPER_SHOTS names a folder."""
        if folder := os.environ.get("CRISPER_SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(f"{folder}/{name}.png")

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page."""
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.fail("The browser is missing: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Selenium's own manager would ask the network for drivers.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        made = Chrome(options, ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def served(web: Web) -> Iterator[tuple[str, Fakes]]:
    fakes = Fakes()
    with serve(f"http://127.0.0.1:{web.port}", fakes) as address:
        yield address, fakes


@pytest.fixture
def fakes(served: tuple[str, Fakes]) -> Fakes:
    served[1].reset()
    return served[1]


@pytest.fixture
def page(browser: Chrome, served: tuple[str, Fakes], fakes: Fakes) -> Iterator[Page]:
    made = Page(browser, served[0])
    made.open()
    made.run("sessionStorage.clear()")
    made.size(DESKTOP)
    made.scheme("light")
    made.complaints()
    yield made
    fakes.go_on.set()


@pytest.fixture
def inside(page: Page) -> Page:
    page.log_in()
    return page


def test_wrong_password_is_told_and_the_right_one_lets_in(page: Page) -> None:
    page.open()
    assert not page.one("nav").is_displayed()
    page.shoot("login")
    page.fill("login", username="admin", password="wrong")
    page.sees("#message", "Wrong user name or password.")
    page.fill("login", username="admin", password=PASSWORD)
    wait_until(page.one("#items").is_displayed, "the items show")
    assert not page.one("#message").is_displayed()
    page.one("#logout").click()
    assert page.one("#login").is_displayed()
    assert page.all("#item-rows tr") == []


LATE = """((ask) => {
  window.fetch = async (path, options) => {
    const answer = await ask(path, options);
    if (path === "/api/admin/items") await new Promise((resolve) => { window.deliver = resolve; });
    return answer;
  };
})(window.fetch)"""
DELIVER = "(window.deliver(), new Promise((resolve) => setTimeout(resolve, 200)))"


def test_an_answer_that_comes_after_the_logout_is_not_shown(
    page: Page, make_items: Callable
) -> None:
    """Regression: rows of who had left stood in the page of whoever came next."""
    make_items("one")
    page.open()
    page.run(LATE)
    page.fill("login", username="admin", password=PASSWORD)
    wait_until(lambda: page.run("Boolean(window.deliver)"), "the answer is held")
    page.one("#logout").click()
    page.run(DELIVER)
    assert page.all("#item-rows tr") == []
    assert not page.one("#message").is_displayed()


def test_a_session_that_has_ended_leads_to_the_login(inside: Page) -> None:
    inside.run("sessionStorage.setItem('token', 'no longer valid')")
    inside.open("#workers")
    inside.sees("#message", "not valid")
    assert inside.one("#login").is_displayed()


def test_an_item_gets_its_embedding(inside: Page, worker: Process) -> None:
    title = "<b>Deoksugung</b> & co"
    inside.fill("create", title=title, content="A palace in Jung-gu.")
    inside.sees("#item-rows tr:first-child .title", title)
    assert inside.text("#queue") == "Make embeddings (1)"
    inside.one("#queue").click()
    inside.sees("#queue-text", "1 of 1 tasks done", 30)
    inside.sees("#item-rows tr:first-child", "completed")
    inside.one("#item-rows tr:first-child button").click()
    inside.sees("#item-rows tr:first-child", "256 dims")
    assert not inside.one("#queue").is_enabled()
    inside.shoot("items")
    assert inside.complaints() == []


def test_all_items_are_chosen_at_once(inside: Page, make_items: Callable) -> None:
    make_items("one", "two")
    inside.one("#all").click()
    rows = wait_until(
        lambda: len(inside.all("#item-rows input:checked")) >= 2 and inside.all("#item-rows tr"),
        "all are chosen",
    )
    inside.sees("#queue", f"({len(rows)})")


@pytest.mark.parametrize("how", ["stream", "absent", "cut"])
def test_a_research_is_followed_live(inside: Page, fakes: Fakes, how: str) -> None:
    """By the stream of events, without one, and with one that breaks."""
    inside.go("research")
    inside.fill("research-form", query=f"{how} palaces of Seoul")
    inside.sees("#research-text", "searching · 40 %")
    assert inside.run("document.querySelector('#research-progress').value") == 40
    inside.shoot(f"research-{how}")
    fakes.finish()
    inside.sees("#report", "Palaces of Seoul")
    inside.sees("#research-text", "done")
    asked = [path for method, path, _ in fakes.asked if method == "GET"]
    assert (f"/api/task/fake-{how}" in asked) is (how != "stream")


def test_a_report_is_rendered_and_breaks_nothing(inside: Page, fakes: Fakes) -> None:
    fakes.finish()
    inside.go("research")
    inside.fill("research-form", query="stream palaces")
    inside.sees("#report h3", "Palaces of Seoul")
    assert inside.text("#report strong") == "grand palaces"
    assert inside.text("#report li") == "Gyeongbokgung"
    links = [link.get_attribute("href") for link in inside.all("#report a")]
    assert links == ["https://example.org/seoul"]
    assert inside.all("#report img") == []
    assert "<img src=x" in inside.text("#report")
    assert inside.run("document.title") == "Research – Crisper"
    inside.shoot("report")
    assert inside.complaints() == []


def test_a_research_survives_a_reload_and_can_be_stopped(inside: Page, fakes: Fakes) -> None:
    inside.go("research")
    inside.fill("research-form", query="stream palaces")
    inside.sees("#research-text", "40 %")
    inside.open("#research")
    inside.sees("#research-text", "searching · 40 %")
    inside.one("#research-stop").click()
    inside.sees("#research-text", "stopped")
    assert ("DELETE", "/api/task/fake-stream", None) in fakes.asked
    assert not inside.one("#research-stop").is_displayed()


def test_a_research_that_fails_says_why(inside: Page, fakes: Fakes) -> None:
    fakes.state = {"status": "failure", "error": "TimeoutError: too slow"}
    inside.go("research")
    inside.fill("research-form", query="absent palaces")
    inside.sees("#research-text", "failed: TimeoutError: too slow")
    assert inside.one("#research-form button").is_enabled()


def test_an_answer_with_its_sources_and_from_the_cache(inside: Page, fakes: Fakes) -> None:
    inside.go("ask")
    inside.fill("ask-form", query="the largest palace?", top_k="3")
    inside.sees("#answer", "Gyeongbokgung (0.91)")
    assert inside.text("#answer strong") == "largest"
    assert inside.all("#answer .badge") == inside.all("#answer img") == []
    assert fakes.asked == [("POST", "/rag/query", {"query": "the largest palace?", "top_k": 3})]
    inside.fill("ask-form", query="the largest palace?", top_k="3")
    inside.sees("#answer .badge", "from the cache")
    inside.one("#answer summary").click()
    inside.sees("#answer details", "biggest palace")
    inside.shoot("ask")
    assert inside.complaints() == []


def test_a_conversation_keeps_its_session(inside: Page, fakes: Fakes) -> None:
    inside.go("chat")
    for message in ("hello", "again"):
        inside.fill("chat-form", message=message)
        inside.sees("#chat-log > li:last-child", f"You said: {message}")
    bodies = [body for _, path, body in fakes.asked if path == "/chat"]
    assert bodies == [{"message": "hello"}, {"message": "again", "session_id": "session-1"}]
    inside.fill("chat-form", message="fail")
    inside.sees("#message", "The language model is not available.")
    assert len(inside.all("#chat-log > li")) == 4
    assert inside.run("document.querySelector('#chat-form').message.value") == "fail"
    inside.shoot("chat")
    inside.one("#chat-new").click()
    assert inside.all("#chat-log > li") == []


def test_an_itinerary(inside: Page, fakes: Fakes) -> None:
    inside.go("itinerary")
    inside.fill("itinerary-form", days="2", interests="palaces, , markets")
    inside.sees("#plan", "Day 2")
    assert "You like palaces." in inside.text("#plan")
    assert "Wear good shoes." in inside.text("#plan")
    expected = {"days": 2, "interests": ["palaces", "markets"]}
    assert fakes.asked == [("POST", "/itinerary", expected)]
    inside.shoot("itinerary")


def test_workers_and_queues(inside: Page, worker: Process) -> None:
    inside.go("workers")
    inside.sees("#worker-rows", "@test")
    assert "default, embeddings, research" in inside.text("#worker-rows")
    assert "prefork × 1" in inside.text("#worker-rows")
    assert "embeddings" in inside.text("#queue-rows")
    asked_at = inside.text("#unacked")
    wait_until(lambda: inside.text("#unacked") != asked_at, "it is asked again", 20)
    inside.shoot("workers")
    assert inside.complaints() == []


def test_keyboard_alone_is_enough(page: Page) -> None:
    def press(*keys: str) -> None:
        ActionChains(page.browser).send_keys(*keys).perform()

    def focused() -> str:
        return str(page.run("document.activeElement.id || document.activeElement.className"))

    page.open()
    press(Keys.TAB)
    assert focused() == "skip"
    assert page.one(".skip").rect["x"] >= 0
    press(Keys.ENTER)
    wait_until(lambda: focused() == "main", "the content has the focus")
    press(Keys.TAB, Keys.TAB, PASSWORD, Keys.ENTER)
    wait_until(lambda: focused() == "items-title", "the section has the focus")
    page.one("#logout").send_keys(Keys.TAB, Keys.TAB)
    press(Keys.ENTER)
    wait_until(lambda: focused() == "research-title", "the next section has the focus")
    assert page.one("nav [aria-current]").text == "Research"
    press(Keys.TAB, "absent one", Keys.TAB, Keys.ENTER)
    page.sees("#research-text", "40 %")


def test_everything_that_is_typed_into_has_a_name(inside: Page) -> None:
    unnamed = inside.run(
        "[...document.querySelectorAll('input, textarea, button, progress')].filter((e) =>"
        " !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    assert inside.all("[onclick], [style]") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(
    inside: Page, fakes: Fakes, worker: Process, make_items: Callable, scheme: str
) -> None:
    make_items("Donaudampfschifffahrtsgesellschaftskapitaenswitwenrente" * 3)
    fakes.finish()
    inside.size(PHONE)
    inside.scheme(scheme)
    inside.open()
    fills = {
        "research": {"query": "stream palaces"},
        "ask": {"query": "palace?", "top_k": "3"},
        "chat": {"message": "w" * 90},
        "itinerary": {"days": "3", "interests": "palaces"},
    }
    shown = {"research": "#report", "ask": "#answer", "chat": ".reply", "itinerary": "#plan"}
    shown |= {"items": "#item-rows tr", "workers": "#worker-rows tr"}
    for section in SECTIONS:
        inside.go(section)
        if section in fills:
            inside.fill(f"{section}-form", **fills[section])
        wait_until(lambda s=section: inside.text(shown[s]), f"{section} shows something")
        width = inside.run("document.documentElement.scrollWidth")
        inside.shoot(f"phone-{scheme}-{section}")
        assert width == 360, (section, width)
    background = inside.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", str(background))[:3])) < 200) is (scheme == "dark")


@pytest.fixture
def whole(browser: Chrome, web: Web, worker: Process) -> Iterator[Page]:
    """Logged in, and nothing is faked."""
    with serve(f"http://127.0.0.1:{web.port}", Fakes(), faking=False) as address:
        made = Page(browser, address)
        made.open()
        made.run("sessionStorage.clear()")
        made.size(DESKTOP)
        made.log_in()
        yield made


def test_every_section_works_on_the_real_backend(
    whole: Page, make_items: Callable, admin: httpx.Client, finish: Callable
) -> None:
    ids = make_items("Gyeongbokgung Palace in Seoul", "Haeundae Beach in Busan")
    bulk = "/api/admin/bulk/regenerate-embeddings"
    for task in admin.post(bulk, json={"context_ids": ids}).json()["task_ids"]:
        assert finish(task)["status"] == "success"

    whole.go("research")
    whole.fill("research-form", query="Gyeongbokgung Palace in Seoul")
    whole.sees("#report", "What is known of Gyeongbokgung Palace in Seoul.", 30)
    whole.sees("#research-text", "done")

    whole.go("ask")
    whole.fill("ask-form", query="the Haeundae Beach in Busan?", top_k="3")
    whole.sees("#answer", "Haeundae Beach in Busan")
    whole.fill("ask-form", query="the Haeundae Beach in Busan?", top_k="3")
    whole.sees("#answer .badge", "from the cache")

    whole.go("chat")
    whole.fill("chat-form", message="Tell me of Gyeongbokgung Palace in Seoul")
    whole.sees("#chat-log > li:last-child", "What is known of Gyeongbokgung")
    whole.fill("chat-form", message="And in Busan?")
    wait_until(lambda: len(whole.all("#chat-log > li")) == 4, "the second answer")

    whole.go("itinerary")
    # By name: the other tests' places are in the same database, and some are beaches.
    whole.fill("itinerary-form", days="1", interests="Gyeongbokgung Palace, Haeundae Beach")
    whole.sees("#plan", "Day 1")
    whole.sees("#plan", "Haeundae Beach in Busan")
    assert whole.complaints() == []


def test_the_image_has_every_file_that_the_page_asks_for(page: Page) -> None:
    page.open()
    loaded = page.run(
        "performance.getEntriesByType('resource').map((e) => new URL(e.name).pathname)"
        ".filter((p) => /\\.(js|css)$/.test(p))"
    )
    modules = {f"/js/{file.name}" for file in (FRONTEND / "js").iterdir()}
    assert set(loaded) == modules | {"/app.css"}
    recipe = (FRONTEND / "Dockerfile").read_text()
    assert "COPY index.html app.css " in recipe
    assert "COPY js " in recipe
    kept = (FRONTEND / ".dockerignore").read_text().split()
    assert {"!index.html", "!app.css", "!js", "!nginx.conf"} <= set(kept)
