"""WebSocket consumers."""

import json
import os

from channels.generic.websocket import AsyncWebsocketConsumer


class Echo(AsyncWebsocketConsumer):
    """Send back what arrives; the first message names the release."""

    async def connect(self) -> None:
        """Accept, and introduce the release."""
        await self.accept()
        await self.send(text_data=json.dumps({"release": os.environ.get("RELEASE", "unknown")}))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send a message back as it came."""
        await self.send(text_data=text_data, bytes_data=bytes_data)
