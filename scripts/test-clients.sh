#!/usr/bin/env bash
# Tests the client libraries and runs the conformance program against them. Each part is a function.
# With its name as the argument, only that part runs: python, js, recipes, real, thousand,
# conformance, examples, tables.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'test-clients: %s\n' "$*"; }
python=target/clients/venv/bin/python
usher=${USHER_BIN:-target/debug/usher}
run=(python3 clients/conformance/run.py --usher "$usher" --jobs 8)

# The stamp has the checksum of the installed list. A changed list is installed again.
prepare() {
    local list=clients/python/requirements-dev.txt venv=target/clients/venv
    if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$(sha256sum <"$list")" ]; then
        say "python packages into $venv"
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$list"
        sha256sum <"$list" >"$venv/.installed"
    fi
    local lock=clients/js/package-lock.json stamp=clients/js/node_modules/.installed
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(sha256sum <"$lock")" ]; then
        say "node packages into clients/js/node_modules"
        npm ci --prefix clients/js --no-audit --no-fund --loglevel=error </dev/null
        sha256sum <"$lock" >"$stamp"
    fi
    npm run --silent --prefix clients/js build </dev/null
    [ -x "$usher" ] || cargo build
}

python() {
    for version in 3.11 3.12 3.13; do
        (cd clients/python && "../../$python" -m mypy --python-version "$version" --no-error-summary usher_client)
    done
    USHER_BIN=$(realpath "$usher") "$python" -m pytest --quiet clients/python
}

js() {
    # `prepare` has built the library.
    (cd clients/js && npm run --silent typecheck && npm run --silent size && npm run --silent demo:check \
        && npm run --silent pack:check && npx --no-install vitest run --coverage --reporter=dot)
}

recipes() {
    [ -x target/debug/examples/first_message ] || cargo build --example first_message
    "${python}" clients/recipes/test.py --usher "$usher"
}

# Every method over wss:// with a private certificate authority.
real() {
    node clients/js/test/real.mjs "$usher"
}

# Clients through restarts. Arguments: the number of clients, and the JSON file for the figures.
thousand() {
    node clients/js/test/thousand.mjs "$usher" "${1:-100}" --json "${2:-target/clients/thousand.json}"
}

# The last client breaks the rules, which shows that the rules can fail.
conformance() {
    "${run[@]}" --self-check
    "${run[@]}" --brief -- "$python" clients/conformance/drivers/client_python.py
    "${run[@]}" --brief -- node clients/conformance/drivers/client_js.mjs
    python3 clients/conformance/run.py --must-fail --brief --only T04,T22,T29,F03,F06,F31,F37,R01,R20,R22,C07 \
        -- python3 clients/conformance/drivers/naive.py 2>/dev/null
}

# scripts/setup-tests.sh installs the browser.
examples() {
    node tests/e2e/browser/example.mjs "$usher" target/demo-screenshots
}

tables() {
    local saved=target/clients/js.json saved_python=target/clients/python.json
    "${run[@]}" --self-check
    "${run[@]}" --save "$saved" -- node clients/conformance/drivers/client_js.mjs
    "${run[@]}" --save "$saved_python" -- "$python" clients/conformance/drivers/client_python.py
    python3 clients/conformance/page.py "$saved" "$saved_python" >docs/conformance-clients.md
}

prepare
if [ $# -gt 0 ]; then "$@"; else python && js && recipes && real && thousand && conformance && examples; fi
