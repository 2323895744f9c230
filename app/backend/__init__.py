"""The reference application: FastAPI, Celery, PostgreSQL, Redis and Qdrant, as one stack."""
