"""The page: its parts, and which of them answer when something is set."""

import html
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from scattergen.errors import ScattergenError

if TYPE_CHECKING:
    from scattergen.explorer.serving import Shared

LARGEST_UPLOAD = "32mb"

_STYLE = """
.gradio-container { max-width: 1240px !important; margin: auto; }
.pictures img { image-rendering: pixelated; }
.drawing { width: 100%; max-width: 34rem; display: block; }
.drawing text { font-size: 8px; fill: var(--body-text-color-subdued); }
.drawing .m, .drawing .s0 circle { fill: var(--primary-500); }
.drawing .s1 circle { fill: #d9623f; }
.drawing circle { fill-opacity: .55; }
.drawing .f { fill: none; stroke: var(--border-color-primary); stroke-width: .6; }
.coefficients { border-collapse: collapse; text-align: center; table-layout: fixed; width: 100%; max-width: 34rem; }
.coefficients th { width: 2.8rem; font-weight: normal; font-size: .8rem; color: var(--body-text-color-subdued); }
.coefficients td { padding: 2px; line-height: 1.1; }
.coefficients img { width: 100%; image-rendering: pixelated; display: block; }
.coefficients small { font-size: .7rem; color: var(--body-text-color-subdued); }
.coefficients i { display: inline-block; width: 1.4rem; height: 3px; margin: .7rem 0; background: var(--primary-500); }
"""
_FONT, _MONOSPACE = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # the system's own
_SENTENCES = {
    "nearest": "The chosen sample and the training images nearest to it, by their scattering coefficients. If one is "
    "the same picture, the density has copied it.",
    "components": "Left the chosen sample, right the same with its leading components changed by so many standard "
    "deviations. The first ones move what varies most in the images; real images seldom lie beyond ±3.",
    "morph": "A straight line between two codes, decoded: from the chosen sample to the next one, or between two "
    "pictures of yours. Steps that stay sharp and plausible mean that the space between images is used.",
    "scattering": "A picture (the chosen sample, or yours) as the model sees it, and what comes back from its code. "
    "Below, its first-order scattering coefficients: for each scale (row) and orientation (column), where the picture "
    "has lines of this width and direction, brightest in each row, and their share of the energy in percent.",
    "dependence": "How much every two of the leading components depend on each other (distance correlation of ranks): "
    "above the diagonal in the codes of training images, below it in samples of the density. A good density is as dark "
    "as the codes; an independent one leaves its half blank. Below, one pair: codes on the left, samples on the right.",
}


def build(shared: "Shared") -> Any:
    """The page of a run."""
    gr = _gradio()
    with gr.Blocks(title="scattergen explore", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        _listen(gr, blocks, _layout(gr), shared)
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="stone", font=_FONT, font_mono=_MONOSPACE)
    # So that whoever deploys the page launches it as it is meant, too.
    blocks.launch = partial(
        blocks.launch, theme=theme, css=_STYLE, footer_links=["settings"], run_history=False, quiet=True,
        max_file_size=LARGEST_UPLOAD,
    )  # fmt: skip
    return blocks


def _gradio() -> Any:
    """Gradio, imported without the stubs that it writes for editors: to parse its sources is half of the seconds."""
    try:
        with mock.patch("inspect.getfile", side_effect=OSError):
            import gradio
    except ImportError as error:
        what = f"To explore a run in the browser, Gradio is needed ({error})"
        raise ScattergenError(f"{what}: install it by pip install 'scattergen[ui]'.") from error
    return gradio


def _layout(gr: Any) -> dict[str, Any]:
    """All components by their names."""
    part: dict[str, Any] = {"title": gr.Markdown("# scattergen\nThe model is being loaded.")}
    part |= {"tab": gr.State("nearest"), "chosen": gr.State(0)}
    gallery = partial(gr.Gallery, format="png", show_label=False, allow_preview=False, buttons=[], height="auto",
        object_fit="contain", elem_classes="pictures", interactive=False)  # fmt: skip
    picture = partial(gr.Image, format="png", buttons=[], elem_classes="pictures", interactive=False, height=240)
    upload = partial(gr.Image, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=180)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                part["density"] = gr.Dropdown([], label="Density")
                part["label"] = gr.Dropdown(["any"], value="any", label="Class", visible=False)
            part["temperature"] = gr.Slider(0, 1.5, 1, step=0.05, label="Temperature: more or less variety")
            with gr.Row(equal_height=True):
                part["seed"] = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed", min_width=100)
                part["others"] = gr.Button("Other samples", variant="primary", min_width=140)
            part["samples"] = gallery(columns=4, label="Samples")
            gr.Markdown("Choose a sample, then look at it in the tabs. The same samples as a file:")
            part["command"] = gr.Markdown()
        with gr.Column(scale=3, min_width=320), gr.Tabs() as part["tabs"]:
            with gr.Tab("Nearest", id="nearest"):
                gr.Markdown(_SENTENCES["nearest"])
                part["neighbours"] = gallery(columns=3)
                part["neighbours-text"] = gr.Markdown()
            with gr.Tab("Components", id="components"):
                gr.Markdown(_SENTENCES["components"])
                with gr.Row():
                    part["before"] = picture(label="the sample", min_width=120)
                    part["after"] = picture(label="changed", min_width=120)
                for k in range(8):
                    name = f"Component {k + 1}"
                    part[f"component-{k}"] = gr.Slider(-4, 4, 0, step=0.1, label=name, visible=k == 0)
                part["level"] = gr.Button("Back to the sample")
            with gr.Tab("Morph", id="morph"):
                gr.Markdown(_SENTENCES["morph"])
                with gr.Row():
                    part["from"] = upload(label="From (empty: the chosen sample)", min_width=140)
                    part["to"] = upload(label="To (empty: the next sample)", min_width=140)
                part["position"] = gr.Slider(0, 1, 0.5, step=0.01, label="Position")
                part["between"] = picture(label="Between")
                part["steps"] = gallery(columns=9)
            with gr.Tab("Scattering", id="scattering"):
                gr.Markdown(_SENTENCES["scattering"])
                part["picture"] = upload(label="Your picture (empty: the chosen sample)")
                part["restored"] = gallery(columns=3)
                part["coefficients"] = gr.HTML()
            with gr.Tab("Dependence", id="dependence"):
                gr.Markdown(_SENTENCES["dependence"])
                part["map"] = gr.HTML()
                part["pair"] = gr.Dropdown([], label="Pair, the most dependent ones first")
                part["points"] = gr.HTML()
    return part


def _listen(gr: Any, blocks: Any, part: dict[str, Any], shared: "Shared") -> None:
    """Let every component that can be set change what depends on it."""
    tabs, buttons = part.pop("tabs"), {name: part.pop(name) for name in ("others", "level")}
    names = {component: name for name, component in part.items()}

    def answer(view: str, given: Mapping[Any, Any], **new: Any) -> dict[Any, Any]:
        from scattergen.explorer import views

        values = {names[component]: value for component, value in given.items()} | new
        try:
            with shared as explorer:
                shown = {**new, **getattr(views, view)(explorer, values)}
        except ScattergenError as error:
            raise gr.Error(html.escape(str(error)), title="Not possible", print_exception=False) from error
        return {part[name]: gr.update(**v) if isinstance(v, dict) else v for name, v in shown.items()}

    def choose(given: Mapping[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        return answer("look", given, chosen=event.index)

    def turn(given: Mapping[Any, Any], event: gr.SelectData) -> dict[Any, Any]:
        return answer("look", given, tab=list(_SENTENCES)[event.index])

    # As files of uploads come, so that the run's own rules read them; values are checked where they are used.
    how = {"inputs": {*part.values()}, "outputs": [*part.values()], "preprocess": False, "api_visibility": "private"}
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
