# Shared by the scripts in tools/: sourced, not run.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${JOBS:-$(nproc)}

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo > /dev/null; then sudo "$@"
  else die "this needs root or sudo: $*"
  fi
}

# need COMMAND=PACKAGE...: install the Debian packages of the commands that are missing. A name without = is a package.
need() {
  local item command package missing=()
  for item in "$@"; do
    command=${item%%=*} package=${item#*=}
    if [ "$command" != "$item" ]; then
      command -v "$command" > /dev/null || missing+=("$package")
    else
      dpkg -s "$package" > /dev/null 2>&1 || missing+=("$package")
    fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null || die "please install: ${missing[*]}"
  say "installing ${missing[*]}"
  local log=$root/build/logs/packages.log
  mkdir -p "$(dirname "$log")"
  { as_root apt-get update -q &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } > "$log" 2>&1 ||
    { tail -n 20 "$log" >&2; die "installing failed; the whole log: $log"; }
}

# pip, in an environment of its own.
python_packages() {
  need python3-venv
  local venv=$root/.deps/sources/venv
  [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
  "$venv/bin/pip" -q --disable-pip-version-check "$@"
}

# The CUDA compiler of this machine that is new enough for C++20 and Kokkos: that of PATH, else of CUDA_HOME. Fails where there is none.
find_nvcc() {
  local candidate release major minor
  for candidate in "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; do
    [ -x "$candidate" ] || continue
    release=$("$candidate" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    major=${release%%.*} minor=${release#*.}
    if [ $((major * 100 + minor)) -ge 1202 ]; then echo "$candidate"; return; fi
  done
  return 1
}
