#!/bin/sh
# Runs the hooks in /docker-entrypoint.d before nginx, as the official image does.
set -e
if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
    for hook in /docker-entrypoint.d/*; do
        case $hook in
            *.envsh) [ ! -x "$hook" ] || . "$hook" ;;
            *.sh) [ ! -x "$hook" ] || "$hook" ;;
        esac
    done
fi
exec "$@"
