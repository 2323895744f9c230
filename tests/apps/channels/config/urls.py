"""The paths of the site."""

from django.urls import path
from shop import views

urlpatterns = [
    path("", views.index),
    path("health/", views.health),
    path("whoami", views.whoami),
    path("upload", views.upload),
    path("download", views.download),
    path("slow", views.slow),
    path("poll", views.poll),
    path("events", views.events),
    path("login", views.login),
    path("tasks", views.tasks),
    path("orders", views.orders),
]
