"""What users did of late, in Redis or Valkey: a short list of events for each, which expires."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from handlers.errors import BadRequest, NoSessions, OtherSite
from handlers.requests import EventsRequest

if TYPE_CHECKING:
    import redis

# A store that does not answer may cost no request more than this, and only one request a second.
TIMEOUT_SECONDS = 0.05
PAUSE_SECONDS = 1.0
# Clocks of clients run ahead of ours by no more than this.
MOST_AHEAD_SECONDS = 60.0
# Adds events to a session: one without a time comes after all that are there, whatever the clock
# says. What lies further ahead than a client's clock may run is from before ours was put back: it
# counts as of now, in its order. Events of one time stay in the order in which they were sent.
ADD = """
local key, now, oldest, most, expiry, ahead = KEYS[1], unpack(ARGV, 1, 5)
now = tonumber(now)
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
if last and tonumber(last) > now + ahead then
    local later = redis.call('ZRANGE', key, string.format('(%.17g', now), '+inf', 'BYSCORE')
    for place, member in ipairs(later) do
        redis.call('ZADD', key, now - 1e-6 * (#later - place), member)
    end
end
for place = 6, #ARGV, 2 do
    local time = tonumber(ARGV[place])
    if time then
        time = time + 1e-6 * (place - 6) / 2
    else
        last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
        time = last and math.max(now, tonumber(last) + 1e-6) or now
    end
    redis.call('ZADD', key, 'NX', time, ARGV[place + 1])
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', oldest)
redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
redis.call('EXPIRE', key, expiry)
"""


class Sessions:
    """The sessions of all users.

    A user's session is a sorted set by time of ``[id, item, residency]``.

    Parameters
    ----------
    client
        Of the store.
    site
        At which store and service stand; None if at no site.
    expiry
        Seconds for which an event counts.
    most
        Events that are kept of a user: the latest.
    """

    def __init__(self, client: redis.Redis, *, site: str | None, expiry: int, most: int) -> None:
        self.client = client
        self.site = site
        self.expiry = expiry
        self.most = most
        self.asleep_until = 0.0

    def problem(self, request: EventsRequest) -> Exception | None:
        """Why events may not be written here; None where they may."""
        if request.residency not in (None, self.site):
            return self._elsewhere(request.residency)
        now = time.time()
        for place, event in enumerate(request.events):
            if event.time is None:
                continue
            if event.time > now + MOST_AHEAD_SECONDS:
                return BadRequest(f"events[{place}].time is in the future: nothing was stored.")
            if event.time < now - self.expiry:
                return BadRequest(
                    f"events[{place}].time is more than {self.expiry} seconds ago, for which "
                    "events are kept: nothing was stored."
                )
        return None

    def exchange(
        self, writes: Sequence[EventsRequest], users: Sequence[str]
    ) -> list[list[str] | OtherSite]:
        """Write events, then read users' sessions, in one transaction and one round trip.

        Parameters
        ----------
        writes
            Events, each with an id; `problem` found none in them.
        users
            Whose sessions to read.

        Returns
        -------
        list
            For each of `users` the items of the events, the oldest first, or the error where one
            of them is private to another site.

        Raises
        ------
        NoSessions
            The store does not answer, or refuses; it is not known whether anything was written.
        """
        from redis.exceptions import RedisError, TimeoutError

        if time.monotonic() < self.asleep_until:
            raise NoSessions("The session store does not answer.")
        now = time.time()
        oldest = now - self.expiry
        pipe = self.client.pipeline(transaction=True)
        for request in writes:
            residency = request.residency or self.site
            arguments = [now, oldest, self.most, self.expiry, MOST_AHEAD_SECONDS]
            for event in request.events:
                time_of = "" if event.time is None else event.time
                arguments += [time_of, json.dumps([event.id, event.item, residency])]
            pipe.eval(ADD, 1, _key(request.user), *arguments)
        for user in users:
            pipe.zrange(_key(user), oldest, "+inf", byscore=True)
        try:
            answers = pipe.execute()
        except TimeoutError:
            self.asleep_until = time.monotonic() + PAUSE_SECONDS
            raise NoSessions("The session store does not answer.") from None
        except RedisError:
            raise NoSessions("The session store does not answer.") from None
        return [self._items(members) for members in answers[len(answers) - len(users) :]]

    def _items(self, members: list[bytes]) -> list[str] | OtherSite:
        items: dict[str, str] = {}
        for member in members:
            name, item, residency = json.loads(member)
            if residency not in (None, self.site):
                return self._elsewhere(residency)
            items.setdefault(name, item)
        return list(items.values())

    def _elsewhere(self, residency: str) -> OtherSite:
        here = f"at {self.site}" if self.site else "at no site"
        return OtherSite(
            f"The user's events are labelled private to {json.dumps(residency)} and must not leave "
            f"that site, and this service stands {here}: ask the service of that site."
        )


def open_sessions(variables: Mapping[str, str] = os.environ) -> Sessions | None:
    """The store that the service was started with; None where it was started with none.

    Parameters
    ----------
    variables
        ``HYBRID_SESSIONS``: address of the store, as ``unix:///path`` or ``redis://host:port``;
        ``HYBRID_SESSIONS_PASSWORD``: its password, if it has one; ``HYBRID_SESSIONS_SITE``,
        ``HYBRID_SESSIONS_EXPIRY`` and ``HYBRID_SESSIONS_MOST`` as in `Sessions`.
    """
    address = variables.get("HYBRID_SESSIONS")
    if not address:
        return None
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis.from_url(
        address,
        password=variables.get("HYBRID_SESSIONS_PASSWORD") or None,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # The time-out holds for the request, not for each attempt.
        retry=Retry(NoBackoff(), 0),
    )
    return Sessions(
        client,
        site=variables.get("HYBRID_SESSIONS_SITE") or None,
        expiry=int(variables["HYBRID_SESSIONS_EXPIRY"]),
        most=int(variables["HYBRID_SESSIONS_MOST"]),
    )


def _key(user: str) -> str:
    return f"session:{user}"
