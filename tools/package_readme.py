"""README as package indexes show it: they know the page alone, so its links and pictures get the project's address."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PackageReadme(MetadataHookInterface):
    """Called by hatchling for every wheel and source distribution."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the metadata's readme."""
        project = metadata["urls"]["Repository"]
        text = Path(self.root, "README.md").read_text(encoding="utf-8")

        def absolute(link: re.Match[str]) -> str:
            kind = "raw" if link[1].endswith((".png", ".svg")) else "blob"
            return f"]({project}/{kind}/main/{link[1]}"

        text = re.sub(r"\]\((?!https?:|#)([^)#]+)", absolute, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
