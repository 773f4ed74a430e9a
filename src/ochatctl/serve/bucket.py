"""A bucket that fills evenly: what may be asked for in a minute."""

from dataclasses import dataclass

_MINUTE_SECONDS = 60


@dataclass(slots=True)
class Bucket:
    """What may still be taken: `per_minute` at most, filled up evenly. Below nothing, it is waited for."""

    per_minute: int
    level: float
    at: float

    def fill(self, now: float) -> float:
        """Add what time has brought; give what there is."""
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / _MINUTE_SECONDS)
        self.at = now
        return self.level

    def wait_seconds(self, amount: float) -> float:
        """Give how long it takes until `amount` is there."""
        return max(0.0, amount - self.level) * _MINUTE_SECONDS / self.per_minute
