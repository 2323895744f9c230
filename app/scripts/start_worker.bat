@echo off
rem Run a Celery worker without Docker on Windows, where only the pools solo and threads work.
rem Settings come from the environment. Options of `celery worker` may follow.
setlocal
cd /d "%~dp0.."
if not defined WORKER_QUEUES set WORKER_QUEUES=default,embeddings,research
if not defined WORKER_CONCURRENCY set WORKER_CONCURRENCY=2
if not defined LOG_LEVEL set LOG_LEVEL=INFO
celery -A backend.celery_app worker --pool=threads --hostname=default@%%h --queues=%WORKER_QUEUES% --concurrency=%WORKER_CONCURRENCY% --loglevel=%LOG_LEVEL% %*
exit /b %ERRORLEVEL%
