"""The command that explores a run in the browser."""

import json
import signal
from typing import Annotated

from typer import Option

from scattergen.cli import arguments as arg
from scattergen.display.words import say


def explore(
    run: arg.Run,
    images: Annotated[str | None, Option(metavar="IMAGES",
        help="The images that the run was fitted to, of which it shows the nearest; not needed for MNIST.")] = None,
    port: Annotated[int | None, Option(min=1, max=65535, help="Of the page.",
        show_default="the first free one from 7860 on")] = None,
    host: Annotated[str, Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    reading: arg.Reading = arg.READING, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    r"""Explore a run in the browser: sample, edit, morph, and see what scattering sees.

    Only this machine reaches the page, which works offline; Ctrl-C ends it. Pictures that you show
    it are deleted then. It needs the extra "ui": pip install 'scattergen\[ui]'.

    [bold]Examples[/bold]
      scattergen explore runs/mnist
      scattergen explore runs/faces --images faces/ --port 8000 --no-browser
    """
    from scattergen.explorer.opening import opening
    from scattergen.explorer.serving import serve

    data = None
    if images is not None or not (run / "run.json").is_file():  # else PyTorch is imported once the page is there
        from scattergen.cli.opening import open_of_run
        from scattergen.explorer.session import Explorer

        data = open_of_run(run, images, reading)
        _ = Explorer(run, data).training_images  # refuses those of another run
    if common.threads is not None or common.device != "cpu":
        from scattergen.cli.opening import prepare

        prepare(common)

    def tell(address: str) -> None:
        said = f"{run} is shown at {address} until you press Ctrl-C."
        print(json.dumps({"address": address}), flush=True) if common.as_json else say(said)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(opening(run, data, common.device), host=host, port=port, browser=browser, tell=tell)
