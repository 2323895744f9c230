#!/bin/sh
# Fails when a secret of the stack shows in a process list, an image, or an image's history.
set -eu
sentinels=$(mktemp) haystack=$(mktemp)
trap 'rm -f "$sentinels" "$haystack"' EXIT
python3 -c 'import json; print(*json.load(open("/opt/crisper/secrets.json")).values(), sep="\n")' >"$sentinels"
test "$(wc -l <"$sentinels")" -ge 5
ps axww -o args >"$haystack"
for image in $(docker images --quiet | sort -u); do
    docker history --no-trunc "$image"
    docker image inspect "$image"
done >>"$haystack"
grep -q redis-server "$haystack" # the haystack is one: Redis is in the process list
if grep --fixed-strings --file "$sentinels" "$haystack"; then
    echo "a secret shows" >&2
    exit 1
fi
