"""Define a tier profile: every key, its type, range and default.

`profile.load` turns YAML into these values and reports every mistake with its place; the JSON
Schema that editors use is made from them too (`profile schema`).

The numbers of the built-in tiers (temperature, tokens, timeouts, retries) are those of the document
this tool implements, "Tiered Fallback Mechanisms for LLM Applications".
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tieredllm.types import (
    FrequencyPenalty,
    MaxTokens,
    PresencePenalty,
    ReasoningEffort,
    Seed,
    Stop,
    Temperature,
    TopP,
)

__all__ = [
    "BASE_URLS",
    "KEY_SYNONYMS",
    "KEY_VARIABLES",
    "OLLAMA_CONTEXT_TOKENS",
    "OLLAMA_PORT",
    "ORDINARY_VARIABLES",
    "PROVIDER_DEFAULTS",
    "REFERENCE",
    "Alternate",
    "BackendSettings",
    "Backoff",
    "HealthSettings",
    "McpSettings",
    "Params",
    "Profile",
    "Provider",
    "Tier",
    "field_docs",
    "profile_schema",
    "rule_files",
    "variables_of",
]

Provider = Literal["openai", "anthropic", "gemini", "llama_cpp", "cache", "rules"]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        extra={"means": "a name of at most 64 letters, digits, `_`, `.` and `-`"},
    ),
]
VariableName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        extra={"means": "the name of an environment variable"},
    ),
]
PythonTool = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$",
        extra={"means": "`module:function`, such as mypackage.tools:lookup_order"},
    ),
]

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
"""A variable in the settings of an MCP server: `${NAME}`, or `${NAME:-text}`."""
ORDINARY_VARIABLES = (
    *("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"),
    *("APPDATA", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT"),
    *("PROCESSOR_ARCHITECTURE", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "USERNAME", "USERPROFILE"),
)
"""What every program needs, on POSIX and on Windows; none of it is secret."""
HeaderName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        extra={"means": "the name of an HTTP header"},
    ),
]
"""A token of RFC 9110, section 5.6.2."""
HeaderValue = Annotated[
    str,
    Meta(
        pattern=r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$",
        extra={"means": "one line of ASCII text"},
    ),
]
ApiVersion = Annotated[
    str,
    Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", extra={"means": "a date in quotes"}),
]

CommandLine = Annotated[
    Annotated[str, Meta(min_length=1)]
    | Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)],
    Meta(extra={"means": "a program, or a list of it and its arguments"}),
]


HostName = Annotated[
    str,
    Meta(
        pattern=r"^([^/:\s\[\]]+|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$",
        extra={"means": "the name or address of a host, without a scheme or a port"},
    ),
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(null|[A-Za-z][A-Za-z0-9+.-]*://[^/*\s]+/?)$",
        extra={"means": "a web origin, such as https://chat.example.org, without a path or `*`"},
    ),
]
"""https://html.spec.whatwg.org/multipage/browsers.html#ascii-serialisation-of-an-origin"""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sampling parameters of a tier."""

    temperature: Temperature | None = 0.7
    """0 to 2; null leaves the server's own."""
    max_tokens: MaxTokens | None = 1024
    """The most tokens an answer may have; null: as many as the model can. Most vendors count what a
    model thinks as well."""
    top_p: TopP | None = 0.95
    """Above 0, up to 1; null leaves the server's own."""
    frequency_penalty: FrequencyPenalty = 0.0
    """-2 to 2; 0 is off and is not sent."""
    presence_penalty: PresencePenalty = 0.0
    """-2 to 2; 0 is off and is not sent."""
    stop: Stop = ()
    """Texts before which the answer ends; the first of them that the model would write."""
    seed: Seed | None = None
    """What chance starts from, where a server takes it; null for another each time."""
    reasoning_effort: ReasoningEffort | None = None
    """How much a model that thinks is to think, in its vendor's words (`low`, `medium`, `high`, …);
    null leaves the server's own."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the wait before retry n, from 1, grows: `min(base * factor**n + jitter, max)`."""

    base_s: Annotated[float, Meta(ge=0, le=60)] = 0.1
    """What `factor` multiplies, once before the first retry (0.2 s by default), in seconds."""
    factor: Annotated[float, Meta(ge=1, le=10)] = 2.0
    """How much longer each wait is than the one before, without the jitter."""
    jitter_s: Annotated[float, Meta(ge=0, le=60)] = 0.1
    """The most that chance adds to a wait, in seconds."""
    max_s: Annotated[float, Meta(ge=0, le=600)] = 2.0
    """The longest wait, in seconds."""


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in a currency of your choice."""

    input: Annotated[float, Meta(ge=0)]
    """A million tokens of what is sent."""
    output: Annotated[float, Meta(ge=0)]
    """A million tokens of the answer."""


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tier and an alternate say of who is asked."""

    provider: Provider
    """Whose protocol the server speaks; or `llama_cpp` (in-process), `cache` or `rules`."""
    model: Annotated[str, Meta(min_length=1)] | None = None
    """A model of the provider; for llama_cpp a catalog name or the path of a .gguf file."""
    base_url: str | None = None
    """Where the server is; null for the vendor's own. Up to and with `/v1` (openai) or `/v1beta`
    (gemini), without `/v1` (anthropic)."""
    api_key_env: VariableName | UnsetType | None = UNSET
    """The variable that holds the key; null: the server needs none; absent: the vendor's own."""
    vision: bool | None = None
    """Whether the model sees images and PDF documents; null: as known of its name. On Anthropic's
    interface only Claude is sent documents: other servers drop them silently."""
    api: Literal["responses", "chat"] | None = None
    """For openai: which of its interfaces the server has; null: responses at OpenAI's own host,
    chat (completions) anywhere else."""
    api_version: ApiVersion = "2023-06-01"
    """For anthropic: the `anthropic-version` that is asked for."""
    headers: dict[HeaderName, HeaderValue] = {}
    """HTTP headers of your own, as a gateway may want; nothing secret."""
    headers_env: dict[HeaderName, VariableName] = {}
    """The same, each with the name of the variable that holds its value: for what is secret."""
    body: dict[str, Any] = {}
    """What is added to each request's JSON, over what is in it; null takes a key out."""
    price: Price | None = None
    """What the model costs; then each answer's `cost` is told."""


class Alternate(BackendSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another backend of the same tier, tried when the ones before it gave way."""

    provider: Literal["openai", "anthropic", "gemini", "llama_cpp"]
    """Whose protocol the server speaks."""
    model: Annotated[str, Meta(min_length=1)]
    """A model of the provider; for llama_cpp a catalog name or the path of a .gguf file."""


class Tier(BackendSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tier: a backend, its alternates, and how they are asked."""

    name: Name
    """What answers, logs and `-t` call this tier; unique in the profile."""
    alternates: tuple[Alternate, ...] = ()
    """Other backends of this tier, tried in order when the one before gave way."""
    params: Params = Params()
    """The sampling parameters."""
    prompt: Literal["full", "simplified", "minimal"] = "full"
    """How the question is worded: as it is, with a request to be concise, or for a small model."""
    tools: Literal["all", "none"] | tuple[str, ...] = "none"
    """Which of the profile's tools this tier may use: all, none, or a list of names, of MCP servers
    and of patterns (`docs__get_*`); one with a `-` before it takes away (`-docs__delete_*`)."""
    context_tokens: Annotated[int, Meta(ge=256, le=100_000_000)] = 128_000
    """The context window, in tokens; `max_tokens` of it are kept for the answer."""
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """For llama_cpp: how many threads compute; null: one per physical core."""
    gpu_layers: Annotated[int, Meta(ge=0, le=1000)] | None = None
    """For llama_cpp built for a GPU: how many of the model's layers that gets; null: all."""
    stream: bool = True
    """Whether the answer is taken token by token."""
    connect_timeout_s: Seconds = 3.0
    """Seconds to connect, encryption included."""
    first_token_timeout_s: Seconds = 10.0
    """Seconds until the first token of a stream; keep-alives are none."""
    idle_timeout_s: Seconds = 10.0
    """The longest silence between tokens, once they flow, in seconds."""
    timeout_s: Seconds = 30.0
    """Seconds for one attempt that is not streaming. Where no other language model is left, a
    stream's silence is waited out that long as well."""
    retries: Annotated[int, Meta(ge=0, le=20)] = 2
    """Tries after the first, on each backend."""
    backoff: Backoff = Backoff()
    """How the wait before a retry grows."""
    hedge_after_s: Seconds | None = None
    """Seconds without a token after which the next tier starts beside this one; null: never."""
    rules: str = "builtin"
    """For the rules tier: `builtin`, or the path of a rule file."""
    vars: dict[str, str] = {}
    """For the rules tier: what its answers may name, such as `support_contact` and `help_url`."""
    max_age_h: Annotated[float, Meta(gt=0, le=87_600)] = 168.0
    """For the cache tier: the oldest answer it may give, in hours."""

    @property
    def values(self) -> dict[str, Any]:
        """It as plain values, its name first.

        Whether an answer of a batch, and a parameter that a server rejected, are still good is told
        by a hash of these: in another order, or with one more, all are asked again.
        """
        own: dict[str, Any] = msgspec.to_builtins(self)
        return {"name": self.name} | own


PROVIDER_DEFAULTS: dict[str, dict[str, Any]] = {
    # A local model's first token waits for the file to be loaded; its context costs memory.
    "llama_cpp": {"first_token_timeout_s": 30.0, "context_tokens": 4096, "timeout_s": 120.0},
}
"""Defaults of `Tier` that differ by provider."""

OLLAMA_PORT = 11434
"""A server at Ollama's port cuts a prompt that is longer than its context, and says nothing
(ollama/ollama#17889): unless the profile knows better it is taken for what Ollama starts with."""

OLLAMA_CONTEXT_TOKENS = 4096
"""Ollama's own default (its FAQ, `OLLAMA_CONTEXT_LENGTH`)."""


KEY_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
}
"""The variable that holds a vendor's key when a tier names none: the vendors' own choice."""

KEY_SYNONYMS = {"gemini": ("GOOGLE_API_KEY",)}
"""Other names that a vendor's own SDK looks a key up by (google-genai 3.6.1, `_api_client.py`);
they count where a tier names none and the first is not set."""

BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
"""Where a vendor's server is when a tier names none, as the vendors' API references say."""


class SharedHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where hosts tell each other which backends are down: a Redis or Valkey server."""

    url_env: VariableName = "REDIS_URL"
    """The variable that holds its URL, such as `redis://:password@host:6379/0` (it is a secret)."""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a backend counts as degraded, and when its circuit opens and closes."""

    window_minutes: Annotated[float, Meta(gt=0, le=10_080)] = 15.0
    """How far back requests count, in minutes."""
    min_requests: Annotated[int, Meta(ge=1, le=100_000)] = 3
    """Fewer requests in the window than this decide nothing."""
    min_success_rate: Share = 0.5
    """The smallest share of requests in the window that must succeed."""
    max_avg_latency_s: Seconds = 20.0
    """The longest a request in the window may take on average, in seconds."""
    max_error_rate: Share = 0.5
    """The largest share of requests that may fail with one and the same kind of error."""
    auto_skip_degraded: bool = True
    """Whether a degraded backend is passed over while another can answer."""
    failure_threshold: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Failed requests in a row that open the circuit."""
    cooldown_s: Seconds = 10.0
    """Seconds an open circuit waits before one request probes the backend."""
    max_cooldown_s: Seconds = 25.0
    """The most that failed probes double the cooldown to, in seconds."""
    shared: SharedHealth | None = None
    """What other hosts find out counts as a hint; needs `pip install 'tieredllm[redis]'`."""


class Slack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Slack messages go."""

    webhook_env: VariableName = "SLACK_WEBHOOK_URL"
    """The variable that holds the incoming webhook's URL (it is a secret)."""
    channel: str | None = None
    """The channel to name in the message; null for the webhook's own."""
    min_severity: Literal["low", "medium", "high"] = "high"
    """The least severity that is sent."""


class Email(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """How e-mail is sent."""

    host: Annotated[str, Meta(min_length=1)]
    """The SMTP server."""
    port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    """Its port: 587 for STARTTLS, 465 for TLS (RFC 8314)."""
    from_: Annotated[str, Meta(min_length=1)]
    """The sender's address."""
    recipients: Annotated[tuple[str, ...], Meta(min_length=1)]
    """The addresses that are told."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted."""
    username: str | None = None
    """Who logs in; null for no login."""
    password_env: VariableName | None = None
    """The variable that holds the password."""
    min_severity: Literal["low", "medium", "high"] = "medium"
    """The least severity that is sent."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the generic JSON webhook is."""

    url_env: VariableName = "TIEREDLLM_WEBHOOK_URL"
    """The variable that holds the webhook's URL (it may be a secret)."""
    secret_env: VariableName | None = None
    """The variable that holds the HMAC-SHA256 key the body is signed with."""
    min_severity: Literal["low", "medium", "high"] = "low"
    """The least severity that is sent."""


class Notifications(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told when a tier gives way."""

    min_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """One message per cause in this time, in seconds."""
    slack: Slack | None = None
    """A Slack channel."""
    email: Email | None = None
    """People who get e-mail."""
    webhook: Webhook | None = None
    """A program that gets JSON."""


Plain = Annotated[
    str | int | float | bool, Meta(extra={"means": "text, a number, or true or false"})
]


class McpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Model Context Protocol server: a program that is started, or a URL.

    In `command`, `args`, `env`, `cwd`, `url` and `headers`, `${NAME}` stands for a variable or a
    stored key, `${NAME:-text}` for the text where there is none.
    """

    command: CommandLine | None = None
    """The program, or a list of it and its arguments; it speaks over its stdin and stdout."""
    args: tuple[str, ...] = ()
    """The program's arguments, after those in `command`."""
    env: dict[str, Plain] = {}
    """Variables it gets, besides the few that every program needs."""
    pass_env: tuple[VariableName, ...] = ()
    """Names of variables, or of stored keys, that are passed on to it: for what is secret."""
    cwd: str | None = None
    """Where it runs, relative to the working directory (`.`); by default a folder of ours."""
    type: Literal["stdio", "http", "streamable-http", "streamable_http", "sse"] | None = None
    """How it is reached; `command` or `url` says that already."""
    url: str | None = None
    """Where it answers over streamable HTTP."""
    headers: dict[str, str] = {}
    """HTTP headers; secrets as `${NAME}`."""
    headers_env: dict[str, VariableName] = {}
    """HTTP headers, each with the name of the variable, or stored key, that holds its value."""
    disabled: bool = False
    """Whether it is left alone."""
    start_timeout_s: Seconds = 20.0
    """How long it may take until it has told its tools, in seconds."""
    timeout_s: Seconds = 30.0
    """How long one call may take, or may be without a sign of progress, in seconds; at most half of
    what is left of the request's `deadline_s`."""
    instructions: bool = True
    """Whether models are told what the server says of itself, up to 2048 characters."""
    approve: Literal["ask", "always", "never"] | None = None
    """Whether its tools that are not read-only may run; `tools.approve` when absent."""
    trust_hints: bool = True
    """Whether to believe the server which of its tools are read-only."""
    read_only: tuple[str, ...] = ()
    """Tools that are read-only whatever the server says: names as it gives them, or patterns."""
    private: bool = False
    """Whether it reads private data: after a call, what can carry data out is asked about."""
    sends: bool = False
    """Whether its calls can carry data out of this machine to places of the model's choosing."""

    @property
    def variables(self) -> set[str]:
        """The names of all variables, and stored keys, that it is given."""
        return self._told | _names_in(self.cwd or "")

    @property
    def secrets(self) -> set[str]:
        """Those of them whose values may be secret; where it runs is not."""
        return self._told - {*ORDINARY_VARIABLES, "PWD"}

    @property
    def _told(self) -> set[str]:
        command = (self.command,) if isinstance(self.command, str) else self.command or ()
        written = (*command, *self.args, *self.headers.values(), *map(str, self.env.values()))
        return {*self.pass_env, *self.headers_env.values(), *_names_in(*written, self.url or "")}


def _names_in(*texts: str) -> set[str]:
    return {name for text in texts for name, _ in REFERENCE.findall(text)}


class Tools(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tools there are; a tier's `tools` says which of them it may use."""

    builtin: tuple[Literal["now", "calculate", "read_file", "list_files", "fetch_url"], ...] = ()
    """Tools that come with tieredllm."""
    python: tuple[PythonTool, ...] = ()
    """Functions of your own, as `module:function`."""
    mcp: dict[str, McpSettings] = {}
    """Model Context Protocol servers by name, each with a `command` or a `url`; and under `file`
    the path of a file of `mcpServers`, as other programs have it."""
    approve: Literal["ask", "always", "never"] = "ask"
    """Whether a tool that is not read-only may run; without a terminal `ask` means no."""
    send_to: tuple[str, ...] = ()
    """Hosts (and patterns of hosts, and MCP servers) that data may go to after private data was
    read: without being asked, and without a terminal at all."""
    max_rounds: Annotated[int, Meta(ge=1, le=100)] = 8
    """How often in one request the model may call tools before it must answer."""


class Serve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How `tieredllm serve` lets programs use the tiers."""

    models: dict[str, Name] = {}
    """What model names that clients ask for mean: each (`*` and `?` stand for any text and any
    character) with the tier to start at; the first that fits counts."""
    stream: Literal["live", "complete"] = "live"
    """Whether a stream passes words on as they come, or brings one tier's whole answer, so that no
    client ever sees a dead one."""
    hold_s: Seconds = 10.0
    """Seconds that a stream waits for its first word before it is opened and kept alive."""
    hosts: tuple[HostName, ...] = ()
    """Names of this gateway, besides those of this machine; requests for others are refused."""
    origins: tuple[Origin, ...] = ()
    """Web origins, such as `https://chat.example.org`, whose pages may send requests."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the log of requests keeps; beyond either, each new request drops the oldest ones."""

    keep: Annotated[int, Meta(ge=1, le=100_000)] = 100_000
    """The most requests."""
    max_mb: Annotated[int, Meta(ge=1, le=65_536)] = 512
    """The most that may be in use of the database's file, in MiB, however few requests that are."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole profile."""

    name: Name = "unnamed"
    """The profile's name; the file's when absent."""
    extends: str | None = None
    """The name or path of a profile this one inherits from."""
    remove_tiers: tuple[Name, ...] = ()
    """Inherited tiers to do without."""
    description: str | None = None
    """One line for `profile list`."""
    system: str | None = None
    """The system prompt of requests that have none of their own."""
    deadline_s: Seconds = 120.0
    """Seconds for the whole request, all tiers together."""
    on_content_filter: Literal["stop", "fallback"] = "stop"
    """Whether a refusal ends the request or the next tier is asked."""
    require_llm: bool = False
    """Whether an answer by rules is none."""
    tiers: Annotated[tuple[Tier, ...], Meta(min_length=1)]
    """The tiers, in the order they are tried."""
    health: HealthSettings = HealthSettings()
    """When a backend is passed over."""
    notifications: Notifications = Notifications()
    """Who is told when a tier gives way."""
    tools: Tools = Tools()
    """Which tools there are."""
    log: Log = Log()
    """How much the log of requests keeps."""
    serve: Serve = Serve()
    """How programs use the tiers through `tieredllm serve`."""

    def tier_meant(self, model: str) -> str | None:
        """Return the tier that a request for a model starts at; None where the name says nothing.

        It is a tier's name, or fits a pattern of `serve.models`.
        """
        if any(model == tier.name for tier in self.tiers):
            return model
        fits = (tier for pattern, tier in self.serve.models.items() if fnmatchcase(model, pattern))
        return next(fits, None)


def rule_files(profile: Profile) -> tuple[str, ...]:
    """Return the paths of the rule files a profile names, the built-in rules aside."""
    named = (tier.rules for tier in profile.tiers if tier.provider == "rules")
    return tuple(dict.fromkeys(path for path in named if path != "builtin"))


def variables_of(profile: Profile) -> set[str]:
    """Return the names of the variables a profile takes secrets from."""
    names: set[str | None] = set()
    for tier in profile.tiers:
        backends: tuple[BackendSettings, ...] = (tier, *tier.alternates)
        for backend in backends:
            vendors = KEY_VARIABLES.get(backend.provider)
            names.add(vendors if backend.api_key_env is UNSET else backend.api_key_env)
            if backend.api_key_env is UNSET:
                names.update(KEY_SYNONYMS.get(backend.provider, ()))
            names.update(backend.headers_env.values())
    for server in profile.tools.mcp.values():
        names |= server.secrets
    if profile.health.shared is not None:
        names.add(profile.health.shared.url_env)
    notes = profile.notifications
    if notes.slack is not None:
        names.add(notes.slack.webhook_env)
    if notes.email is not None:
        names.add(notes.email.password_env)
    if notes.webhook is not None:
        names |= {notes.webhook.url_env, notes.webhook.secret_env}
    return {name for name in names if name is not None}


_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INHERITABLE = ("Tier", "Email")
"""Structs that merge over inherited ones, and so may lack what they inherit."""


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile file, for editors.

    One that knows it (through the line `# yaml-language-server: $schema=PATH`, say) completes keys,
    shows what they mean and marks mistakes while they are made.

    The types, ranges and defaults are those that profiles are checked against; the descriptions
    are the docstrings of this module. What must be there must be there only in a profile that
    extends no other.
    """
    result = msgspec.json.schema(Profile)
    structs: dict[str, Any] = result["$defs"]
    for name, docs in field_docs().items():
        properties = structs.get(name, {}).get("properties", {})
        for field, description in docs.items():
            if field in properties:
                properties[field] = {"description": " ".join(description.split())} | properties[
                    field
                ]
    # Read away before a profile is checked.
    structs["Tools"]["properties"]["mcp"]["properties"] = {"file": {"type": "string"}}
    required = {name: structs[name].pop("required") for name in _INHERITABLE}
    structs["Tier"]["required"] = ["name"]
    root = structs.pop("Profile")
    root.pop("required")
    root["properties"]["name"].pop("default")  # it is the file's name
    whole_tier = {"required": required["Tier"]}
    whole_email = {"anyOf": [{"type": "null"}, {"required": required["Email"]}]}
    return {
        "$schema": _DIALECT,
        "title": "tieredllm profile",
        "description": "Tiers of language models, tried in order until one answers.",
        **{key: value for key, value in root.items() if key not in {"title", "description"}},
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": ["tiers"],
            "properties": {
                "tiers": {"items": whole_tier},
                "notifications": {"properties": {"email": whole_email}},
            },
        },
        "$defs": structs,
    }


def field_docs(module: str = __file__) -> dict[str, dict[str, str]]:
    """Read the docstrings below a module's fields and enum members; at run time they are gone."""
    import ast

    tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    docs: dict[str, dict[str, str]] = {}
    for struct in tree.body:
        if not isinstance(struct, ast.ClassDef):
            continue
        fields = docs.setdefault(struct.name, {})
        for base in struct.bases:
            fields |= docs.get(base.id, {}) if isinstance(base, ast.Name) else {}
        for field, below in zip(struct.body, struct.body[1:], strict=False):
            named = field.targets[0] if isinstance(field, ast.Assign) else None
            named = field.target if isinstance(field, ast.AnnAssign) else named
            if (
                isinstance(named, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                fields[named.id.rstrip("_")] = below.value.value
    return docs
