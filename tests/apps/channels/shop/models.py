"""What the shop stores."""

from django.db import models


class Order(models.Model):
    """An order of a customer."""

    article = models.CharField(max_length=100)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        """Return the name of the article."""
        return self.article
