"""Redis: `pubsub.redis` (streams), `state.redis`, `bindings.redis`."""

from pelton.drivers.redis.binding import RedisBinding
from pelton.drivers.redis.bus import RedisBus
from pelton.drivers.redis.state import RedisStates

__all__ = ["RedisBinding", "RedisBus", "RedisStates"]
