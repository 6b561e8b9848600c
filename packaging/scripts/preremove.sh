#!/bin/sh
# Before a removal, and before an upgrade, which leaves the process running. Debian calls it with
# `remove` or `upgrade`, rpm with the number of versions that stay.
set -e

case "${1:-}" in
    remove | 0) ;;
    *) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
    systemctl stop usher.socket usher.service
fi
if command -v systemctl >/dev/null; then
    systemctl disable --quiet usher.socket usher.service || true
fi
