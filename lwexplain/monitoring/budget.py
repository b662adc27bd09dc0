"""How much time looks may take beside the training: a share of it, measured between the steps."""

from time import perf_counter

CAUTION = 0.8
"""How much of the time allowed a look is planned to take: what it really takes varies."""


class Budget:
    """Keeps the clock: ``training_seconds`` pass between looks, ``look_seconds`` in them.

    ``share`` is what looks may take of the training's time, None for as long as they like.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.training_seconds = 0.0
        self.look_seconds = 0.0
        self.looks = 0
        self._expected: tuple[float, float] = 0.0, 0.0
        self._last_cost: float | None = None
        self._since = perf_counter()

    @property
    def overhead(self) -> float:
        """Seconds of looks as a share of those of training, in [0, 1]; NaN before any training."""
        return self.look_seconds / self.training_seconds if self.training_seconds > 0 else float("nan")

    def expect(self, few: int, seconds_of_few: float, many: int, seconds_of_many: float) -> None:
        """Learn from two trial looks, at few and at many images, how the time of a look grows with them."""
        slope = max(0.0, seconds_of_many - seconds_of_few) / (many - few) if many > few else 0.0
        self._expected = max(0.0, seconds_of_few - slope * few), slope

    def cost(self, images: int) -> float:
        """Seconds that a look at so many images is expected to take: as long as the last one, once there is one."""
        fixed, slope = self._expected
        return self._last_cost if self._last_cost is not None else fixed + slope * images

    def images_that_fit(self, least: int, most: int, every: int) -> int:
        """How many images a look may see so that one in ``every`` epochs as long as those before stays in its share."""
        if self.share is None or most <= least:
            return most
        fixed, slope = self._expected
        seconds = CAUTION * self.share * self.training_seconds * every - fixed
        if slope * most <= seconds:
            return most
        return max(least, int(seconds / slope)) if slope > 0 else least

    def allows(self, images: int) -> bool:
        """Whether a look now leaves all looks together within their share of the time."""
        return self.share is None or self.look_seconds + self.cost(images) <= self.share * self.training_seconds

    # ------------------------------------------------------------------ the clock

    def start(self) -> None:
        """The training goes on from here."""
        self._since = perf_counter()

    def since(self) -> float:
        """Seconds since the clock was last started or stopped."""
        return perf_counter() - self._since

    def pause(self) -> None:
        """The training stands still from here."""
        self.training_seconds += self.since()
        self._since = perf_counter()

    def looked(self) -> float:
        """A look that began with the pause has ended; its seconds."""
        seconds = self.since()
        self.look_seconds, self.looks, self._last_cost = self.look_seconds + seconds, self.looks + 1, seconds
        return seconds
