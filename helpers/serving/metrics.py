"""What the server counts, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One set of counters a server; a registry of its own, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("course_requests", "Answered requests", ["path", "status"], **own)
        self.seconds = Histogram(
            "course_request_seconds", "From request to last byte", ["path"], buckets=SECONDS, **own
        )
        self.first = Histogram("course_first_token_seconds", "From request to first text", buckets=SECONDS, **own)
        self.prompt_tokens = Counter("course_prompt_tokens", "Tokens read", **own)
        self.tokens = Counter("course_answer_tokens", "Tokens written", ["model"], **own)
        self.running = Gauge("course_requests_running", "Answers that are generated or wait", **own)
        self.restarts = Gauge("course_engine_restarts", "How often the engine was started anew", **own)

    def text(self) -> bytes:
        return generate_latest(self.registry)
