"""Test what servers' errors are taken for."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieredllm.errors import FallbackTriggerError
from tieredllm.providers.errors.codes import SIGNS
from tieredllm.providers.errors.http import classify_inside_200, classify_response
from tieredllm.providers.errors.transport import classify_exception
from tieredllm.providers.request_info import RequestInfo

KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"
NOW = 1_790_000_000.0
PARAMETERS = {
    name: name
    for name in (
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "frequency_penalty",
        "presence_penalty",
        "stream",
        "stream_options",
    )
}


def sent(parameters=PARAMETERS, key_env="OPENAI_API_KEY"):
    return RequestInfo(
        url="https://user:pa55word-is-secret@api.example.com/v1/chat/completions",
        model="m-1",
        key=KEY,
        key_env=key_env,
        parameters=parameters,
    )


def classify(status, body=b"", headers=None, request=None) -> FallbackTriggerError:
    body = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return classify_response(
        request or sent(), status=status, headers=headers or {}, body=body, now=NOW
    )


def openai(message="…", *, kind="invalid_request_error", code=None, param=None):
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def anthropic(kind, message="…", **more):
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "r"}


def google(code, status, message="…", *details):
    return {"error": {"code": code, "message": message, "status": status, "details": [*details]}}


def info(reason):
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}


def quota(*ids):
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": quota_id, "quotaMetric": "m"} for quota_id in ids],
    }


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.2s"}
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

BY_STATUS = [
    (400, "bad_request"),
    (401, "authentication"),
    (402, "quota_exhausted"),
    (403, "permission"),
    (404, "not_found"),
    (405, "bad_request"),
    (408, "service_unavailable"),
    (409, "service_unavailable"),
    (410, "bad_request"),
    (413, "context_length"),
    (415, "bad_request"),
    (422, "bad_request"),
    (425, "service_unavailable"),
    (429, "rate_limit"),
    (451, "bad_request"),
    (500, "service_unavailable"),
    (501, "service_unavailable"),
    (502, "service_unavailable"),
    (503, "service_unavailable"),
    (504, "service_unavailable"),
    (520, "service_unavailable"),
    (524, "service_unavailable"),
    (529, "service_unavailable"),
]


@pytest.mark.parametrize(("status", "kind"), BY_STATUS)
@pytest.mark.parametrize("body", [b"", b"<html><title>oops</title>", b'{"error": {"message": 1}}'])
def test_the_status_decides_where_no_code_does(status, kind, body):
    """Each status has its kind whatever the body is, and is reported."""
    error = classify(status, body)

    assert (kind, status) == (error.kind, error.status)
    assert error.message


BY_CODE = {
    # OpenAI
    "openai no money": (429, openai(code="insufficient_quota", kind="insufficient_quota")),
    "openai no money by type": (429, openai(kind="insufficient_quota")),
    "openai credit": (429, openai(code="credit_balance_exhausted")),
    "openai organization spend": (429, openai(code="organization_spend_limit_exceeded")),
    "openai project spend": (429, openai(code="project_spend_limit_exceeded")),
    "openai usage": (429, openai(code="organization_usage_limit_exceeded")),
    "openai spend as 403": (403, openai(code="project_spend_limit_exceeded")),
    "openai hard limit": (400, openai(code="billing_hard_limit_reached")),
    # Anthropic
    "anthropic billing": (402, anthropic("billing_error")),
    "anthropic credit": (
        400,
        anthropic(
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans.",
        ),
    ),
    "anthropic own limit": (
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on …",
        ),
    ),
    "anthropic enforced limit": (
        429,
        anthropic("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
    ),
    # Google
    "google day": (429, google(429, "RESOURCE_EXHAUSTED", "…", quota(PER_DAY), RETRY_INFO)),
    "google day and minute": (
        429,
        google(429, "RESOURCE_EXHAUSTED", "…", quota(PER_MINUTE, PER_DAY), RETRY_INFO),
    ),
    "google credit": (
        429,
        google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please …"),
    ),
    "google credit as 402": (402, google(402, "RESOURCE_EXHAUSTED", "…")),
    "google billing off": (403, google(403, "PERMISSION_DENIED", "…", info("BILLING_DISABLED"))),
    # others
    "deepseek": (402, {"error": {"message": "Insufficient Balance", "code": "invalid_request"}}),
    "openrouter": (402, {"error": {"code": 402, "message": "Insufficient credits"}}),
    "moonshot": (429, openai(kind="exceeded_current_quota_error")),
    "one-api": (403, openai(code="insufficient_user_quota", kind="new_api_error")),
}


@pytest.mark.parametrize("name", BY_CODE)
def test_a_spent_quota_is_told_by_code_or_type(name):
    """No money and hard limits are `quota_exhausted` for every vendor, and name no wait."""
    status, body = BY_CODE[name]
    error = classify(status, body)

    assert ("quota_exhausted", status) == (error.kind, error.status)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    "body",
    [
        openai("Rate limit: quota exceeded per minute", code="rate_limit_exceeded", kind="tokens"),
        openai("You exceeded your current quota per minute"),
        openai("quota", kind="insufficient_quota", code="rate_limit_exceeded"),
        openai(kind="rate_limit_error", code="slow_down"),
        anthropic("rate_limit_error", "This request would exceed your organization's rate limit"),
        google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric …", quota(PER_MINUTE)),
        {"error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": "busy"}}},
        {"object": "error", "message": "Requests rate limit exceeded", "type": "rate_limited"},
        {"detail": "Too many requests"},
        b"slow down",
    ],
)
def test_prose_about_quotas_is_a_rate_limit(body):
    """What only says "quota" in words is a rate: it will pass."""
    assert classify(429, body).kind == "rate_limit"


CONTEXT_BODIES = {
    "openai": openai("too long", code="context_length_exceeded", param="messages"),
    "openai message": openai(code="string_above_max_length", param="messages[0].content"),
    "openai words": openai("Your input exceeds the context window of this model."),
    "azure": openai("This model's maximum context length is 8192 tokens.", code=None),
    "anthropic": anthropic("invalid_request_error", "prompt is too long: 205000 tokens > 200000"),
    "anthropic sum": anthropic(
        "invalid_request_error",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    ),
    "gemini": google(
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "vllm old": {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5",
        "type": "BadRequestError",
        "code": 400,
    },
    "vllm new": {
        "error": {
            "message": "You passed 5000 input tokens and requested 10 output tokens. However, the "
            "model's context length is only 4096 tokens",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    },
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (5031 tokens) exceeds the available context size (2048 tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5031,
            "n_ctx": 2048,
        }
    },
    "ollama": openai("prompt too long; exceeded max context length by 12 tokens"),
    "groq": openai("Please reduce the length of the messages or completion."),
    "mistral": {
        "object": "error",
        "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context "
        "length",
        "type": "invalid_request_error",
        "code": "3051",
    },
    "xai": {
        "code": "Client specified an invalid argument",
        "error": "This model's maximum prompt length is 131072 but the request has 131373 tokens.",
    },
    "openrouter": {
        "error": {
            "code": 400,
            "message": "Provider returned error",
            "metadata": {
                "raw": '{"error":{"message":"…","code":"context_length_exceeded"}}',
                "provider_name": "OpenAI",
            },
        }
    },
    "lm studio": {"error": "The number of tokens … greater than the context length (4096)."},
    "kimi": openai("Invalid request: Your request exceeded model token limit: 8192"),
}


@pytest.mark.parametrize("name", CONTEXT_BODIES)
def test_a_prompt_that_is_too_long_is_told_for_every_server(name):
    """A code says so where there is one; else the server's own words."""
    assert classify(400, CONTEXT_BODIES[name]).kind == "context_length"


def test_a_request_that_is_too_large_is_one_too():
    """Anthropic's 413, Groq's 413 of a minute's tokens, and a code in an old server's 500."""
    assert classify(413, anthropic("request_too_large")).kind == "context_length"
    assert classify(413, openai(code="rate_limit_exceeded")).kind == "context_length"
    assert classify(500, CONTEXT_BODIES["llama.cpp"]).kind == "context_length"


@pytest.mark.parametrize(
    "body",
    [
        openai(
            "max_tokens is too large: 99999. This model supports at most 16384 completion tokens"
        ),
        anthropic("invalid_request_error", "max_tokens: 300000 > 128000, which is the maximum"),
        openai("Too many tokens, please wait before trying again."),
        openai("messages: at least one message is required"),
        openai("Invalid value", code="invalid_value", param="max_tokens"),
    ],
)
def test_other_mistakes_are_bad_requests(body):
    """What sounds alike but is not a long prompt, and names no unsupported parameter."""
    error = classify(400, body)

    assert (error.kind, error.parameter) == ("bad_request", None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai(code="content_policy_violation")),
        (400, openai(code="content_filter")),
        (400, openai(code="moderation_blocked")),
        (400, openai(code="invalid_prompt")),
        (
            400,
            {
                "error": {
                    "message": "The response was filtered …",
                    "type": None,
                    "param": "prompt",
                    "code": "content_filter",
                    "status": 400,
                    "innererror": {
                        "code": "ResponsibleAIPolicyViolation",
                        "content_filter_result": {"hate": {"filtered": True}},
                    },
                }
            },
        ),
        (400, anthropic("invalid_request_error", "Output blocked by content filtering policy")),
        (400, openai("Content Exists Risk")),
        (400, openai(code="data_inspection_failed")),
        (
            403,
            {
                "error": {
                    "code": 403,
                    "message": "Your chosen model requires moderation",
                    "metadata": {"reasons": ["violence"], "flagged_input": "…"},
                }
            },
        ),
    ],
)
def test_a_refused_prompt_is_told_for_every_server(status, body):
    """Content filters are told by their codes, or by a vendor's one sentence."""
    assert classify(status, body).kind == "content_filter"


def test_google_s_400_for_a_bad_key_is_a_rejected_key():
    """`API_KEY_INVALID` in a 400 means authentication, and the variable is named."""
    error = classify(
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            info("API_KEY_INVALID"),
        ),
        request=sent(key_env="GEMINI_API_KEY"),
    )

    assert error.kind == "authentication"
    assert error.message.startswith("the key in GEMINI_API_KEY was rejected: API key not valid")


def test_a_google_error_in_a_list_is_read():
    """Google's compatible endpoint wraps its error in a list."""
    body = [google(400, "INVALID_ARGUMENT", "no", info("API_KEY_INVALID"))]

    assert classify(400, body).kind == "authentication"


def test_a_rejected_key_is_named_by_its_variable_and_not_shown():
    """The message holds the variable's name, and no part of the key the server repeats."""
    body = openai(f"Incorrect API key provided: {KEY[:12]}************tuv.", code="invalid_api_key")
    error = classify(401, body)

    assert error.message.startswith("the key in OPENAI_API_KEY was rejected: Incorrect API key")
    assert KEY[:10] not in error.message
    assert "tuv" not in error.message


def test_a_server_that_wants_a_key_says_so():
    """Without a variable, the message names the setting that is missing."""
    error = classify(401, b"", request=sent(key_env=None))

    assert error.kind == "authentication"
    assert "api_key_env" in error.message


@pytest.mark.parametrize(
    ("status", "headers", "body", "wait_s"),
    [
        (429, {"retry-after": "7"}, b"", 7),
        (429, {"retry-after": "1.5"}, b"", 1.5),
        (429, {"retry-after": "20", "retry-after-ms": "250"}, b"", 0.25),
        (429, {"retry-after": "Mon, 21 Sep 2026 14:13:30 GMT"}, b"", 10),
        (429, {"retry-after": "Mon, 21 Sep 2020 14:13:30 GMT"}, b"", 0),
        (429, {"retry-after": "7, 7"}, b"", 7),
        (429, {"retry-after": f"{NOW + 40:.0f}"}, b"", 40),
        (429, {"retry-after": "-5"}, b"", None),
        (429, {"retry-after": "soon"}, b"", None),
        (429, {"retry-after": "nan"}, b"", None),
        (429, {"retry-after": "1e9"}, b"", None),
        (429, {"retry-after": "1_0"}, b"", None),
        (429, {"retry-after": "99999999999"}, b"", 86_400),
        (429, {"retry-after": ""}, b"", None),
        (429, {}, google(429, "RESOURCE_EXHAUSTED", "…", quota(PER_MINUTE), RETRY_INFO), 38.2),
        (429, {"retry-after": "3"}, google(429, "X", "…", RETRY_INFO), 3),
        (503, {"retry-after": "2"}, b"", 2),
        (400, {"retry-after": "2"}, b"", 2),
    ],
)
def test_the_wait_a_server_asks_for_is_read(status, headers, body, wait_s):
    """Seconds, fractions, milliseconds, dates and Google's durations; garbage is no wait."""
    found = classify(status, body, headers).retry_after_s

    assert wait_s == (None if found is None else pytest.approx(found, abs=0.001))


UNSUPPORTED = [
    (
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        ),
        "max_tokens",
    ),
    (
        openai(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
            "default (1) value is supported.",
            code="unsupported_value",
            param="temperature",
        ),
        "temperature",
    ),
    (
        openai(
            "Your organization must be verified to stream this model.",
            code="unsupported_value",
            param="stream",
        ),
        "stream",
    ),
    (openai("Unrecognized request argument supplied: stream_options"), "stream_options"),
    (openai("Unknown parameter: 'top_p'.", code="unknown_parameter", param="top_p"), "top_p"),
    (
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead."
        ),
        "max_tokens",
    ),
    (
        openai("property 'frequency_penalty' is unsupported, did you mean 'temperature'?"),
        "frequency_penalty",
    ),
    (
        {
            "code": "Client specified an invalid argument",
            "error": "Argument not supported on this model: presencePenalty",
        },
        "presence_penalty",
    ),
    (openai("Model grok-4 does not support parameter presencePenalty."), "presence_penalty"),
    (
        anthropic("invalid_request_error", "`temperature` is deprecated for this model."),
        "temperature",
    ),
    (
        anthropic(
            "invalid_request_error",
            "`temperature` and `top_p` cannot both be specified for this model. Please use only "
            "one.",
        ),
        "top_p",
    ),
    (anthropic("invalid_request_error", "top_p: Extra inputs are not permitted"), "top_p"),
    (
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_tokens"],
                        "msg": "Extra inputs are not permitted",
                    }
                ]
            },
            "type": "invalid_request_error",
        },
        "max_tokens",
    ),
    (
        {
            "object": "error",
            "message": '{"detail":[{"type":"extra_forbidden","loc":["body","presence_penalty"],'
            '"msg":"Extra inputs are not permitted"}]}',
            "code": "1000",
        },
        "presence_penalty",
    ),
    (
        {
            "error": {
                "code": 400,
                "message": "Provider returned error",
                "metadata": {
                    "raw": '{"error":{"message":"no","code":"unsupported_parameter",'
                    '"param":"top_p"}}'
                },
            }
        },
        "top_p",
    ),
    # not ours to leave out
    (openai("property 'store' is unsupported, did you mean 'stop'?"), None),
    (openai("property 'chat_template_kwargs' is unsupported, did you mean 'temperature'?"), None),
    (openai("'messages.1' : for 'role:user' property 'metadata' is unsupported"), None),
    (openai(code="unsupported_value", param="messages[0].role"), None),
    (openai("temperature must be between 0 and 1", param="temperature"), None),
    (openai("We do not support the stream of people"), None),
]


@pytest.mark.parametrize(("body", "parameter"), UNSUPPORTED)
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_the_server_will_not_have_is_named(body, parameter, status):
    """By its code and `param`, by a validator's list, or by the server's usual words."""
    error = classify(status, body)

    assert ("bad_request", parameter) == (error.kind, error.parameter)


def test_only_a_parameter_that_was_sent_is_named():
    """What was not sent cannot be left out."""
    body = openai("no", code="unsupported_parameter", param="temperature")

    assert classify(400, body, request=sent(parameters={"top_p": "top_p"})).parameter is None


def test_google_s_words_for_its_parameters_are_known():
    """Google names what it rejects in words of its own."""
    request = sent(
        {
            "topP": "topP",
            "thinking level": "thinkingConfig",
            "developer instruction": "systemInstruction",
        },
    )
    said = {
        "Thinking level is not supported for this model.": "thinkingConfig",
        "Developer instruction is not enabled for models/gemma-3-27b-it": "systemInstruction",
        "Invalid JSON payload received. Unknown name \"topP\" at 'generation_config'": "topP",
    }
    for message, name in said.items():
        error = classify(400, google(400, "INVALID_ARGUMENT", message), request=request)

        assert name == error.parameter


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://evil.example/v1?key=abc", "evil.example"),
        ("http://127.0.0.1:9999/x", "127.0.0.1:9999"),
        ("/elsewhere", "another address"),
        ("http://[bad", "another address"),
        ("", "another address"),
    ],
)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_bad_request_that_names_the_host(status, location, shown):
    """Where it points to is told by host only, and it is not gone to."""
    error = classify(status, b"", {"location": location})

    assert ("bad_request", status) == (error.kind, error.status)
    assert f"redirects to {shown};" in error.message
    assert "abc" not in error.message


INSIDE_200 = [
    ({"error": {"message": "boom"}}, "service_unavailable"),
    ({"error": "boom"}, "service_unavailable"),
    ("boom", "service_unavailable"),
    (openai(kind="server_error"), "service_unavailable"),
    (anthropic("overloaded_error", "Overloaded"), "service_unavailable"),
    (anthropic("api_error"), "service_unavailable"),
    (anthropic("rate_limit_error"), "rate_limit"),
    (anthropic("authentication_error"), "authentication"),
    (anthropic("permission_error"), "permission"),
    (anthropic("not_found_error"), "not_found"),
    (anthropic("invalid_request_error"), "bad_request"),
    (anthropic("billing_error"), "quota_exhausted"),
    (openai(code="insufficient_quota"), "quota_exhausted"),
    (openai(code="context_length_exceeded"), "context_length"),
    (openai(code="content_filter"), "content_filter"),
    ({"error": {"code": 502, "message": "Provider disconnected"}}, "service_unavailable"),
    ({"error": {"code": 429, "message": "Provider returned error"}}, "rate_limit"),
    ({"error": {"code": "429", "message": "…"}}, "rate_limit"),
    ({"error": {"code": 402, "message": "…"}}, "quota_exhausted"),
    (google(503, "UNAVAILABLE", "The model is overloaded."), "service_unavailable"),
    (google(429, "RESOURCE_EXHAUSTED", "…", quota(PER_DAY)), "quota_exhausted"),
    ({"type": "error"}, "service_unavailable"),
    ([], "service_unavailable"),
    (17, "service_unavailable"),
]


@pytest.mark.parametrize(("value", "kind"), INSIDE_200)
def test_an_error_inside_a_200_is_told_by_its_own_code(value, kind):
    """The status it names or goes with decides; one that says nothing is the service's failure."""
    error = classify_inside_200(sent(), value, headers={}, now=NOW)

    assert (kind, 200) == (error.kind, error.status)


def test_the_message_is_one_short_line_without_markup_or_control_characters():
    """HTML, escapes and line breaks go; three hundred characters stay at most."""
    body = openai("<b>Bad</b>\x1b[31m red\x07\n\nline\u202e two &lt;i&gt;x&lt;/i&gt; " + "y" * 900)
    message = classify(400, body).message

    assert message.startswith("Bad red line two x yyy")
    assert len(message) == 300


def test_a_web_page_is_shown_by_its_title():
    """A gateway's page becomes its title."""
    page = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body>"

    assert classify(502, page).message == "502 Bad Gateway"


@pytest.mark.parametrize("leak", [KEY, "Bearer abcdef123456", "AIzaSyA-1234567890abcdefghij"])
def test_no_key_is_ever_shown(leak):
    """A key that a server repeats in any body is masked."""
    for body in (openai(f"you sent {leak} to us"), f"oops key={leak}".encode()):
        message = classify(400, body).message

        assert leak.removeprefix("Bearer ") not in message
        assert "[key]" in message


def test_the_credentials_of_a_url_are_not_shown():
    """Neither the host in a message nor a printed request holds the password of the URL."""
    error = classify(500, b"pa55word-is-secret")

    assert "pa55word" not in error.message
    assert "pa55word" not in repr(sent())
    assert KEY not in repr(sent())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "errors",
                    "message",
                    "code",
                    "type",
                    "param",
                    "details",
                    "detail",
                    "metadata",
                    "raw",
                    "innererror",
                    "violations",
                    "quotaId",
                    "retryDelay",
                    "reason",
                    "status",
                    "loc",
                    "msg",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON, status=st.integers(300, 599))
def test_no_error_body_is_too_odd(value, status):
    """Whatever JSON a server sends, the answer is an error of the closed set."""
    for error in (
        classify(status, value),
        classify_inside_200(sent(), value, headers={}, now=NOW),
    ):
        assert len(error.message) <= 300


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=300), status=st.integers(300, 599))
def test_no_bytes_are_too_odd(body, status):
    """Nor are bytes that are no JSON."""
    assert "\n" not in classify(status, body, {"retry-after": body.decode("latin-1")}).message


def exported_exceptions() -> list[type[Exception]]:
    return [
        value
        for name in httpx.__all__
        if isinstance(value := getattr(httpx, name), type) and issubclass(value, Exception)
    ]


HTTPX_KINDS = {
    "connection": "NetworkError ConnectError ReadError WriteError CloseError ProxyError"
    " ProtocolError RemoteProtocolError",
    "timeout": "TimeoutException ConnectTimeout ReadTimeout WriteTimeout PoolTimeout",
    "malformed_response": "DecodingError",
    "bad_request": "InvalidURL UnsupportedProtocol",
    "unexpected": "LocalProtocolError HTTPError RequestError TransportError HTTPStatusError"
    " TooManyRedirects CookieConflict StreamError StreamConsumed StreamClosed ResponseNotRead"
    " RequestNotRead",
}


def test_every_exception_of_httpx_becomes_an_error():
    """None leaks, and each gives a message; a release with a new one fails until it is decided."""
    found: dict[str, set[str]] = {}
    for exc in exported_exceptions():
        made = exc.__new__(exc)
        Exception.__init__(made, "it broke")
        error = classify_exception(sent(), made)
        assert error.message
        found.setdefault(str(error.kind), set()).add(exc.__name__)

    assert {kind: set(names.split()) for kind, names in HTTPX_KINDS.items()} == found


def test_what_is_not_httpx_s_is_unexpected():
    """Any other exception is `unexpected`, with its name, and without the key."""
    error = classify_exception(sent(), RuntimeError(f"what about {KEY}"))

    assert error.kind == "unexpected"
    assert error.message == "RuntimeError: what about [key]"


def test_every_row_of_the_table_has_a_source_and_stands_alone():
    """A wording says who says it, and no code is listed twice."""
    codes = [code for sign in SIGNS for code in sign.codes]

    assert all(sign.source for sign in SIGNS)
    assert len(codes) == len(set(codes))
    assert all(code == code.lower() and " " not in code for code in codes)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # LM Studio 0.4.21, lmstudio-bug-tracker 2322
        (
            200,
            {
                "error": {
                    "message": "Trying to keep the first 4500 tokens when context the overflows. "
                    "However, the model is loaded with context length of only 4096 tokens, which "
                    "is not enough."
                }
            },
            "context_length",
        ),
        # mistral.rs 0.9.2, mid-stream
        (
            200,
            {
                "error": {
                    "message": "Prompt sequence length is greater than 8192, perhaps consider "
                    "using `truncate_sequence`?",
                    "type": "server_error",
                    "param": None,
                    "code": None,
                }
            },
            "context_length",
        ),
        # SGLang, in a 200
        (
            200,
            {
                "error": {
                    "code": 400,
                    "message": "Input length (600013 tokens) exceeds the maximum allowed length "
                    "(131066 tokens).",
                }
            },
            "context_length",
        ),
        # a server's own 500 with OpenAI's sentence
        (500, openai("This model's maximum context length is 4096 tokens."), "context_length"),
        (500, openai("out of memory"), "service_unavailable"),
        # anthropic-python 2.14.0, `error_code`
        (
            429,
            anthropic("rate_limit_error", details={"error_code": "contract_spend_limit_reached"}),
            "quota_exhausted",
        ),
        (
            400,
            anthropic(
                "invalid_request_error",
                details={"error_code": "linked_organization_billing_unavailable"},
            ),
            "quota_exhausted",
        ),
        # OpenAI's sentence through LiteLLM 1.108.7, and Google's for a minute's limit
        (
            429,
            openai(
                "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your "
                "current quota, please check your plan and billing details. For more information "
                "on this error, read the docs.",
                kind="throttling_error",
                code="429",
            ),
            "quota_exhausted",
        ),
        (
            429,
            google(
                429,
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details. For "
                "more information on this error, head to: https://ai.google.dev. * Quota exceeded "
                "for metric: generate_content_free_tier_requests, limit: 10 Please retry in 38.2s.",
                quota(PER_MINUTE),
            ),
            "rate_limit",
        ),
        # LiteLLM 1.108.7
        (422, openai("Budget has been exceeded!", kind="budget_exceeded"), "quota_exhausted"),
        (
            400,
            openai("litellm.BadRequestError: litellm.ContentPolicyViolationError: no"),
            "content_filter",
        ),
        *(
            (400, openai(f"litellm.BadRequestError: OpenAIException - {words}"), "content_filter")
            for words in (
                "Invalid prompt: your prompt was flagged as potentially violating our usage policy",
                "Your request was rejected as a result of our safety system.",
            )
        ),
        (
            400,
            openai("Invalid model name passed in model=x. Call `/v1/models` to view them"),
            "not_found",
        ),
        (400, openai("litellm.ContextWindowExceededError: no"), "context_length"),
        # A picture for a model that sees none: llama.cpp's server, Ollama, OpenRouter, LM Studio
        (
            500,
            openai(
                "image input is not supported - hint: if this is unexpected, you may need to "
                "provide the mmproj",
                kind="server_error",
                code=500,
            ),
            "bad_request",
        ),
        (
            500,
            {
                "error": "Failed to create new sequence: failed to process inputs: this model is "
                "missing data required for image input"
            },
            "bad_request",
        ),
        (400, openai("this model does not support image input"), "bad_request"),
        (
            404,
            {"error": {"message": "No endpoints found that support image input", "code": 404}},
            "bad_request",
        ),
        (
            400,
            {"error": "Model does not support images. Please use a model that does."},
            "bad_request",
        ),
        (404, {"error": {"message": "No endpoints found for x/y.", "code": 404}}, "not_found"),
        # xAI: theopenco/llmgateway#1785, openai/codex#1352
        (
            403,
            {
                "code": "The caller does not have permission",
                "error": "Content violates usage guidelines. Team: …, API key ID: …, Model: grok-4",
            },
            "content_filter",
        ),
        (
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "Incorrect API key provided: "
                "xa***bc. You can obtain an API key from https://console.x.ai.",
            },
            "authentication",
        ),
        (
            429,
            {
                "code": "Some resource has been exhausted",
                "error": "Your team … has either used all "
                "available credits or reached its monthly spending limit.",
            },
            "quota_exhausted",
        ),
        # z.ai: docs.z.ai/api-reference/api-code; vercel/ai#9290, KiwiGaze/glm-for-copilot#29
        (
            429,
            openai("Insufficient balance or no resource package. Please recharge.", code="1113"),
            "quota_exhausted",
        ),
        (429, {"error": {"code": "1308", "message": "Usage limit reached"}}, "quota_exhausted"),
        (429, {"error": {"code": "1302", "message": "High concurrency"}}, "rate_limit"),
        (400, {"error": {"code": "1261", "message": "Prompt 超长"}}, "context_length"),
        (400, {"error": {"code": "1301", "message": "系统检测到"}}, "content_filter"),
        (400, {"error": {"code": "1211", "message": "Unknown Model"}}, "not_found"),
        (
            200,
            {"code": 401, "msg": "token expired or incorrect", "success": False},
            "authentication",
        ),
        (200, {"code": 1113, "msg": "no", "success": False}, "quota_exhausted"),
        # MiniMax: platform.minimax.io/docs/api-reference/errorcode, MiniMax-AI/MiniMax-M2#62
        (500, openai("insufficient balance (1008)"), "quota_exhausted"),
        (429, openai("no", kind="insufficient_balance_error"), "quota_exhausted"),
        (
            200,
            {"error": {"code": "minimax_1026", "message": "input new_sensitive"}},
            "content_filter",
        ),
        (200, {"error": {"code": "minimax_1004", "message": "no"}}, "authentication"),
        # OpenRouter: openclaw/openclaw#59892, can1357/oh-my-pi#5429; openrouter 1.3.84, error_type
        (
            403,
            {"error": {"code": 403, "message": "Key limit exceeded (total limit)"}},
            "quota_exhausted",
        ),
        (
            429,
            {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day"}},
            "quota_exhausted",
        ),
        (
            403,
            {"error": {"code": 403, "message": "no", "metadata": {"error_type": "refusal"}}},
            "content_filter",
        ),
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": "no",
                    "metadata": {"error_type": "context_length_exceeded"},
                }
            },
            "context_length",
        ),
        # Cohere: a month's calls and a minute's; Fireworks; Cloudflare
        (
            429,
            {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
            "quota_exhausted",
        ),
        (
            429,
            {"message": "You are using a Trial key, which is limited to 20 API calls / minute."},
            "rate_limit",
        ),
        (
            412,
            openai("Account x is suspended, possibly due to reaching the monthly spending limit"),
            "quota_exhausted",
        ),
        (
            429,
            {
                "success": False,
                "errors": [
                    {
                        "code": 3036,
                        "message": "you have used up your daily free allocation of 10,000 neurons",
                    }
                ],
            },
            "quota_exhausted",
        ),
        # Volcengine, DashScope
        (400, openai(code="InputTextSensitiveContentDetected"), "content_filter"),
        (400, openai(code="OutputTextSensitiveContentDetected.Severe"), "content_filter"),
        (403, openai(code="AllocationQuota.FreeTierOnly"), "quota_exhausted"),
        # openai-python 3.57, types/responses/response_error.py
        (400, openai(code="bio_policy"), "content_filter"),
        # OpenAI, plandex-ai/plandex#144; one that does fit is a rate
        (
            429,
            openai(
                "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested "
                "45000. The input or output tokens must be reduced in order to run successfully.",
                kind="tokens",
                code="rate_limit_exceeded",
            ),
            "context_length",
        ),
        (
            429,
            openai(
                "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30,000, Used 25000, "
                "Requested 15,000. Please try again in 20s.",
                kind="tokens",
                code="rate_limit_exceeded",
            ),
            "rate_limit",
        ),
        (
            200,
            openai("Request too large: Limit 6000, Requested 9000", code="rate_limit_exceeded"),
            "context_length",
        ),
        # Groq: error codes; Bedrock's ModelErrorException; Google; Anthropic
        (498, openai("capacity exceeded"), "service_unavailable"),
        (424, {"Message": "model error"}, "service_unavailable"),
        (400, openai(code="tool_use_failed"), "malformed_response"),
        (
            400,
            google(
                400,
                "FAILED_PRECONDITION",
                "User location is not supported for the API use without a billing account linked.",
            ),
            "permission",
        ),
        (
            400,
            anthropic("invalid_request_error", details={"error_code": "organization_on_hold"}),
            "permission",
        ),
        # LM Studio without /v1, lmstudio-bug-tracker#618
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "not_found"),
        # one-api's account without money
        (401, openai(code="insufficient_user_quota"), "quota_exhausted"),
        # a page's words mean nothing
        (502, b"<html><p>maximum context length; insufficient balance</p>", "service_unavailable"),
    ],
)
def test_a_meaning_is_known_wherever_it_hides(status, body, expected):
    """What a server says decides, be it in a 500, in a 200 or under another name."""
    error = (
        classify_inside_200(sent(), body, headers={}, now=NOW)
        if status == 200
        else classify(status, body)
    )

    assert error.kind == expected


def test_a_limit_spent_on_thoughts_is_told_as_data():
    """OpenAI's sentence for it, in a 400 without a code, sets the field."""
    words = (
        "Could not finish the message because max_tokens or model output limit was reached. "
        "Please try again with higher max_tokens."
    )

    assert classify(400, openai(words)).info.truncated
    assert not classify(400, openai("max_tokens is too large")).info.truncated


TOO_LONG = [
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "max_tokens must be at least 1, got -904.",
    "The prompt (total length 9000) is too long to fit into the model (context length 8192).",
    "Input length 9000 exceeds maximum allowed token size 8192",
    "Input length exceeds the maximum allowed input length of 131072 tokens",
    "Messages have 200000 tokens, which exceeds the max limit of 127072 tokens.",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    "`inputs` must have less than 4095 tokens. Given: 5000",
    "too many tokens: total number of tokens in the prompt exceeds the limit of 4081",
    "too many tokens: total number of tokens (prompt and prediction) cannot exceed 2048 - received",
    "too many tokens: size limit exceeded by 300 tokens.",
    "Range of input length should be [1, 30720]",
    "tokens in request more than max tokens allowed",
    "Prompt exceeds max length",
    "Unable to submit request because the input token count is 40000 but model only supports up to",
    "prompt token count of 140000 exceeds the limit of 128000",
    "The estimated number of tokens exceeded this model context window limit (8192).",
    "Number of input tokens exceeds maximum length. Please update the input to try again.",
    "expected maxLength: 50000, actual: 80000",
    "the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model",
    "Prompt length 9000 is greater than max_seq_len 8192",
    "Max length reached!",
    "invalid params, context window exceeds limit",
]
"""Of vLLM, NIM, Poolside, Perplexity, TGI, Cohere, DashScope, z.ai, Vertex, Copilot, Cloudflare,
Bedrock, watsonx, TabbyAPI, FastFlowLM and MiniMax, none of which gives a code."""


@pytest.mark.parametrize("words", TOO_LONG)
@pytest.mark.parametrize("status", [400, 422, 500, 200])
def test_a_prompt_s_excess_is_known_by_its_sentence(words, status):
    """In a refusal, in a failure and in an answer alike."""
    error = (
        classify_inside_200(sent(), openai(words), headers={}, now=NOW)
        if status == 200
        else classify(status, openai(words))
    )

    assert error.kind == "context_length"


def in_headers(**headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}, {}


WAITS = {
    "litellm 1.108.7": ({"llm_provider-retry-after": "7"}, {}, 7.0),
    "a unit": (in_headers(retry_after="30s")[0], {}, 30.0),
    "minutes": (in_headers(retry_after="1m30s")[0], {}, 90.0),
    "openai requests": (
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"},
        {},
        360.0,
    ),
    "openai tokens are left": (
        {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"},
        {},
        None,
    ),
    "epoch seconds": (
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW + 40:.0f}"},
        {},
        40.0,
    ),
    "ietf": ({"ratelimit-remaining": "0", "ratelimit-reset": "12"}, {}, 12.0),
    "openrouter in the body": (
        {},
        {
            "error": {
                "code": 429,
                "message": "Rate limit exceeded: free-models-per-min",
                "metadata": {
                    "headers": {
                        "X-RateLimit-Limit": "20",
                        "X-RateLimit-Remaining": "0",
                        "X-RateLimit-Reset": f"{(NOW + 25) * 1000:.0f}",
                    }
                },
            }
        },
        25.0,
    ),
    "google ErrorInfo (router-for-me/CLIProxyAPI#449)": (
        {},
        google(
            429,
            "RESOURCE_EXHAUSTED",
            "…",
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "metadata": {"quotaResetDelay": "373.8ms"},
            },
        ),
        0.3738,
    ),
    "openai's words (Aider-AI/aider#3265)": (
        {},
        openai("Rate limit reached … Please try again in 20s. Visit https://…"),
        20.0,
    ),
    "groq's words": ({}, openai("Please try again in 7m31.5s. Need more tokens?"), 451.5),
    "milliseconds": ({}, openai("Please try again in 486ms."), 0.486),
    "azure's words": ({}, openai("Please retry after 7 seconds."), 7.0),
    "google's words": ({}, google(429, "RESOURCE_EXHAUSTED", "Please retry in 38.5s."), 38.5),
    "no unit": ({}, openai("we retry 3 times; try again in a while"), None),
    "the header wins": (in_headers(retry_after="2")[0], openai("try again in 20s"), 2.0),
}


@pytest.mark.parametrize(
    "line", ['{"request_id":"r1"}', '{"ray":"7f"}', "[]", '{"status":"error"}']
)
def test_a_line_of_json_that_says_nothing_takes_nothing_from_a_text(line):
    """A text with a request's id below it is read for what it says."""
    error = classify(429, f"Too many requests, please retry in 20s\n{line}".encode())

    assert "please retry in 20s" in error.message
    assert error.retry_after_s == 20.0


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_read_wherever_it_hides(name):
    """In headers, in those passed on in the body, in details, and in a sentence with a unit."""
    headers, body, wait_s = WAITS[name]
    error = classify(429, body, headers)

    assert error.kind == "rate_limit"
    assert (None if wait_s is None else pytest.approx(wait_s, abs=0.01)) == error.retry_after_s


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("invalid temperature: only 1 is allowed for this model", "temperature"),
        ("invalid top_p: only 0.95 is allowed for this model", "top_p"),
        ("top_p must be 1 when using greedy sampling.", "top_p"),
        ("`temperature` may only be set to 1 when thinking is enabled.", "temperature"),
        ("Invalid value for temperature: must be 1.0", "temperature"),
        ("temperature must be 1.0 for this model.", "temperature"),
        ("This model only supports temperature=1", "temperature"),
        ("temperature can only be 1 with thinking", "temperature"),
        ("top_p must be between 0 and 1", None),
        ("top_p must be 0 or greater", None),
        ("top_p must be 1.5 or less", None),
        ("max_tokens must be 1 or more", None),
    ],
)
def test_a_parameter_refused_by_its_value_is_named(message, parameter):
    """Kimi, Mistral and Anthropic take some parameters at one value only."""
    error = classify(400, openai(message))

    assert ("bad_request", parameter) == (error.kind, error.parameter)


@pytest.mark.parametrize(
    "body",
    [
        {"detail": {"error": "these words"}},
        {"detail": {"message": "these words"}},
        {"detail": "these words"},
        {"Message": "these words"},
        {"message": {"detail": "these words"}, "object": "error"},
        {"error": "these words"},
        {"msg": "these words"},
        {"errors": [{"message": "these words"}]},
        b"these words",
    ],
)
def test_the_server_s_own_words_are_never_lost(body):
    """Whatever they are wrapped in."""
    assert "these words" in classify(400, body).message


@pytest.mark.parametrize("body", [b"", b" \n ", b'{"error":{"message":" "}}', b"{}"])
def test_a_server_without_words_is_told_by_its_status(body):
    """Blanks say nothing."""
    assert classify(429, body).message == "HTTP 429 Too Many Requests"


@pytest.mark.parametrize(
    "words", ["Limit {0}, Requested {0}", "tools[{0}].function: Invalid schema"]
)
def test_a_number_of_any_length_is_no_trouble(words):
    """Python takes none of more than 4,300 digits."""
    request = msgspec.structs.replace(sent(), tools={"now": "now"})

    for status in (400, 429):
        assert classify(status, openai(words.format("9" * 5000)), request=request).kind in (
            "bad_request",
            "rate_limit",
        )


def test_an_address_without_a_version_is_asked_about():
    """LM Studio and Ollama answer so when `base_url` lacks its /v1."""
    body = {"error": "Unexpected endpoint or method. (POST /chat/completions)"}
    without = RequestInfo(url="http://127.0.0.1:1234/chat/completions", model="m-1")

    assert "does base_url lack /v1?" in classify(404, b"", request=without).message
    assert "does base_url lack" not in classify(404, b"").message
    no_url = openai("Invalid URL (POST /responses)")
    assert "does base_url lack /v1?" in classify(404, no_url, request=without).message
    no_model = openai("The model does not exist", code="model_not_found")
    assert "base_url" not in classify(404, no_model, request=without).message
    assert (
        "does base_url lack /v1?" in classify_inside_200(without, body, headers={}, now=NOW).message
    )


@pytest.mark.parametrize(("value", "again"), [("false", False), ("true", None), ("", None)])
def test_a_server_that_wants_no_other_try_gets_none(value, again):
    """`x-should-retry: false` is what OpenAI and Anthropic tell their clients."""
    error = classify(503, b"", {"x-should-retry": value})

    assert (error.kind, error.again) == ("service_unavailable", again)
