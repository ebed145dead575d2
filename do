#!/bin/sh
# Daily commands. Each sets up what it needs in .venv first; `./do` alone lists them.
set -eu
cd "$(dirname "$0")"
venv=${ARROWSTREAM_VENV:-.venv}
python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }

# Debian's Python comes without ensurepip; its package has it.
make_venv() {
    if [ "$venv" = .venv ]; then rm -rf .venv; fi
    if ! "${PYTHON:-python3}" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing python3-venv"
            apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null
            "${PYTHON:-python3}" -m venv "$venv"
        else
            say "python3 cannot make a virtual environment; as root: apt-get install python3-venv"
            exit 1
        fi
    fi
}

# install STAMP WHAT: once per pyproject.toml
install() {
    stamp=$venv/.installed-$1
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        # Asking pip also finds an environment that was half made when somebody pressed Ctrl-C.
        if ! "$python" -m pip --version >/dev/null 2>&1; then make_venv; fi
        say "installing $2 into $venv (once, a minute or two)"
        "$python" -m pip install -q --disable-pip-version-check -e "$2" >&2
        touch "$stamp"
    fi
}

case "${1:-help}" in
main)   # run the main job: count the words of a live TCP stream, then query the result with SQL
    install core .
    exec "$python" examples/wordcount.py
    ;;
test)   # run all tests
    install test '.[test]'
    shift
    exec "$python" -m pytest "$@"
    ;;
check)  # style, types, layers
    install test '.[test]'
    "$venv/bin/ruff" format --check .
    "$venv/bin/ruff" check .
    "$venv/bin/mypy"
    MYPYPATH=.:tests/support "$venv/bin/mypy" --explicit-package-bases tests benchmarks examples
    "$venv/bin/lint-imports"
    ;;
bench)  # print the benchmarks, as ratios in one run (some minutes)
    install test '.[test]'
    shift
    exec "$python" -m benchmarks "$@"
    ;;
docs)   # build the documentation into site/
    install docs '.[docs]'
    exec "$venv/bin/mkdocs" build --strict
    ;;
setup)  # make .venv with everything for development
    install test '.[test]'
    ;;
*)
    say "usage: ./do COMMAND"
    sed -n 's/^\([a-z]*\))[ ]*# \(.*\)/  \1\t\2/p' "$0" >&2
    [ "${1:-help}" = help ]
    ;;
esac
