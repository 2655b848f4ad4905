"""Copies the front-end files that the pages use from node_modules/ to static/vendor/: `python -m standalone.frontend`.

Run after `npm ci`. Files go in as they are, nothing is bundled; the icons that the templates name are joined
into one SVG sprite, and what compresses well lies beside its gzip form, which portal/assets.py serves.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATTERNFLY = "@patternfly/patternfly"
FONTS = ("RedHatText/RedHatTextVF", "RedHatDisplay/RedHatDisplayVF", "RedHatMono/RedHatMonoVF")
COPIES = {
    f"{PATTERNFLY}/patternfly.min.css": "patternfly/patternfly.min.css",
    **{f"{PATTERNFLY}/assets/fonts/{font}.woff2": f"patternfly/assets/fonts/{font}.woff2" for font in FONTS},
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "@novnc/novnc/core": "novnc/core",
    "@novnc/novnc/vendor": "novnc/vendor",
    # under the LGPL, so it goes with its licence and its source, which the map holds
    **{f"spice-client/{file}": f"spice-client/{Path(file).name}"
       for file in ("dist/esm/index.js", "dist/esm/index.js.map", "LICENSE")},
}
QUOTED = re.compile(r"""["'](?:icon:)?([a-z0-9-]+)["']""")


def vendor(root: Path = ROOT) -> Path:
    """Make static/vendor/ anew and answer where it is; exits with a sentence when `npm ci` has not run."""
    modules, target = root / "node_modules", root / "static" / "vendor"
    if missing := [name for name in COPIES if not (modules / name).exists()]:
        raise SystemExit(f"node_modules lacks {missing[0]}: run “npm ci” in {root} first.")
    fresh = target.with_name("vendor.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for source, name in COPIES.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (modules / source).is_dir() else shutil.copyfile
        copy(modules / source, fresh / name)
    icons = modules / "lucide-static" / "icons"
    (fresh / "icons.svg").write_text(sprite(icons, icon_names(icons, root)))
    for path in sorted(fresh.rglob("*")):
        if path.suffix in {".css", ".js", ".svg"}:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def icon_names(icons: Path, root: Path = ROOT) -> list[str]:
    """Whatever templates and pages quote that is the name of an icon; a word too many costs a few bytes."""
    sources = [*(root / "templates").rglob("*.html"), *(root / "portal").glob("*.py")]
    return sorted({name for path in sources for name in QUOTED.findall(path.read_text()) if (icons / f"{name}.svg").exists()})


def sprite(folder: Path, names: list[str]) -> str:
    """One SVG with a symbol per icon."""
    symbols = []
    for name in names:
        inner = re.search(r"<svg[^>]*>(.*)</svg>", (folder / f"{name}.svg").read_text(), re.S)
        assert inner is not None
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{" ".join(inner[1].split())}</symbol>')
    return f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>\n'


if __name__ == "__main__":
    print(f"Front-end files are in {vendor()}.", file=sys.stderr)
