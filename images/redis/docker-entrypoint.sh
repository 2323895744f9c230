#!/bin/sh
set -e

# `docker run redis --appendonly yes` and `docker run redis /some.conf` mean redis-server.
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- redis-server "$@"
fi

# The official build has protected mode off by default: without a configuration the container's
# network is the fence. Debian's has it on.
if [ "$1" = redis-server ] && { [ $# -eq 1 ] || [ "${2#-}" != "$2" ]; }; then
    case " $* " in
        *" --protected-mode "*) ;;
        *) set -- "$@" --protected-mode no ;;
    esac
fi

if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi

# Files that redis makes are for redis alone, unless somebody chose otherwise.
if [ "$(umask)" = 0022 ]; then
    umask 0077
fi
exec "$@"
