# Sourced by scripts/demo, scripts/test and scripts/lint: makes .venv and installs the project with the given extra, once
# for each state of pyproject.toml and constraints.txt.

# help_if_asked "$@": prints the comment at the top of the script that sources this, where --help comes first.
help_if_asked() {
  case ${1:-} in
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
  esac
}

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
  log=.venv/install.log
  compiling=
  .venv/bin/python -m pip --version > /dev/null 2>&1 || {
    echo "== making .venv" >&2
    "$python" -m venv .venv
    # Finds what to install in half the time that the pip 23 of Python 3.11 takes, which is used if this fails.
    .venv/bin/python -m pip install --disable-pip-version-check --retries 0 --timeout 15 'pip==26.*' > "$log" 2>&1 &
    wait_for $! || true
  }
  constraints > .venv/constraints.txt
  echo "== installing into .venv, a few minutes the first time (log: $log)" >&2
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-compile -c .venv/constraints.txt \
    -e ".[$extra]" > "$log" 2>&1 &
  # pip works with one core, and would compile what it has installed with that one, too.
  wait_for $! beside || {
    { grep -a -i '^error' "$log" || true; } | tail -n 3 >&2
    echo "error: the installation failed; see $log" >&2; exit 1; }
  compile_packages -j 0 &
  wait_for $! || true
  rm -f .venv/.installed-*
  touch ".venv/.installed-$extra-$state"
}

# Compiles what is not compiled yet. Files that are no Python of today stay as they are, and so do the packages' own tests.
compile_packages() {
  exec .venv/bin/python -m compileall -q "$@" -x '/tests/' .venv/lib/python*/site-packages > /dev/null 2>&1
}

# The pinned versions; without those of torch and torchvision where .venv has a build of its own, such as the small one
# for CPUs, whose version ends with +cpu: that one is kept.
constraints() {
  if ls -d .venv/lib/python*/site-packages/torch-*+*.dist-info > /dev/null 2>&1; then
    grep -v -E '^torch(vision)?==' constraints.txt
  else
    cat constraints.txt
  fi
}

# Waits for the process, shows every ten seconds what pip is at, and ends it when this script is ended. With `beside`,
# what is there already is compiled in the meantime.
wait_for() {
  trap 'kill "$1" $compiling 2> /dev/null || true; wait "$1" 2> /dev/null || true; echo "interrupted" >&2; exit 1' INT TERM
  seconds=0
  while kill -0 "$1" 2> /dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    [ $((seconds % 10)) -eq 0 ] || continue
    if [ "${2:-}" ] && ! { [ "$compiling" ] && kill -0 "$compiling" 2> /dev/null; }; then
      compile_packages -j 1 &
      compiling=$!
    fi
    step=$(grep -a -E '^ *(Collecting|Downloading|Using cached|Building|Preparing|Installing)' "$log" | tail -n 1 | cut -c 1-70)
    echo "==   $seconds s: ${step#"${step%%[! ]*}"}" >&2
  done
  if [ "$compiling" ]; then
    kill "$compiling" 2> /dev/null || true
    wait "$compiling" 2> /dev/null || true
    compiling=
  fi
  trap - INT TERM
  wait "$1"
}
