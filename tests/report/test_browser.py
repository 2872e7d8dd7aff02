"""The pages in headless Chromium: they play, seek, switch and slide, without errors and without the network."""

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from wavedil.report import add_captions, write_report

_spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

OPTIONS = """--headless=new --no-sandbox --disable-gpu --autoplay-policy=no-user-gesture-required --no-first-run
--disable-background-networking --disable-component-update --disable-sync --window-size=1200,900""".split()
HOSTILE = "</script><script>document.title='attacked'</script><img src=http://x.invalid/ onerror='document.title=1'>"


@pytest.fixture(scope="module")
def chromium():
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (binary and driver):
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as folder:
        for option in (*OPTIONS, f"--user-data-dir={folder}"):
            options.add_argument(option)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield browser
        browser.quit()


class Window:
    """A page in the browser."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(path.as_uri())

    def js(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def until(self, code):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 20, 0.02).until(lambda browser: browser.execute_script(f"return {code}"))

    def press(self, keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(keys).perform()

    def click(self, selector, index=0):
        self.js("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, index)

    def playing(self):
        return self.js("return [...document.querySelectorAll('audio')].flatMap((a, i) => a.paused ? [] : [i])")

    def check(self):
        """No message in the console, and no request but for the file and its parts."""
        assert not [entry for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert not [url[:80] for url in urls if not url.startswith(("file:", "data:", "chrome:"))]


@pytest.fixture
def sounds(chromium, tmp_path):
    run = runs.make_vocoder_run(tmp_path / "run")
    window = Window(chromium, write_report(run))
    yield window
    window.check()


TIME = "document.querySelectorAll('audio')[{}].currentTime"


def test_every_clip_decodes_and_plays(sounds):
    lengths = sounds.browser.execute_async_script("""
        const done = arguments[0], context = new OfflineAudioContext(1, 8000, 8000);
        const bytes = (audio) => Uint8Array.from(atob(audio.src.split(",")[1]), (c) => c.charCodeAt(0)).buffer;
        Promise.all([...document.querySelectorAll("audio")].map((audio) => context.decodeAudioData(bytes(audio))))
          .then((all) => done(all.map((each) => [each.duration, Math.max(...each.getChannelData(0))])));
    """)
    assert len(lengths) == 7
    for length, peak in lengths:
        assert length in (pytest.approx(1, abs=0.01), pytest.approx(0.5, abs=0.01)) and peak == pytest.approx(
            0.5, abs=0.05
        )
    sounds.click(".play", 1)
    sounds.until(f"{TIME.format(1)} > 0.05")


def test_one_plays_at_a_time_and_columns_switch_at_the_same_position(sounds):
    sounds.click("#loop")
    sounds.click(".play", 0)
    sounds.until(f"{TIME.format(0)} > 0.3")
    sounds.click("[data-switch]", 1)
    sounds.until("!document.querySelectorAll('audio')[1].paused")
    assert sounds.playing() == [1]
    sounds.until(f"{TIME.format(1)} > 0.25")
    assert sounds.js("return document.querySelectorAll('[data-switch]')[1].getAttribute('aria-pressed')") == "true"
    sounds.click(".play", 3)
    sounds.until("!document.querySelectorAll('audio')[3].paused")
    assert sounds.playing() == [3]
    sounds.js("document.querySelectorAll('audio')[3].currentTime = 0.9")
    sounds.until(f"{TIME.format(3)} < 0.5")  # it has looped
    sounds.click(".play", 3)
    assert sounds.playing() == []


def test_seeking(sounds):
    sounds.js("""
        const picture = document.querySelectorAll('.picture')[1], box = picture.getBoundingClientRect();
        picture.dispatchEvent(new MouseEvent('click', {clientX: box.left + box.width * 0.6, bubbles: true}));
    """)
    sounds.until(f"Math.abs({TIME.format(1)} - 0.6) < 0.02")
    assert sounds.js("return parseFloat(document.querySelectorAll('.playhead')[1].style.left)") == pytest.approx(
        60, abs=1
    )
    sounds.js("const s = document.querySelectorAll('.seek')[0]; s.value = 0.25; s.dispatchEvent(new Event('input'))")
    sounds.until(f"Math.abs({TIME.format(0)} - 0.25) < 0.02")
    assert sounds.playing() == []


def test_keys(sounds):
    from selenium.webdriver.common.keys import Keys

    sounds.click("#loop")
    sounds.press(Keys.SPACE)
    sounds.until("!document.querySelectorAll('audio')[0].paused")
    sounds.press("b")
    sounds.until("!document.querySelectorAll('audio')[1].paused")
    assert sounds.playing() == [1]
    sounds.press(Keys.ARROW_DOWN)
    sounds.until("!document.querySelectorAll('audio')[3].paused")
    assert sounds.playing() == [3]
    sounds.press("a" + Keys.SPACE)
    sounds.until("[...document.querySelectorAll('audio')].every((a) => a.paused)")
    # After a pause, the browser may still correct the position: start from a fixed one.
    sounds.js(f"{TIME.format(2)} = 0.3")
    sounds.until("!document.querySelectorAll('audio')[2].seeking")
    sounds.press(Keys.ARROW_RIGHT)
    sounds.until(f"Math.abs({TIME.format(2)} - 0.4) < 0.02")
    sounds.press(Keys.ARROW_UP)
    assert sounds.js("return document.querySelectorAll('.clip')[0].classList.contains('active')")
    sounds.press("l")
    assert not sounds.js("return document.getElementById('loop').checked")


def test_the_theme_switches(sounds):
    color = "return getComputedStyle(document.body).backgroundColor"
    before = sounds.js(color)
    sounds.click("#theme")
    assert sounds.js(color) != before
    sounds.click("#theme")
    assert sounds.js(color) == before


def test_the_slider_of_an_image(chromium, tmp_path):
    window = Window(chromium, write_report(runs.make_image_run(tmp_path / "run")))
    assert window.js("return document.querySelectorAll('.compare img').length") == 4
    assert window.js("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    cut = "return getComputedStyle(document.querySelector('.compare img + img')).clipPath"
    assert "50%" in window.js(cut)
    window.js(
        "const s = document.querySelector('.comparison input'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    assert "20%" in window.js(cut)
    window.check()


def test_hostile_names_run_nothing(chromium, tmp_path):
    run = runs.make_effect_run(tmp_path / "run")
    add_captions(run / "samples", {"row_0": {"file": HOSTILE, HOSTILE: HOSTILE}})
    about = json.loads((run / "about.json").read_text()) | {"model": HOSTILE, "machine": HOSTILE}
    (run / "about.json").write_text(json.dumps(about))
    path = write_report(run)
    window = Window(chromium, path)
    assert window.js("return document.title") == "run"
    window.check()
    # Even if a name were not escaped, the policy of the page would run nothing.
    path.write_text(path.read_text().replace("<main>", f"<main>{HOSTILE}"))
    window = Window(chromium, path)
    assert window.js("return document.title") == "run"
    assert "Content Security Policy" in str(chromium.get_log("browser"))


def test_a_page_of_a_run_in_training_reloads_unless_something_plays(chromium, tmp_path):
    run = runs.make_vocoder_run(tmp_path / "run")
    hold = "window.held = []; window.setTimeout = (call) => window.held.push(call)"
    script = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hold})
    window = Window(chromium, write_report(run, running=True))
    window.click("#loop")
    window.click(".play")
    window.until("!document.querySelector('audio').paused")
    window.js("window.marked = true; held[0]()")
    assert window.js("return [held.length, window.marked]") == [2, True]
    window.click(".play")
    write_report(run)  # the run has ended
    window.js("held[1]()")
    window.until("window.marked === undefined && document.readyState === 'complete'")
    assert window.js("return [held.length, document.documentElement.dataset.running]") == [0, None]
    chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    window.check()
