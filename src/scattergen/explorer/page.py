"""The page: its parts, and which of them answer when something is set."""

import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from unittest import mock

from scattergen.errors import ScattergenError

if TYPE_CHECKING:
    from scattergen.datasets import Dataset
    from scattergen.explorer.session import Explorer

Opening = Callable[[], "AbstractContextManager[Explorer]"]
TABS = ("nearest", "edit", "morph", "scattering", "dependence")
_TEMPLATES = Path(__file__).parent / "templates"
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # that nobody needs to fetch


def opening(run: Path | str, images: "Dataset | None" = None, device: str = "cpu") -> Opening:
    """Opens a run for one thread at a time; PyTorch, which takes seconds to import, waits for the first."""
    lock = Lock()
    made: list[Explorer] = []

    @contextmanager
    def open_run() -> "Iterator[Explorer]":
        from scattergen.explorer.session import Explorer

        with lock:
            if not made:
                made.append(Explorer(run, images, device))
            yield made[0]

    return open_run


def build(opening: Opening) -> Any:
    """The page of a run, a `gradio.Blocks`."""
    try:
        with mock.patch("inspect.getfile", side_effect=OSError):  # else it parses its sources: half of the seconds
            import gradio as gr
    except ImportError as error:
        what = f"The page needs Gradio ({error})"
        raise ScattergenError(f"{what}: install it by pip install 'scattergen[ui]'.") from error

    with gr.Blocks(title="scattergen", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        _listen(gr, blocks, _layout(gr), opening)
    # So that whoever deploys the page launches it in this way, too.
    blocks.launch = partial(
        blocks.launch, theme=gr.themes.Default(primary_hue="teal", neutral_hue="stone", **_FONTS),
        css=(_TEMPLATES / "style.css").read_text(), footer_links=["settings"], run_history=False, quiet=True,
        max_file_size="32mb",
    )  # fmt: skip
    return blocks


def _layout(gr: Any) -> dict[str, Any]:
    """All components by their names."""
    part: dict[str, Any] = {"title": gr.Markdown("# scattergen\nThe model is being loaded.")}
    part |= {"tab": gr.State("nearest"), "chosen": gr.State(0)}
    gallery = partial(gr.Gallery, format="png", show_label=False, allow_preview=False, buttons=[], height="auto",
        object_fit="contain", interactive=False)  # fmt: skip
    picture = partial(gr.Image, format="png", buttons=[], interactive=False, height=240)
    upload = partial(gr.Image, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=180)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                part["density"] = gr.Dropdown([], label="Density")
                part["label"] = gr.Dropdown(["any"], value="any", label="Class", visible=False)
            with gr.Row():
                part["temperature"] = gr.Slider(0, 1.5, 1, step=0.05, label="Temperature", scale=3, min_width=150)
                part["seed"] = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed",
                    scale=2, min_width=90)  # fmt: skip
            part["others"] = gr.Button("Other samples", variant="primary")
            part["samples"] = gallery(columns=4, label="Samples")
            gr.Markdown("Choose a sample to look at it in the tabs. More of them, as a file:")
            part["command"] = gr.Markdown()
        with gr.Column(scale=3, min_width=320), gr.Tabs() as part["tabs"]:
            with gr.Tab("Nearest", id="nearest"):
                gr.Markdown((_TEMPLATES / "nearest.md").read_text())
                part["neighbours"] = gallery(columns=3)
                part["neighbours-text"] = gr.Markdown()
            with gr.Tab("Edit", id="edit"):
                gr.Markdown((_TEMPLATES / "edit.md").read_text())
                with gr.Row(elem_classes="follows"):
                    part["before"] = picture(label="the sample", min_width=120)
                    part["after"] = picture(label="changed", min_width=120)
                for k in range(8):
                    name = f"Component {k + 1}"
                    part[f"component-{k}"] = gr.Slider(-4, 4, 0, step=0.1, label=name, visible=k == 0)
                part["level"] = gr.Button("Back to the sample")
            with gr.Tab("Morph", id="morph"):
                gr.Markdown((_TEMPLATES / "morph.md").read_text())
                with gr.Row():
                    part["from"] = upload(label="From", min_width=140)
                    part["to"] = upload(label="To", min_width=140)
                part["position"] = gr.Slider(0, 1, 0.5, step=0.01, label="Position")
                part["between"] = picture(label="Between")
                part["steps"] = gallery(columns=10)
            with gr.Tab("Scattering", id="scattering"):
                gr.Markdown((_TEMPLATES / "scattering.md").read_text())
                part["picture"] = upload(label="Your picture")
                part["restored"] = gallery(columns=3)
                part["restored-text"] = gr.Markdown()
                part["coefficients"] = gr.HTML()
            with gr.Tab("Dependence", id="dependence"):
                gr.Markdown((_TEMPLATES / "dependence.md").read_text())
                part["map"] = gr.HTML()
                part["pair"] = gr.Dropdown([], label="Pair, the most dependent ones first")
                part["points"] = gr.HTML()
    for name, component in part.items():
        component.elem_classes = [f"part-{name}"]
    return part


def _listen(gr: Any, blocks: Any, part: dict[str, Any], opening: Opening) -> None:
    """Let every component that can be set change what depends on it."""
    tabs, buttons = part.pop("tabs"), {name: part.pop(name) for name in ("others", "level")}
    names = {component: name for name, component in part.items()}

    def answer(view: str, given: Mapping[Any, Any], **new: Any) -> dict[Any, Any]:
        from scattergen.explorer import views

        values = {names[component]: value for component, value in given.items()} | new
        try:
            with opening() as explorer:
                shown = {**new, **getattr(views, view)(explorer, values)}
        except ScattergenError as error:
            raise gr.Error(html.escape(str(error)), title="Not possible", print_exception=False) from error
        return {part[name]: gr.update(**v) if isinstance(v, dict) else v for name, v in shown.items()}

    def choose(given: Mapping[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        return answer("look", given, chosen=event.index)

    def turn(given: Mapping[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        return answer("look", given, tab=TABS[event.index])

    # As files of uploads come, so that the run's own rules read them; values are checked where they are used.
    how = {"inputs": {*part.values()}, "outputs": [*part.values()], "preprocess": False, "api_visibility": "private"}
    how |= {"concurrency_id": "page", "concurrency_limit": 1}  # one after the other, so that each knows what is chosen
    blocks.load(partial(answer, "begin"), **how)
    part["samples"].select(choose, show_progress="hidden", **how)
    tabs.select(turn, show_progress="hidden", **how)
    buttons["others"].click(partial(answer, "others"), show_progress="hidden", **how)
    buttons["level"].click(partial(answer, "level"), show_progress="hidden", **how)
    for name in ("density", "label", "seed"):
        part[name].input(partial(answer, "resample"), show_progress="hidden", **how)
    live = {"trigger_mode": "always_last", "show_progress": "hidden", **how}
    part["temperature"].input(partial(answer, "resample"), **live)
    for name in ("position", "pair", *(name for name in part if name.startswith("component-"))):
        part[name].input(partial(answer, "look"), **live)
    for name in ("from", "to", "picture"):
        part[name].change(partial(answer, "look"), **how)
