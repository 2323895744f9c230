"""How gunicorn serves the shop."""

bind = "0.0.0.0:8000"
worker_class = "uvicorn_worker.UvicornWorker"
workers = 2
# Its default is a file in /tmp; memory is what the heartbeat of a worker needs.
worker_tmp_dir = "/dev/shm"
# Seconds for requests in flight after SIGTERM. Docker kills after its stop timeout, which must be
# longer: crisper gives a web container 45.
graceful_timeout = 40
# Nginx keeps connections of its own open; closing them first would race with its next request.
keepalive = 75
