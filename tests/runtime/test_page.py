"""The page at `/`: what it says without JavaScript, its safety, and its use in Chromium."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.rest.app import RestApp
from mpack_runtime.rest.page import compact, curl
from mpack_runtime.service import Service

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of the WebDriver protocol
CHROMIUM = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def get(model_json: Path, **headers: str) -> Any:
    """The page of a model, asked in this process."""
    app = RestApp(Service.load(ModelConfig.load(model_json)), Settings())
    return (
        app.flask().test_client().get("/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    )


def test_it_reads_without_javascript(model_json: Path) -> None:
    """Name, version, inputs with types, the sample and the addresses stand in the HTML itself."""
    page = get(model_json)
    assert page.status_code == 200 and page.content_type == "text/html; charset=utf-8"
    for words in (
        "<h1>wine <small>version 1.2",
        "alcohol",
        "double",
        "may be missing",
        "quality",
        "merlot",
        "api/model/info",
    ):
        assert words in page.text


def test_it_needs_nothing_from_elsewhere_and_nothing_inline(model_json: Path) -> None:
    """The content security policy holds, and no address in page, style or script leads away."""
    page = get(model_json)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page.text)
    client = RestApp(Service.load(ModelConfig.load(model_json)), Settings()).flask().test_client()
    for asset in re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text):
        answer = client.get(f"/{asset}")
        assert answer.status_code == 200 and "//" not in answer.text.replace("/* ", "")


def test_a_models_name_is_text_never_markup(make_model: Callable[..., Path]) -> None:
    """A hostile name and sample are escaped in HTML and quoted for the shell."""
    hostile = "<script>alert(1)</script>'; rm -rf /"
    sample = {"request": {"columns": ["alcohol", "grape", "year"], "data": [[1.0, "</textarea>'$(id)", 1]]}}
    page = get(make_model(name=hostile, sample=sample))
    assert "<script>alert" not in page.text and "&lt;script&gt;alert" in page.text
    assert page.text.count("</textarea>") == 1
    assert shlex.split(curl("http://h/x", "it's $(id)"))[-1] == "it's $(id)"


def test_a_prefix_becomes_the_base_of_every_address(model_json: Path) -> None:
    """Behind a proxy under /models/wine relative addresses and the curl command lead there."""
    page = get(model_json, X_Forwarded_Prefix="/models/wine", X_Forwarded_Proto="https", Host="example.org")
    assert '<base href="/models/wine/">' in page.text
    assert "https://example.org/models/wine/api/model/invoke" in page.text


def test_compact_keeps_rows_on_lines() -> None:
    """The sample is laid out as a person would write it."""
    assert compact({"data": [[1, 2], [3, None]]}) == '{\n  "data": [\n    [1, 2],\n    [3, null]\n  ]\n}'


class Browser:
    """A Chromium page, driven by the WebDriver protocol."""

    def __init__(self, driver: str) -> None:
        self._client = httpx.Client(base_url=driver, trust_env=False, timeout=60)
        options = {"goog:chromeOptions": {"args": CHROMIUM}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        self._base = f"/session/{session}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.request(method, path, json=body if body is not None or method == "GET" else {})
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        """Loads a page."""
        self._call("POST", f"{self._base}/url", {"url": url})

    def find(self, selector: str) -> str:
        """The id of the first element of a CSS selector."""
        found = self._call("POST", f"{self._base}/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return str(self._call("GET", f"{self._base}/element/{self.find(selector)}/text"))

    def click(self, selector: str) -> None:
        self._call("POST", f"{self._base}/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Presses keys in an element."""
        self._call("POST", f"{self._base}/element/{self.find(selector)}/value", {"text": text})

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._call("POST", f"{self._base}/execute/sync", {"script": script, "args": []})

    def wait(self, selector: str, words: str) -> str:
        """The element's text once it has `words`."""
        end = time.monotonic() + 15
        while words not in (text := self.text(selector)) and time.monotonic() < end:
            time.sleep(0.05)
        assert words in text
        return text

    def complaints(self) -> list[str]:
        """What the browser's console says at level severe: scripts that fail, policies that block."""
        log = self._call("POST", f"{self._base}/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def close(self) -> None:
        self._call("DELETE", self._base)
        self._client.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium by chromedriver; both must be installed."""
    driver = shutil.which("chromedriver")
    assert driver, "install Debian's chromium and chromium-driver (make test does)"
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    port = None
    for line in process.stdout:
        if match := re.search(r"started successfully on port (\d+)", line):
            port = match[1]
            break
    assert port, "chromedriver does not start"
    page = Browser(f"http://127.0.0.1:{port}")
    yield page
    page.close()
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.mark.browser
def test_trying_the_sample(model_json: Path, start: Callable[..., Any], browser: Browser) -> None:
    """Predict shows status, time and answer; a bad body shows the service's sentence; reset brings the sample back."""
    browser.open(start(model_json).url + "/")
    assert browser.wait("#ready", "ready") == "ready"
    browser.click("button[type=submit]")
    assert "14.499" in browser.wait("#answer", "prediction")
    assert browser.text("#summary").startswith("200 · ")
    browser.run("document.getElementById('body').value = '{\"data\": [[1]]}'")
    browser.click("button[type=submit]")
    browser.wait("#answer", "Row 1")
    assert browser.text("#summary").startswith("400")
    browser.click("#reset")
    assert "merlot" in browser.run("return document.getElementById('body').value")
    browser.click("#copy")
    assert not [message for message in browser.complaints() if "400 (BAD REQUEST)" not in message]


@pytest.mark.browser
def test_by_keyboard_alone(model_json: Path, start: Callable[..., Any], browser: Browser) -> None:
    """Ctrl+Enter predicts, and Tab reaches the body, the buttons, the answer and the links in reading order."""
    browser.open(start(model_json).url + "/")
    browser.type("#body", "\ue009\ue007")  # Control and Enter
    browser.wait("#answer", "14.499")
    reached = []
    browser.run("document.getElementById('body').focus()")
    for _ in range(8):
        reached.append(browser.run("const e = document.activeElement; return e.id || e.type || e.tagName"))
        browser.type(":focus", "\ue004")  # Tab
    assert reached[:6] == ["body", "submit", "reset", "answer", "curl", "copy"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_no_part_is_cut_off(model_json: Path, start: Callable[..., Any], browser: Browser, width: int) -> None:
    """On a phone and on a desk nothing makes the page scroll sideways."""
    browser.open(start(model_json).url + "/")
    browser._call("POST", f"{browser._base}/window/rect", {"width": max(width, 500), "height": 900})
    browser.run(f"document.body.style.width = '{width}px'")
    assert browser.run("return document.body.scrollWidth <= document.body.clientWidth + 1")


@pytest.fixture
def proxy() -> Iterator[Callable[[str], str]]:
    """`proxy(url)`: a proxy that serves `url` under /models/wine and takes the prefix off; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def run(target: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {"X-Forwarded-Prefix": "/models/wine", "Content-Type": self.headers.get("Content-Type", "")}
                path = self.path.removeprefix("/models/wine")
                answer = httpx.request(self.command, target + path, content=body, headers=headers, trust_env=False)
                self.send_response(answer.status_code)
                for name in ("Content-Type", "Content-Security-Policy"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = _forward

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/models/wine"

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.browser
@pytest.mark.parametrize("end", ["", "/"])
def test_behind_a_proxy_with_a_prefix(
    model_json: Path, start: Callable[..., Any], browser: Browser, proxy: Callable[[str], str], end: str
) -> None:
    """Style, script, readiness and prediction all work under the prefix, with and without a final slash."""
    browser.open(proxy(start(model_json).url) + end)
    browser.wait("#ready", "ready")
    browser.click("button[type=submit]")
    browser.wait("#answer", "14.499")
    assert browser.run("return getComputedStyle(document.querySelector('main')).display") == "grid"
    assert browser.complaints() == []
