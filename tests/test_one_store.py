"""Files of a run are written by `scattergen.runs` and by nothing else: seen by Python's audit events."""

import json

import pytest

# Runs commands in one process, and prints which modules changed which files of a run. An event is laid to the
# innermost of our modules, but for `files`, which writes for whoever asks it.
WATCHER = """
import json, os, sys
run, commands = os.path.realpath(sys.argv[1]), json.loads(sys.argv[2])
changes = set()
HELPERS = "scattergen.files.atomic", "scattergen.files.untrusted"

def watch(event, arguments):
    if event == "open":
        if not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        arguments = arguments[:1]
    elif event not in ("os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"):
        return
    for path in arguments:
        path = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not path.startswith(run + os.sep):
            continue
        frame, module = sys._getframe(1), ""
        while frame is not None and (not module.startswith("scattergen") or module in HELPERS):
            module, frame = frame.f_globals.get("__name__", ""), frame.f_back
        changes.add((module, os.path.relpath(path, run)))

sys.addaudithook(watch)
from scattergen import cli
for command in commands:
    sys.argv = ["scattergen", *command]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
print(json.dumps(sorted(changes)))
"""


@pytest.fixture(scope="module")
def changes(tmp_path_factory, digits, tiny, forks):
    """Pairs of a module and a file of a run that it changed, during all that can be done with a run."""
    run = str(tmp_path_factory.mktemp("watched") / "run")
    options = [word for one in tiny[3::2] if "densities." not in one for word in ("--set", one)]
    fit = ["fit", str(digits), "--out", run, "--quiet", "--densities", "gaussian", *options]
    commands = [
        fit,
        [*fit, "--set", "training.epochs=2", "--overwrite"],
        ["density", run, "gaussian", "--as", "mine", "--quiet"],
        ["evaluate", run, "--images", str(digits), "--quiet", "-n", "20"],
        ["diagnose", run, "--quiet", "-n", "120", "--simulations", "19", "--components", "4"],
        ["sample", run, "--quiet", "--out", run + "-samples.png"],
    ]
    process = forks.start(WATCHER, run, json.dumps(commands))
    said = process.communicate(timeout=280)[0].decode()
    assert process.returncode == 0, said
    return json.loads(said.splitlines()[-1])


def test_one_room_writes_the_files_of_a_run(changes):
    others = {
        (module, file)
        for module, file in changes
        if not module.startswith("scattergen.runs.") and not file.startswith("work/")
    }
    # The picture that is shown while a decoder is trained, which no later step reads.
    shown = {file.replace("\\", "/") for _, file in others if not file.startswith("pictures/.writing-")}
    assert shown <= {"pictures/preview.png"}, others


def test_the_watch_sees_what_is_written(changes):
    seen = {file for module, file in changes if module.startswith("scattergen.runs.")}
    assert {"metrics.jsonl", "report.html", "evaluation.json", "diagnosis.json"} <= seen
    assert any(file.startswith("densities/mine-") for file in seen)
    assert any(module == "scattergen.runs.index" and file.startswith(".writing-") for module, file in changes)
