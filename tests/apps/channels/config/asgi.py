"""The ASGI application: HTTP goes to Django, WebSockets go to the consumers."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
http = get_asgi_application()

from shop.consumers import Echo  # noqa: E402  (models and settings must be loaded first)

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(URLRouter([path("ws/echo", Echo.as_asgi())])),
    }
)
