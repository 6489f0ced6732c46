"""Take pictures of every page of the built site, wide and narrow, light and dark, to look at.

    make docs
    python docs/screenshots.py PICTURES

Writes PICTURES/PAGE_WIDTH_SCHEME.png. Needs headless Chromium, such as Debian's package `chromium`, or its path in the
environment variable CHROMIUM. Takes some seconds a page.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SITE = Path(__file__).parents[1] / "site"
SIZES = {1280: 3000, 400: 3000}  # pixels: width → height
SCHEMES = {"dark": 0, "light": 1}  # Chromium's numbers for preferredColorScheme


def take(browser: str, page: Path, picture: Path, width: int, scheme: str) -> None:
    """Take one picture."""
    options = [f"--window-size={width},{SIZES[width]}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    command = [browser, "--headless", "--hide-scrollbars", *options, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(arguments: list[str]) -> int:
    """Take the pictures."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if len(arguments) != 1 or browser is None or not SITE.is_dir():
        missing = "" if browser else "\nChromium is not found."
        print(f"{__doc__}{missing}", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for page in sorted(SITE.glob("**/*.html")):
        name = "_".join(page.relative_to(SITE).with_suffix("").parts)
        for width in SIZES:
            for scheme in SCHEMES:
                take(browser, page, folder.resolve() / f"{name}_{width}_{scheme}.png", width, scheme)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
