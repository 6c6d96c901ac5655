"""Redis: `pubsub.redis` (streams), `state.redis`, `bindings.redis`, lock, configuration, and scalers."""

from pelton.drivers.redis.binding import RedisBinding
from pelton.drivers.redis.bus import RedisBus
from pelton.drivers.redis.configuration import RedisConfiguration
from pelton.drivers.redis.lock import RedisLocks
from pelton.drivers.redis.scaler import RedisScaler
from pelton.drivers.redis.state import RedisStates

__all__ = ["RedisBinding", "RedisBus", "RedisConfiguration", "RedisLocks", "RedisScaler", "RedisStates"]
