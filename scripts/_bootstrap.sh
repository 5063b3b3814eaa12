# Sourced by scripts/demo and scripts/test: makes .venv and installs the project with the given extra, once for each
# state of pyproject.toml and constraints.txt.

bootstrap() {
  extra=$1
  state=$(cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
  # What `dev` installs contains what `demo` needs.
  for done in ".venv/.installed-$extra-$state" ".venv/.installed-dev-$state"; do
    [ -e "$done" ] && return 0
  done
  python=${PYTHON:-python3}
  command -v "$python" > /dev/null || { echo "error: $python not found; install Python 3.10 or newer" >&2; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$python" --version) is too old; set PYTHON to Python 3.10 or newer" >&2; exit 1; }
  [ -x .venv/bin/python ] || { echo "== making .venv" >&2; "$python" -m venv .venv; }
  log=.venv/install.log
  echo "== installing (log: $log)" >&2
  .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$extra]" > "$log" 2>&1 || {
    tail -n 5 "$log" >&2; echo "error: the installation failed; see $log" >&2; exit 1; }
  rm -f .venv/.installed-*
  touch ".venv/.installed-$extra-$state"
}
