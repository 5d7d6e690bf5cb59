"""Consoles as people have them: names, encodings, streams that are full or closed, Ctrl-C, others' loggers, scripts."""

import html
import io
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen import cli
from scattergen.cli.arguments import parse_labels
from scattergen.datasets import ImageFolder, mnist
from scattergen.datasets.reading import WorkerProcesses
from scattergen.display.progress import Progress
from scattergen.display.words import visible
from scattergen.errors import InputError, ScattergenError
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.model import GenerativeScatteringNetwork
from scattergen.report import fit_report

# Names ---------------------------------------------------------------------------------------------------------------

NAMES = [
    os.fsdecode(name)
    for name in (
        b"\xff", b"caf\xe9", b"a\nb", b"\x1b[31mred", "\u202egnp.exe".encode(), "\u2066x".encode(), "😀,1".encode(),
        unicodedata.normalize("NFD", "é").encode(), b"<b>&\"'", b"$x$ 50%", "日本".encode(), b"\xed\xa0\x80",
    )
]  # fmt: skip


def harmless(text):
    """Whether text is UTF-8 and no character in it acts on a terminal or turns the direction of writing."""
    text.encode()
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\n", ""))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_report_is_text_whatever_names_hold(tmp_path, name):
    entry = fit_report.DensityEntry(name, {name: name}, 0.1, torch.rand(2, 1, 8, 8), layers=name)
    facts = fit_report.FitReport(
        name, (1, 8, 8), 5, command=f"scattergen {name}", config={name: {name: name}}, machine={name: name},
        densities=[entry], stages=[(name, 1.0)],
    )  # fmt: skip
    page = fit_report.write_fit_report(facts, tmp_path).read_bytes().decode()
    assert harmless(page)
    assert html.escape(visible(name), quote=False).replace('"', "&#34;").replace("'", "&#39;") in page


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_tensors_are_read_from_folders_of_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    write_tensors(tmp_path / name / "a.safetensors", {"x": torch.arange(3)}, {name: name})
    tensors, metadata = read_tensors(tmp_path / name / "a.safetensors")
    assert (tensors["x"].tolist(), metadata) == ([0, 1, 2], {name: name})


@pytest.fixture(scope="module")
def odd_run(scattergen, tmp_path_factory):
    """A run whose folder, images, their folder and classes have names that are not UTF-8, or have commas."""
    top = tmp_path_factory.mktemp("odd")
    folder, classes = top / os.fsdecode(b"f\xff\n\xe2\x80\xae"), [os.fsdecode(b"c\xff,1"), "c, d", "1"]
    pixels = (mnist().train[:24][:, 0].numpy() * 255).astype(np.uint8)
    for i, image in enumerate(pixels):
        (folder / classes[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / classes[i % 3] / os.fsdecode(b"%02d\xfe.png" % i))
    run = top / os.fsdecode(b"run\xff\t")
    options = {
        "encoder.n_components": 4, "encoder.flips": "false", "decoder.kind": "generator", "decoder.channels": "[4,4,4]",
        "training.loss": "pixels", "training.flips": "false", "training.epochs": 1, "sampling.sharpen": 0,
    }  # fmt: skip
    changes = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    command = ("fit", folder, "--out", run, "--densities", "gaussian-by-class", *changes)
    return SimpleNamespace(path=run, command=command, classes=classes, first=scattergen(*command, "--json"))


def test_a_fit_of_names_that_are_not_utf8_ends_and_can_be_repeated(scattergen, odd_run):
    assert json.loads(odd_run.first.out)["run"] == str(odd_run.path)
    assert harmless(odd_run.first.err)
    again = scattergen(*odd_run.command)
    assert "nothing to do" in again.out
    assert harmless(again.out)
    assert r"run\udcff\t" in again.out
    page = (odd_run.path / "report.html").read_bytes().decode()
    assert r"\udcff" in page
    assert harmless(page)
    assert json.loads((odd_run.path / "run.json").read_bytes())["stages"]
    told = scattergen("info", odd_run.path)
    assert harmless(told.out)
    assert json.loads(scattergen("info", odd_run.path, "--json").out)["complete"]


def test_classes_with_commas_and_odd_bytes_are_sampled(scattergen, odd_run, tmp_path):
    for labels, count in ((odd_run.classes[:1], 1), (odd_run.classes, 3), ([",".join(odd_run.classes)], 3)):
        out = tmp_path / f"{len(labels)}{count}.npz"
        asked = [word for label in labels for word in ("--label", label)]
        scattergen("sample", odd_run.path, *asked, "-n", 6, "--out", out, "-q")
        with np.load(out) as arrays:
            assert len(set(arrays["labels"].tolist())) == count
            assert {*odd_run.classes} == {*arrays["classes"].tolist()}


@pytest.mark.parametrize(
    ("options", "classes", "labels"),
    [
        (["3,5"], "0123456789", ["3", "5"]),
        (["a,b"], ["a,b", "c"], ["a,b"]),
        (["a,b,c"], ["a,b", "c"], ["a,b", "c"]),
        (["c, a,b"], ["a,b", "c"], ["c", "a,b"]),
        (["a,b"], ["a", "b", "a,b"], ["a,b"]),
        (["a", "b"], ["a", "b", "a,b"], ["a", "b"]),
        (["a,b,c,d"], ["a,b", "a,b,c"], ["a,b,c", "d"]),
        ([","], [","], [","]),
        ([" x"], [" x"], [" x"]),
        (["a, b"], ["a, b"], ["a, b"]),
        (["x,"], ["x,"], ["x,"]),
        (["3 , 5"], (), ["3", "5"]),
        ([], ["a"], []),
    ],
)
def test_labels_are_split_at_commas_that_belong_to_no_name(options, classes, labels):
    assert parse_labels(options, classes) == labels


@pytest.mark.parametrize("option", ["", ",", "a,", ",a", "a,,a", " "])
def test_a_label_that_lacks_a_class_is_refused(option):
    with pytest.raises(InputError, match="lacks a class"):
        parse_labels([option], ["a"])


# Encodings -----------------------------------------------------------------------------------------------------------

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "cp850", "koi8-r", "shift-jis", "gbk", "utf-8", "utf-16"]


@pytest.fixture
def console(monkeypatch):
    """Calls the command line with streams of its own; gives its exit code."""

    def call(*arguments, out=None, err=None):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["scattergen", *map(str, arguments)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as stop:
                cli.main()
        return stop.value.code

    return call


def stream(encoding="utf-8"):
    return io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")


def text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_everything_is_printed_in_any_encoding(console, odd_run, encoding):
    commands = {
        ("--help",): "Generative models", ("sample", "--help"): "Make new images",
        ("evaluate", "--help"): "standard error; behind", ("nearest", "--help"): "Each image",
        odd_run.command: "Pictures: ", ("info", odd_run.path): r"\udcff", ("info", odd_run.path, "--json"): "{",
    }  # fmt: skip
    for command, expected in commands.items():
        out, err = stream(encoding), stream(encoding)
        assert console(*command, out=out, err=err) == 0
        assert expected in text(out)
    assert console("info", "∞ → é", out=stream(encoding), err=(err := stream(encoding))) == 2
    assert "There is no run folder " in text(err)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"a\xd7b \xb1 \u221e caf\xe9"), ("latin-1", r"a×b ± \u221e café"), ("utf-8", "a×b ± ∞ café")],
)
def test_what_an_encoding_lacks_is_escaped(console, encoding, shown):
    assert console("info", "a×b ± ∞ café", out=stream(encoding), err=(err := stream(encoding))) == 2
    assert f"There is no run folder {shown}: fit one" in text(err)


@pytest.mark.parametrize(
    "variables",
    [{"COLUMNS": c} for c in ("1", "2", "20", "10000", "0", "-5", "x", "")]
    + [
        {"TERM": "dumb"},
        {"TERM": ""},
        {"NO_COLOR": "1"},
        {"FORCE_COLOR": "1"},
        {"LINES": "1"},
        {"TTY_COMPATIBLE": "1"},
    ],
    ids=str,
)
def test_any_width_and_terminal_will_do(scattergen, odd_run, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for command in (["--help"], ["sample", "--help"], ["info", odd_run.path], odd_run.command):
        assert scattergen(*command).out


# Streams that are full, closed or gone -------------------------------------------------------------------------------

STREAMS = ["full", "closed", "gone"]


@pytest.fixture
def broken():
    """Makes streams that take nothing."""
    opened = []

    def make(kind):
        if kind == "closed":
            return None  # as Python has it
        if kind == "full":
            opened.append(open("/dev/full", "w"))  # noqa: SIM115
        else:
            reading, writing = os.pipe()
            os.close(reading)
            opened.append(os.fdopen(writing, "w"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()  # which would raise if the text were still there


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("command", ["--help", "--version", "info", "info --json", "sample --json", "fit --json"])
def test_a_result_that_cannot_be_printed_is_told(console, broken, odd_run, tmp_path, command, kind):
    arguments = {
        "info": [odd_run.path], "sample": [odd_run.path, "-n", 1, "--out", tmp_path / "a.npy"],
        "fit": odd_run.command[1:],
    }  # fmt: skip
    name, *options = command.split()
    code = console(name, *arguments.get(name, []), *options, out=broken(kind), err=(err := stream()))
    if kind == "gone":  # whoever read it has seen enough
        assert (code, text(err).count("error")) == (1, 0)
        return
    assert code == 2
    reason = "it is closed" if kind == "closed" else "No space left on device"
    assert text(err).splitlines()[-1].startswith("error: What was to be printed is lost, since the output cannot")
    assert reason in text(err)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("command", ["fit", "sample"])
def test_what_is_written_to_files_is_done_without_an_output(console, broken, odd_run, tmp_path, command, kind):
    out = tmp_path / "a.npy"
    arguments = odd_run.command if command == "fit" else ("sample", odd_run.path, "-n", 1, "--out", out, "-q")
    code = console(*arguments, out=broken(kind), err=(err := stream()))
    assert code == (1 if kind == "gone" else 0)
    assert ("the command is done and its files are written." in text(err)) == (kind != "gone")
    assert command == "fit" or out.is_file()


@pytest.mark.parametrize("kind", STREAMS)
def test_without_standard_error_all_is_done_and_the_result_is_clean(console, broken, odd_run, tmp_path, kind):
    out = tmp_path / "a.npy"
    code = console("sample", odd_run.path, "-n", 1, "--out", out, "--json", out=(said := stream()), err=broken(kind))
    assert code == 0
    assert out.is_file()
    assert json.loads(text(said))["out"] == str(out)
    for mistaken in (["info", "nowhere"], ["--unknown"], ["info"]):
        assert console(*mistaken, out=(said := stream()), err=broken(kind)) == 2
        assert text(said) == ""


@pytest.mark.parametrize("kind", STREAMS)
def test_progress_of_a_library_ends_no_work(broken, monkeypatch, capsys, kind):
    monkeypatch.setattr(sys, "stderr", error := broken(kind))
    progress = Progress()
    progress.message("a")
    with progress.task("b", 2) as task:
        task.advance(2)
    assert task.completed == 2
    if error is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), error.fileno())
    assert capsys.readouterr().out == ""


SHELL = [
    ("--version >&-", 2), ("--version >/dev/full", 2), ("--help >/dev/full", 2), ("--version 2>&-", 0),
    ("--version <&- 2>/dev/full", 0), ("--unknown 2>&-", 2), ("--unknown 2>/dev/full", 2),
    ("--version <&- >&- 2>&-", 2), ("--help | head -1", 0),
]  # fmt: skip


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_told_in_the_same_words_without_a_buffer(odd_run, tmp_path, unbuffered):
    info, sample = (["info", odd_run.path], ["sample", odd_run.path, "-n", "1", "--out", tmp_path / "a.npy", "-q"])
    for words, code, end in ((info, 2, "send it to another place.\n"), (sample, 0, "its files are written.\n")):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "scattergen", *words], stdout=full, stderr=subprocess.PIPE, text=True,
                timeout=100, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert done.returncode == code
        assert "What was to be printed is lost" in done.stderr
        assert done.stderr.endswith(end)


@pytest.mark.parametrize(("words", "code"), SHELL, ids=[words for words, _ in SHELL])
def test_streams_as_a_shell_gives_them(words, code):
    command = f"'{sys.executable}' -m scattergen {words}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=100)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("error: ") == (code == 2 and words.startswith("--") and " 2>" not in words)


# Ctrl-C, loggers, scripts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["scattergen.cli", "typer", "rich", "scattergen.cli.using", "numpy", "torch"])
def test_ctrl_c_while_something_is_imported_is_one_line(module):
    code = f"""
        import os, signal, sys

        class Interrupting:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs have ignored
        sys.meta_path.insert(0, Interrupting())
        sys.argv = ["scattergen", "info", "run"]
        from scattergen.__main__ import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted: run it again.")


@pytest.mark.parametrize("name", ["numba", "numba.core.ssa", "PIL", "PIL.PngImagePlugin", "matplotlib.font_manager"])
def test_others_tell_their_insides_only_when_asked_by_name(monkeypatch, name):
    pytest.importorskip("numba", reason="an extra that need not be installed")
    import scattergen.scattering.kernels  # noqa: F401

    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    logging.getLogger().manager._clear_cache()
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)
    logging.getLogger().manager._clear_cache()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    return folder


def test_a_script_without_a_guard_is_told_of_it(pictures, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from scattergen.datasets import ImageFolder\n"
        f"images = ImageFolder({str(pictures)!r}, cache_bytes=0, workers=2)\n"
        "print(images[:].shape)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert 'begin its work below the line `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert "memory" not in done.stderr
    assert "bootstrapping" not in done.stderr  # the words of multiprocessing


@pytest.mark.parametrize("file", ["<stdin>", "/dev/stdin", "gone.py"])
def test_a_script_that_no_process_can_read_again_is_told_of_the_guard(pictures, monkeypatch, file):
    main = SimpleNamespace(__file__=file, __spec__=None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ScattergenError, match="write it to a file and begin its work below the line `if __name__"):
        ImageFolder(pictures, cache_bytes=0, workers=2)[:]


def test_a_process_that_begins_by_running_the_script_again_ends_silently(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        list(WorkerProcesses(1).map(abs, [1]))


# Places for results --------------------------------------------------------------------------------------------------

COMMANDS = {
    "fit": ["mnist"], "sample": [], "encode": ["mnist"], "decode": ["codes.npy"], "reconstruct": ["mnist"],
    "interpolate": ["mnist"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "place", ["file/a.npz", "file/deeper/a.npz", f"{'n' * 260}.npz", f"{'d' * 260}/a.npz", "/proc/none/a.npz", "own"]
)
def test_a_place_that_cannot_be_written_to_is_found_before_the_work(scattergen, monkeypatch, tmp_path, command, place):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("precious")
    np.save(tmp_path / "codes.npy", np.zeros((2, 16), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GenerativeScatteringNetwork, "load", lambda *_, **__: pytest.fail("the work has begun"))
    monkeypatch.setattr("scattergen.cli.opening.open_to_fit", lambda *_, **__: pytest.fail("the work has begun"))
    run = [] if command == "fit" else ["run"]
    error = scattergen(command, *run, *COMMANDS[command], "--out", place, code=2).err
    assert place in error
    assert error.count("\n") == 1
    assert (tmp_path / "own" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_other_pictures_in_a_folder_are_found_before_the_work(scattergen, monkeypatch, odd_run, tmp_path, command):
    (tmp_path / "999.png").write_text("precious")
    for work in ("sample_codes", "encode", "decode", "interpolate"):
        monkeypatch.setattr(GenerativeScatteringNetwork, work, lambda *_, **__: pytest.fail("the work has begun"))
    count = ["--steps", 3] if command == "interpolate" else ["-n", 3]
    error = scattergen(command, odd_run.path, *COMMANDS[command], *count, "--out", tmp_path, "-q", code=2).err
    assert "holds 999.png and so on" in error


@pytest.mark.parametrize("path", ["~", "~/run", "~nobody-here/run"])
def test_a_home_that_there_is_not_is_named(scattergen, monkeypatch, path):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no entry")))
    for command in (
        ["info", path],
        ["sample", "run", "--out", f"{path}.png"],
        ["encode", "run", path, "--out", "a.npy"],
    ):
        assert scattergen(*command, code=2).err.count("error: ") <= 1
