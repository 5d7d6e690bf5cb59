"""The commands that hand a model on: export and push."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from scattergen.cli import arguments as arg
from scattergen.errors import InputError

License = Annotated[str | None, Option("--license", metavar="ID",
    help="Of the model, for its card, such as cc-by-4.0.")]  # fmt: skip


def export(
    run: arg.Run, to: Annotated[Literal["onnx", "torch", "folder"], Option(help="What to write.")],
    out: Annotated[Path, Option(metavar="PATH", help="decoder.onnx, decoder.pt2, or a new folder.", parser=arg.path)],
    sharpen: Annotated[float, Option(min=0, max=1, help="Sharpening to build into a decoder.")] = 0.0,
    licence: License = None, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Write the decoder for other programs, or the run as a small folder.

    A decoder, as ONNX or a program of torch.export, makes images (N, C, H, W) in [0, 1] of codes
    (N, d), and is compared with the run's at once. The folder has no training codes, report and
    pictures of real images: it can be sampled, but no density can be fitted to it. Its README.md
    is the card that `push` would publish.

    Examples:
      scattergen export runs/faces --to onnx --out decoder.onnx --sharpen 0.7
      scattergen export runs/mnist --to folder --out small
    """
    from scattergen.cli.opening import prepare
    from scattergen.model import GenerativeScatteringNetwork
    from scattergen.runs import RunFolder
    from scattergen.sharing.decoder_files import export_decoder
    from scattergen.sharing.folder import export_folder

    progress, opened = prepare(common), RunFolder.open(run)
    if to == "folder" and sharpen > 0:
        raise InputError("A folder keeps the strength of its run: leave out --sharpen, and name it to `sample`.")
    if to != "folder" and licence is not None:
        raise InputError(f"Only a folder has a card: leave out --license with --to {to}.")
    found: dict[str, object] = {"out": str(out)}
    if to == "folder":
        found["card"] = card = export_folder(opened, out, licence=licence, progress=progress)
        told = [*card.splitlines(), "", f"{out}: the run without its training codes, with this card (README.md)."]
    else:
        opened.require("decoder")
        model = GenerativeScatteringNetwork.load(opened, densities=())
        found["largest_difference"] = difference = export_decoder(model, out, to, sharpen=sharpen)
        compared = "not checked, since onnxruntime is not installed (pip install 'scattergen[onnx]')"
        if difference is not None:
            compared = f"its images differ from the run's by at most {difference:.1g} (of 1)"
        told = [f"{out}: {compared}."]
        if model.sharpen > 0 and sharpen == 0:
            told.append(f"New images of this run are sharpened, as these are not: add --sharpen {model.sharpen:g}.")
    arg.tell(common, found, *told)


def push(
    run: arg.Run, name: Annotated[str, Argument(help="The model's name on the Hub.", metavar="USER/NAME")],
    private: Annotated[bool, Option("--private", help="For you and your organization only.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the card and the files, and send nothing.")] = False,
    licence: License = None, common: arg.Common = arg.COMMON,
) -> None:  # fmt: skip
    """Publish a model on the Hugging Face Hub, without its training codes.

    Everybody has it then as hf:USER/NAME in place of RUN. Log in by `hf auth login` first. To edit
    the card, change README.md in a folder that `export` made, and push that folder. Models of CelebA
    are refused, whose terms do not let them be published.

    Example:
      scattergen push runs/emoji USER/emoji --license apache-2.0 --dry-run
    """
    from scattergen.cli.opening import prepare
    from scattergen.runs import RunFolder
    from scattergen.sharing.hub import push as push_run

    progress = prepare(common)
    address, card, sizes = push_run(
        RunFolder.open(run), name, private=private, dry_run=dry_run, licence=licence, progress=progress
    )
    told = [f"{address}: read its card once more, above all what it says of the data."]
    if dry_run:
        files = (f"{size / 1e6:8.2f} MB  {file}" for file, size in sorted(sizes.items()))
        told = [*card.splitlines(), "", *files, f"Nothing was sent to {address}."]
    arg.tell(common, {"address": address, "sent": not dry_run, "card": card, "bytes": sizes}, *told)
