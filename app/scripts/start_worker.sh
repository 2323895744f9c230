#!/bin/sh
# Run a Celery worker without Docker:  app/scripts/start_worker.sh [options of `celery worker`]
# Settings come from the environment, or from a file of NAME=value lines named by ENV_FILE.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${ENV_FILE:-}" ]; then
    set -a
    . "$ENV_FILE"
    set +a
fi
command -v celery >/dev/null || {
    echo "start_worker: no celery here; activate a venv with app/requirements.txt" >&2
    exit 1
}
# With the guard, as in a deploy. exec: signals reach Celery itself, so that Ctrl+C and SIGTERM let running tasks finish.
exec python crisper-worker/src -A backend.celery_app worker \
    --hostname="${WORKER_NAME:-default}@%h" \
    --queues="${WORKER_QUEUES:-default,embeddings,research}" \
    --concurrency="${WORKER_CONCURRENCY:-2}" \
    --loglevel="${LOG_LEVEL:-INFO}" "$@"
