"""What mkdocs.yml adds to MkDocs: pages of notebooks, what lies outside docs/, and our docstrings' sections."""

import json
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\((?!https?:|data:|#)([^)#]+)")
_PAGES = {ROOT / "CONTRIBUTING.md": "contributing.md", ROOT / "README.md": "index.md"}


def notebook_page(path: Path) -> str:
    """A notebook as a page in Markdown: its texts, its code, and the pictures and words that its cells printed."""
    parts = [f"[Download this notebook]({path.name}){{ .md-button download }}"]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                words = cell["metadata"].get("alt", "What this cell draws")
                content = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![{words}](data:image/png;base64,{content})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    title = parts.pop(1)
    return "\n\n".join([title, *parts]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give every notebook and CONTRIBUTING.md a page, and the site a copy of each other file that a page links to."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=guide))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            path = Path(config.docs_dir) / file.src_uri
            files.append(File.generated(config, file.src_uri[:-5] + "md", content=notebook_page(path)))
        elif file.is_documentation_page():
            for linked, name in _outside(file, config).values():
                if name not in files.src_uris:
                    files.append(File.generated(config, name, abs_src_path=str(linked)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ to where those files are in the site, and those to notebooks to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for target, (_, name) in _outside(page.file, config).items():
        markdown = re.sub(rf"\]\({re.escape(target)}(?=[)#])", f"]({up}{name}", markdown)
    return re.sub(r"\]\(([^):]+)\.ipynb\)(?!\{)", r"](\1.md)", markdown)  # but what offers it for download


def _outside(file: File, config: MkDocsConfig) -> dict[str, tuple[Path, str]]:
    """Targets of a page's links outside docs/: the file, and its name in the site."""
    found, docs = {}, Path(config.docs_dir)
    for target in _LINK.findall(file.content_string):
        linked = (docs / file.src_uri).parent.joinpath(target).resolve()
        if linked.is_file() and linked.is_relative_to(ROOT) and not linked.is_relative_to(docs):
            found[target] = linked, _PAGES.get(linked, f"source/{linked.relative_to(ROOT)}")
    return found


def _mathml(match: re.Match[str]) -> str:
    """A formula in TeX as MathML, which browsers draw by themselves."""
    # What begins with a tag is no paragraph to Markdown.
    return "\N{ZERO WIDTH SPACE}" + latex2mathml.converter.convert(match[2].strip().replace("\n", " "))


class Docstrings(Extension):
    """Reads our docstrings' sections as those that Griffe knows, and their formulas."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
        text = re.sub(r"^Args and attributes:$", "Args:", text, flags=re.M)
        # Several names before one explanation stay together, by spaces that do not break.
        names = re.compile(r"^    \w+(?:, \w+)+:(?= )", re.M)
        text = names.sub(lambda match: "    " + match[0].strip().replace(", ", ",\N{NO-BREAK SPACE}"), text)
        obj.docstring.value = re.sub(r"(\$\$?)([^$]+)\1", _mathml, text)
