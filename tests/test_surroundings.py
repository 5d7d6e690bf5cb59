"""The current folder, the environment, the network, the terminal and a kill: none does harm."""

import fcntl
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from scattergen import cli
from scattergen.__main__ import main as start
from scattergen.cli import opening
from scattergen.cli.arguments import Common
from scattergen.datasets import mnist
from scattergen.datasets.image_files import write_codes, write_images
from scattergen.errors import InputError, ScattergenError
from scattergen.files import temporary_path
from scattergen.processes import Layout, make_fabric, supervise
from scattergen.report.diagnostic_plots import dependence_heat_map, marginal_histograms
from scattergen.report.plots import figure_png, quality_by_time, training_curve
from scattergen.runs import RunFolder

# The current folder ------------------------------------------------------------------------------


@pytest.fixture
def trapped(tmp_path):
    """A folder whose modules, called like ours and others', leave a trace when they are run."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    for name in ("scattergen", "torch", "numpy", "PIL", "typer", "multiprocessing"):
        (folder / f"{name}.py").write_text(
            f"import os, sys\nprint(__name__, file=open({str(folder / 'trace')!r}, 'a'))\nraise ImportError(__name__)\n"
        )
    return folder


def run_in(folder, *arguments):
    """Run Python in a folder; give its exit code, output and errors, and what the traps saw."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=100, env=environment
    )
    trace = folder / "trace"
    return done.returncode, done.stdout, done.stderr, trace.read_text() if trace.exists() else ""


def test_ranks_run_no_code_of_the_current_folder(trapped):
    program = ("-P", "-c", "from scattergen.cli import main; main()")  # as the installed command
    fit = ("fit", "none.npz", "--out", "run", "--devices", "2")
    code, _, err, trace = run_in(trapped, *program, *fit)
    assert trace == ""
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: none.npz")  # which only the ranks look at


def test_ranks_run_the_package_of_this_process(monkeypatch, tmp_path):
    from scattergen.processes import this_program

    monkeypatch.chdir(tmp_path)
    assert this_program() == [sys.executable, "-P", "-m", "scattergen"]
    # `python -m scattergen` in a checkout that is not installed: it is nowhere else.
    monkeypatch.chdir(Path(cli.__file__).parents[2])
    assert this_program() == [sys.executable, "-m", "scattergen"]


def test_processes_that_decode_run_no_code_of_the_current_folder(trapped, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    script.write_text(
        textwrap.dedent(f"""
            import os
            from scattergen.datasets import ImageFolder

            if __name__ == "__main__":
                before = dict(os.environ)
                images = ImageFolder({str(tmp_path / "pictures")!r}, cache_bytes=0, workers=2)
                print((images[:][:, 0, 0, 0] * 255).tolist(), dict(os.environ) == before)
        """)
    )
    code, out, err, trace = run_in(trapped, script)
    assert trace == ""
    assert (code, out, err) == (0, "[0.0, 1.0, 2.0] True\n", "")


def test_python_m_finds_other_packages_where_they_are_installed(trapped):
    (trapped / "scattergen.py").unlink()  # which Python itself would run
    code, out, err, trace = run_in(trapped, "-m", "scattergen", "--version")
    assert trace == ""
    assert (code, err) == (0, "")
    assert out.startswith("scattergen ")


# Other machines ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is this machine on Linux only")
def test_the_processes_of_one_machine_meet_where_no_other_comes(tmp_path):
    code = f"""
        import os, socket, sys
        from scattergen.processes import Layout, join
        layout = Layout.of_environment()
        processes = join(layout, "cpu")
        reached = []
        for address in ("127.0.0.1", "127.0.0.2"):  # the second by what listens everywhere
            try:
                socket.create_connection((address, int(os.environ["MASTER_PORT"])), 5).close()
                reached.append(address)
            except ConnectionRefusedError:
                pass
        with open({str(tmp_path)!r} + f"/{{layout.rank}}", "w") as file:
            print(reached, os.environ.get("GLOO_SOCKET_IFNAME"), file=file)
        processes.leave()
    """
    supervise([sys.executable, "-c", textwrap.dedent(code)], Layout(2), threads=1)
    assert [(tmp_path / f"{rank}").read_text() for rank in (0, 1)] == ["['127.0.0.1'] lo\n"] * 2


# The environment ---------------------------------------------------------------------------------

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BY_TORCHRUN = dict(zip(LAUNCHED, ("1", "1", "2", "2", "127.0.0.1", "29500"), strict=True))


@pytest.fixture
def environment(monkeypatch):
    """Sets what a launcher sets, all of it."""

    def call(**variables):
        for name in (*LAUNCHED, "GROUP_RANK", "NODE_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return call


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LOCAL_RANK": "x"}, 'LOCAL_RANK="x" in the environment is no number: unset it'),
        ({"LOCAL_RANK": ""}, 'LOCAL_RANK="" in the environment is no number: unset it'),
        ({"RANK": "-1"}, 'RANK="-1" in the environment is no number: unset it'),
        (
            {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            "but without MASTER_ADDR, MASTER_PORT: unset LOCAL_RANK, or start",
        ),
        ({"LOCAL_RANK": "0"}, "but without WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT:"),
        ({**BY_TORCHRUN, "WORLD_SIZE": "two"}, 'WORLD_SIZE="two" in the environment is no number'),
        ({**BY_TORCHRUN, "MASTER_PORT": "tcp://1"}, 'MASTER_PORT="tcp://1" in the environment is'),
        ({**BY_TORCHRUN, "GROUP_RANK": "x"}, 'GROUP_RANK="x" in the environment is no number'),
        ({**BY_TORCHRUN, "WORLD_SIZE": "3"}, "contradicts itself (WORLD_SIZE=3, LOCAL_WORLD_SIZE=2,"),
        ({**BY_TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "WORLD_SIZE=2, LOCAL_WORLD_SIZE=0"),
        ({**BY_TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK=2"),
        ({**BY_TORCHRUN, "GROUP_RANK": "1"}, "NODE_RANK=1"),
    ],
)
def test_an_environment_that_no_launcher_makes_is_refused(
    scattergen, digits, environment, tmp_path, variables, message
):
    environment(**variables)
    found = scattergen("fit", digits, "--out", tmp_path / "run", "--estimate", code=2).err
    assert message in found
    assert found.count("\n") == 1


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK"])
def test_what_lightning_reads_is_checked_before_it_is_imported(environment, name):
    environment(**{name: "x"})
    code = "from scattergen.processes import make_fabric; make_fabric('cpu', '32-true')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'InputError: {name}="x" in the environment is no number' in done.stderr


@pytest.mark.parametrize(
    "variables",
    [{"WORLD_SIZE": "2"}, {k: v for k, v in BY_TORCHRUN.items() if not k.startswith("LOCAL")}],
    ids=["alone", "for programs to be launched"],
)
def test_a_number_of_processes_alone_starts_nothing(environment, variables):
    environment(**variables)
    assert Layout.of_environment() is None
    assert Layout.asked_for(None, None, "cpu") == Layout()
    assert make_fabric("cpu", "32-true").world_size == 1


def test_what_torchrun_sets_is_taken(environment):
    environment(**BY_TORCHRUN)
    assert Layout.of_environment() == Layout(2, 1, 1, 0)


# The terminal ------------------------------------------------------------------------------------

# Colour, the title of the window, another line, deleted letters, letters from right to left.
HOSTILE = "[/x][red]a\x1b[31m\x1b]0;t\x07\nerror: b\r\x08\x7f\x9b2J\u202ec\u2066\u2028:bug:\udcff"
SHOWN = "[/x][red]a\\x1b[31m\\x1b]0;t\\x07\\nerror: b\\r\\x08\\x7f\\x9b2J\\u202ec\\u2066\\u2028:bug:\\udcff"


def harmless(text):
    """Whether lines hold nothing that a terminal acts on, beyond their ends."""
    return all(line.isprintable() for line in text.split("\n"))


def test_text_is_shown_and_does_nothing():
    from scattergen.display.words import visible

    assert visible(HOSTILE) == SHOWN
    assert visible(SHOWN) == SHOWN
    ours = "Fréchet · 0.3 ± 0.1, p < 1e-300 – “ok” 日本語 −∞ \u00a0"
    assert visible(ours) == ours
    assert visible(Path("a\tb")) == "a\\tb"


def test_info_shows_the_names_of_a_run_as_they_are(scattergen, fitted, monkeypatch):
    stages = {HOSTILE: {"seconds": 1.0}, "report": {"psnr": 20.0}}
    monkeypatch.setattr(RunFolder, "stages", property(lambda run: stages))
    monkeypatch.setattr(RunFolder, "version", property(lambda run: HOSTILE))
    monkeypatch.setattr(RunFolder, "options", property(lambda run: {HOSTILE: HOSTILE}))
    monkeypatch.setenv("COLUMNS", "500")
    shown = scattergen("info", fitted).out
    assert harmless(shown)
    assert f"made by scattergen {SHOWN}; files intact." in shown
    assert any(line.split() == [*SHOWN.split(), "1.0"] for line in shown.splitlines())
    facts = json.loads(scattergen("info", fitted, "--json").out)
    assert (facts["version"], facts["options"]) == (HOSTILE, {HOSTILE: HOSTILE})


@pytest.fixture
def in_hostile_folder(tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    return folder


def test_names_of_files_are_shown_as_they_are(scattergen, fitted, in_hostile_folder):
    out = in_hostile_folder / "codes.npy"
    name = SHOWN.replace("/", "")
    shown = scattergen("encode", fitted, "mnist", "--out", out, "-q").out
    assert name in shown
    assert harmless(shown)
    shown = scattergen("info", in_hostile_folder, code=2).err
    assert shown.startswith("error: ")
    assert name in shown
    assert harmless(shown)
    told = json.loads(scattergen("encode", fitted, "mnist", "--out", out, "-q", "--json").out)
    assert told["out"] == str(out)


@pytest.mark.parametrize(
    "arguments",
    [[f"--{HOSTILE}"], ["info", "a", f"--{HOSTILE}"], [HOSTILE], ["info", "a", HOSTILE]],
    ids=["option", "option of a command", "command", "argument"],
)
def test_mistaken_arguments_are_shown_as_they_are(scattergen, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "500")  # so that nothing is broken into lines
    shown = scattergen(*arguments, code=2).err
    assert harmless(shown)
    assert "a\\x1b[31m" in shown


def test_warnings_and_progress_are_shown_as_they_are(scattergen, monkeypatch, capsys):
    def warn(*_):
        warnings.warn(HOSTILE, stacklevel=1)
        raise ScattergenError(HOSTILE)

    monkeypatch.setattr(opening, "prepare", warn)
    shown = scattergen("info", "run", code=2, showing_warnings=True).err
    assert shown == f"warning: {SHOWN}\nerror: {SHOWN}\n"
    monkeypatch.undo()
    progress = opening.prepare(Common())
    name, as_shown = (text.replace(":bug:", "") for text in (HOSTILE, SHOWN))  # which rich draws
    progress.message(name)
    with progress.task(name, 1):
        pass
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == as_shown
    assert shown[1].startswith(f"  {as_shown}: 0.0 s")
    assert len(shown) == 2


# Threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "count"), [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_wait_shortly_unless_somebody_said_how(monkeypatch, given, count):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is set back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "main", lambda: None)
    start()
    assert os.environ.get("GOMP_SPINCOUNT") == count


# Figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$", r"a\$b", "50 % of $100"])
def test_names_in_figures_are_no_formulas(name):
    z = np.random.default_rng(0).normal(size=(50, 2))
    history = [{"seconds": 1.0, "a": 0.5, "b": 0.1}, {"seconds": 2.0, "a": 0.4, "b": 0.1}]
    for figure in (
        quality_by_time({name: (0.4, 43)}, {name: 0.2}, name),
        training_curve(history, {"a": name, "b": "other"}, name),
        marginal_histograms(z, z, name),
        dependence_heat_map(np.eye(2), np.eye(2), name),
    ):
        assert figure_png(figure)[1:4] == b"PNG"
        drawn = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert drawn
        assert not any(text.get_parse_math() for text in drawn)


# What a killed process leaves --------------------------------------------------------------------


def write(path, n=3):
    """Write some output of the form that the path's ending names."""
    if path.name.startswith("codes"):
        write_codes(path, torch.ones(n, 2))
    else:
        write_images(path, mnist().train[:n], torch.ones(n, 2))


def write_and_be_killed(forks, path):
    """The same in a process that is killed before its second fsync, of the second file of a folder.

    The first one of other forms is that of the content, after which it still has to be renamed.
    """
    code = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_surroundings
        path, calls, fsync = Path(os.fsdecode({os.fsencode(path)!r})), [], os.fsync

        def fsync_or_die(descriptor):
            calls.append(descriptor)
            if len(calls) > 2 * (path.suffix == ""):
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = fsync_or_die
        test_surroundings.write(path)
    """
    process = forks.start(textwrap.dedent(code))
    process.communicate(timeout=100)
    assert process.returncode == -9


def names(folder):
    return sorted(path.name for path in folder.iterdir())


OUTPUTS = ["images.npz", "images.npy", "grid.png", "folder", "codes.npz", "codes\udcff[*].npy"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_command_goes_on_after_a_kill(forks, tmp_path, name):
    path = tmp_path / name
    write_and_be_killed(forks, path)
    left = names(path if path.is_dir() else tmp_path)
    assert any(file.startswith(".writing-") for file in left)
    # Of another output, of a run, and of a user.
    others = [".writing-0123.npz", ".writing-abc.json", "notes.txt"]
    for other in others:
        (tmp_path / other).write_text("precious")
    write(tmp_path / "other.npz")
    write(path)
    assert names(tmp_path) == sorted([*others, "other.npz", name])
    if path.is_dir():
        assert names(path) == ["0.png", "1.png", "2.png"]


def test_what_another_process_is_writing_stays(tmp_path, monkeypatch):
    """Two that write the same at the same time do not disturb each other, and the last one wins."""
    path = tmp_path / "images.npz"
    save, calls = np.savez, []

    def save_while_another_does(*arguments, **arrays):
        calls.append(arrays)
        save(*arguments, **arrays)
        if len(calls) == 1:
            write(path, n=2)

    monkeypatch.setattr(np, "savez", save_while_another_does)
    write(path, n=4)
    assert len(calls) == 2
    assert len(np.load(path)["images"]) == 4
    assert names(tmp_path) == ["images.npz"]


def test_pictures_that_another_process_is_writing_stay(tmp_path):
    left = temporary_path(tmp_path / "abc.png")
    left.write_text("half of a picture")
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    write(tmp_path)
    assert names(tmp_path) == [left.name, "0.png", "1.png", "2.png"]
    os.close(folder)
    write(tmp_path)
    assert names(tmp_path) == ["0.png", "1.png", "2.png"]


def test_a_folder_with_other_files_is_refused_and_nothing_in_it_changes(tmp_path):
    left = temporary_path(tmp_path / "abc.png")
    for name in (left.name, ".writing-notes.txt"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=r"holds \.writing-notes\.txt and so on"):
        write(tmp_path)
    assert names(tmp_path) == sorted([left.name, ".writing-notes.txt"])
