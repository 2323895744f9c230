"""Itineraries out of the items."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from backend import itinerary, retrieval
from backend.api.errors import errors
from backend.api.text import Said
from backend.expansion import is_korean
from backend.limits import question
from backend.settings import settings

router = APIRouter(tags=["itinerary"])


class Trip(BaseModel):
    """How long, and what for; without a language that of the interests."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"days": 2, "interests": ["royal palaces", "street food"], "language": "en"},
                {"days": 3, "interests": ["해변", "사찰"]},
            ]
        }
    )

    days: int = Field(ge=1, le=14)
    interests: list[Annotated[Said, Field(max_length=200)]] = Field(min_length=1, max_length=10)
    language: Literal["en", "ko"] | None = None


class StopOut(BaseModel):
    """A place to go to, and why."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    why: str


class Day(BaseModel):
    """A day, counted from 1."""

    day: int
    stops: list[StopOut]


class Itinerary(BaseModel):
    """The days; `note` says so when there were too few places to fill them."""

    days: list[Day]
    note: str | None


LIMITED = Depends(question("itinerary", settings().itinerary_per_minute))


@router.post("/itinerary", dependencies=[LIMITED], responses=errors(401, 429))
def plan(trip: Trip) -> Itinerary:
    """Places for the interests, none twice, spread over the days."""
    korean = trip.language == "ko" if trip.language else any(map(is_korean, trip.interests))
    found = retrieval.find_many(trip.interests, trip.days * itinerary.STOPS)
    places = [(what, one.passages) for what, one in zip(trip.interests, found, strict=True)]
    days = itinerary.plan(trip.days, places, korean)
    return Itinerary(
        days=[
            Day(day=number, stops=[StopOut.model_validate(stop) for stop in stops])
            for number, stops in enumerate(days, 1)
        ],
        note=itinerary.note(trip.days, sum(map(len, days)), korean),
    )
