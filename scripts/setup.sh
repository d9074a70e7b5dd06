#!/usr/bin/env bash
# Everything that `make run` and `make test` need, as far as it is missing: Debian packages, .venv, Kafka's jars.
# Quick when all is there; may be run as often as one likes. Usage: scripts/setup.sh [--dev]
set -euo pipefail
cd "$(dirname "$0")/.."

extras=""
[ "${1:-}" = "--dev" ] && extras="[dev]"
PATH="$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---------------------------------------------------------------- what is missing

can_install() { have apt-get && { [ "$(id -u)" -eq 0 ] || { have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; }; }
python_fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        { "$1" -c 'import ensurepip, venv' 2>/dev/null || can_install; }
}

# The distribution's own first: it is built with profiles (PGO), which one compiled on the spot is mostly not
# (docs/decisions/0096-the-distributions-own-python.md).
python=""
for candidate in "${PYTHON:-}" /usr/bin/python3.11 /usr/bin/python3 python3.11 python3 python3.12 python3.13; do
    if [ -n "$candidate" ] && have "$candidate" && python_fits "$candidate"; then
        python="$candidate"
        break
    fi
done

java_fits() {
    "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | { read -r major && [ "$major" -ge 17 ]; }
}
java=""
for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" java /usr/lib/jvm/*/bin/java; do
    if [ -n "$candidate" ] && have "$candidate" && java_fits "$candidate"; then
        java="$candidate"
        break
    fi
done

jars_are_there() { (cd kafka/jars 2>/dev/null && sha256sum --check --quiet --strict ../jars.sha256 >/dev/null 2>&1); }

packages=()
[ -n "$python" ] || packages+=(python3 python3-venv)
[ -z "$python" ] || "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
[ -n "$java" ] || packages+=(openjdk-17-jre-headless)
jars_are_there || have mvn || packages+=(maven)
have redis-server || packages+=(redis-server)
{ have mariadbd && have mariadb-install-db; } || packages+=(mariadb-server)
have nginx || packages+=(nginx)
{ have nginx && nginx -V 2>&1 | grep -Eq -- '--with-stream( |$)'; } || [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] ||
    [ -e /usr/lib64/nginx/modules/ngx_stream_module.so ] || packages+=(libnginx-mod-stream)

# ---------------------------------------------------------------- packages

# Installed for their programs: the services of the system are neither started now nor at the next boot.
install_packages() {
    local policy=/usr/sbin/policy-rc.d made="" status=0
    if ! [ -e "$policy" ]; then
        made=yes
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
        $root chmod 755 "$policy"
    fi
    say "setup: installing $*"
    {
        $root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
            $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    } >&2 || status=$?
    [ -z "$made" ] || $root rm -f "$policy"
    [ "$status" -eq 0 ] || die "apt-get failed; install these yourself, then run this again: $*"
    if have systemctl; then
        for service in redis-server mariadb nginx; do
            case " $* " in
            *" $service"*) $root systemctl disable --quiet "$service" >/dev/null 2>&1 || true ;;
            esac
        done
    fi
}

if [ "${#packages[@]}" -gt 0 ]; then
    root=""
    by_hand="apt-get install --no-install-recommends ${packages[*]}"
    have apt-get || die "missing: ${packages[*]} (as Debian 12 names them); install them, then run this again"
    can_install || die "missing: ${packages[*]}; as root run: $by_hand"
    [ "$(id -u)" -eq 0 ] || root="sudo"
    install_packages "${packages[@]}"
    if [ -z "$python" ]; then
        python=python3
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            die "Python 3.11 is needed; found $("$python" --version); set PYTHON to a newer one"
    fi
fi

# ---------------------------------------------------------------- Python

base() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }
wanted="$( (cat pyproject.toml constraints.txt && base "$python" && pwd) | sha256sum | cut -c1-16)$extras"
stamp=.venv/.set-up
if ! { [ -x .venv/bin/chat ] && { [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] ||
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted[dev]" ]; }; }; then
    say "setup: Python packages into .venv"
    [ "$(base .venv/bin/python)" = "$(base "$python")" ] || "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$extras" ||
        die "pip failed (see above); is a package index reachable?"
    printf '%s\n' "$wanted" >"$stamp"
fi

# ---------------------------------------------------------------- Kafka

jars_are_there || { rm -f kafka/classes.jsa && scripts/kafka.sh; }
[ kafka/classes.jsa -nt "$(readlink -f "${java:-$(command -v java)}")" ] ||
    { say "setup: an archive of Kafka's classes" && .venv/bin/python -m chat.tools.classes; }
