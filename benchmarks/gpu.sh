#!/bin/sh
# All that a GPU decides, in at most eight minutes on one of 80 GB: the tests marked gpu, then the speeds for docs/gpu.md.
#
#     sh benchmarks/gpu.sh [WHEELS]
#
# Needs this checkout and a Python 3.11 or newer (PYTHON=…) with PyTorch 2.11 or newer. WHEELS is a folder with wheels of
# what is missing there: those of Kymatio, Numba, pytest and of scattergen's own dependencies. Nothing is downloaded, and
# nothing is installed beside a temporary folder. Without a GPU everything is small, and the tests are skipped.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ $# -gt 0 ]; then
	"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$1"/*.whl
fi
PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
start=$(date +%s)
status=0
"$python" -m pytest -q -p no:cacheprovider -m gpu tests || status=$?  # the speeds are told nevertheless
"$python" benchmarks/gpu.py
echo "all of it: $(($(date +%s) - start)) s"
exit "$status"
