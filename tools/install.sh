#!/bin/sh
# Make .venv and install the course into it; `make` calls this when .venv/ready is
# missing or older than pyproject.toml. An interrupted or damaged .venv is repaired.
set -eu
py=.venv/bin/python

interpreter() { # the first Python that the course runs on
    for name in "${PYTHON:-python3}" python3.12 python3.13 python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: the course needs Python 3.11, 3.12 or 3.13, and found none; install" \
        "one, or name it: PYTHON=/path/to/python3.12 make ..." >&2
    return 1
}

fresh() {
    python=$(interpreter)
    echo "== making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || {
        echo "error: no .venv could be made; on Debian or Ubuntu, install python3-venv" >&2
        return 1
    }
}

packages() {
    echo "== installing PyTorch, JupyterLab and the rest: about 3 minutes, 5 GB"
    "$py" -m pip install --disable-pip-version-check -e '.[notebooks,test]'
}

works() {
    "$py" -c 'import torch, torchvision, plotly, jupyterlab, papermill, nbconvert, sbtutor'
}

rm -f .venv/ready
"$py" -m pip --version >/dev/null 2>&1 || fresh
packages
works || {
    echo "== the packages in .venv are damaged (an interrupted install?): making it anew"
    fresh
    packages
    works
}
touch .venv/ready
