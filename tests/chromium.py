"""A page in headless Chromium, driven through the DevTools protocol over a pipe; needs no package."""

import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = "chromium chromium-browser google-chrome google-chrome-stable".split()
FLAGS = (
    "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions"
).split()


def find_chromium():
    """The browser's path; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """with Chromium(width, height) as page: a browser with one empty page.

    messages: what the pages wrote to the console, their errors, and requests that failed, as strings."""

    def __init__(self, width=1200, height=1000):
        self.messages, self.size, self._number = [], (width, height), 0

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()

        def as_three_and_four():
            copies = os.dup(their_in), os.dup(their_out)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            pass_fds=(3, 4), preexec_fn=as_three_and_four, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        self._buffer = b""
        target = self.ask("Target.createTarget", session=False, url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", session=False, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        width, height = self.size
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def ask(self, method, session=True, **params):
        """Send a command of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _read(self):
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended.")
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        answer = json.loads(text)
        match answer.get("method"):
            case "Runtime.consoleAPICalled":
                words = [str(arg.get("value", arg.get("description", ""))) for arg in answer["params"]["args"]]
                self.messages.append(" ".join(words))
            case "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.messages.append(details.get("exception", details).get("description", details["text"]))
            case "Log.entryAdded":
                self.messages.append(answer["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                url = answer["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "about:", "blob:")):
                    self.messages.append(f"The page asked for {url}.")
        return answer

    def open(self, url, ready="document.readyState == 'complete'", seconds=60):
        """Go to a page, and wait until the JavaScript expression `ready` holds."""
        self.ask("Page.navigate", url=url)
        self.wait(ready, seconds)

    def wait(self, ready, seconds=60):
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({ready})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{ready} did not become true in {seconds} s; the console says {self.messages}")
            time.sleep(0.05)

    def run(self, code):
        """The value of a JavaScript expression; promises are waited for."""
        result = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def give_files(self, paths):
        """Have the page read files of float32 numbers: they lie in `files`, a Float32Array by the name of each."""
        code = (
            "document.body.appendChild(Object.assign(document.createElement('input'), {type: 'file', multiple: true}))"
        )
        found = self.ask("Runtime.evaluate", expression=code)["result"]["objectId"]
        self.ask("DOM.setFileInputFiles", files=paths, objectId=found)
        self.run("""(async () => {
            globalThis.files = {};
            for (const file of document.body.lastChild.files) {
                files[file.name] = new Float32Array(await file.arrayBuffer());
            }
        })()""")

    def mouse(self, kind, x, y):
        """kind: "Pressed", "Moved" or "Released"."""
        button = "none" if kind == "Moved" else "left"
        params = {"type": f"mouse{kind}", "x": x, "y": y, "button": button, "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", **params)

    def place(self, selector, across=0.5, down=0.5):
        """Where a point of an element lies in the window, after scrolling to it."""
        code = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{ block: "center", behavior: "instant" }});
            const box = element.getBoundingClientRect();
            return [box.x + {across} * box.width, box.y + {down} * box.height];
        }})()"""
        return self.run(code)

    def click(self, selector, across=0.5, down=0.5):
        x, y = self.place(selector, across, down)
        for kind in ("Moved", "Pressed", "Released"):
            self.mouse(kind, x, y)

    def press(self, key, modifiers=0):
        """Press a key: "ArrowLeft", " ". modifiers: 1 for Alt, 8 for Shift."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)
