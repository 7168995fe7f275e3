"""nibble inspect --html, opened by a browser without a network: all of the page is there, and it is painted.

    python3 page_in_a_browser.py NIBBLE CHROMIUM MODEL
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    nibble, chromium, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        subprocess.run([nibble, "inspect", "-m", model, "--html", page], check=True, stdout=subprocess.DEVNULL)
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
                   "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,1600"]  # fmt: skip

        def browser(*arguments: str) -> str:
            result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=120)
            return result.stdout

        dom = browser("--dump-dom", page.as_uri())
        for element in ("h2", "figure", "svg", "rect", "circle", "path", "title"):
            written, read = (len(re.findall(f"<{element}[ >]", text)) for text in (page.read_text(), dom))
            assert 0 < written == read, f"{element}: {written} written, the browser has {read}"

        def bytes_of_picture(address: str) -> int:
            picture = Path(folder) / "picture.png"
            browser(f"--screenshot={picture}", address)
            return picture.stat().st_size

        blank, painted = bytes_of_picture("about:blank"), bytes_of_picture(page.as_uri())
        assert painted > 4 * blank, f"its picture has {painted} bytes, an empty page's {blank}"


if __name__ == "__main__":
    main()
