"""What the site needs beyond docs/: pages from elsewhere in the repository, titles of blocks."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "native.md": "native/README.md",
}
"""Page of the site -> file of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where pages are on the site; what follows a fence is the block's title."""
    uri = page.file.src_uri
    here = posixpath.dirname(ELSEWHERE.get(uri, f"docs/{uri}"))
    pages = {source: target for target, source in ELSEWHERE.items()}

    def moved(link: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(here, link[1]))
        target = pages.get(file, file.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}"

    markdown = re.sub(r"\]\(([\w./-]+\.md)", moved, markdown)
    markdown = re.sub(r"^```graph (.*)$", r'```text title="--passes=\1"', markdown, flags=re.M)
    return re.sub(r"^```(\w+) ([^\n\"]+)$", r'```\1 title="\2"', markdown, flags=re.M)
