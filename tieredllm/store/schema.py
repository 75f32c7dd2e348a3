"""Define the tables of `state.db`, as the steps that make them.

A step is a list of statements; step *n* takes a database from version *n* to *n + 1*. What was
released is never edited: a change of the schema is one more step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["APPLICATION_ID", "STEPS", "Steps"]

Steps = Sequence[Iterable[str]]

APPLICATION_ID = 0x544C4C4D
"""Marks the file as ours in SQLite's header (`PRAGMA application_id`): "TLLM" in ASCII."""

STEPS: Steps = (
    (
        # One row per backend: its circuit (health/breaker.py has the meaning of the columns).
        """CREATE TABLE circuits (
            identity TEXT PRIMARY KEY NOT NULL,
            failures INTEGER NOT NULL,
            opened_at REAL,
            cooldown_s REAL NOT NULL,
            benched_at REAL,
            bench_s REAL NOT NULL,
            cause TEXT,
            lease_owner TEXT,
            leased_at REAL NOT NULL,
            lease_s REAL NOT NULL,
            era INTEGER NOT NULL,
            changed_at REAL NOT NULL
        ) WITHOUT ROWID""",
        # A slice of a backend's window summed up (health/window.py): what a decision reads is
        # bounded by the number of slices, not by the number of requests.
        """CREATE TABLE window_slices (
            identity TEXT NOT NULL,
            era INTEGER NOT NULL,
            starts_at REAL NOT NULL,
            keep_until REAL NOT NULL,
            requests INTEGER NOT NULL,
            successes INTEGER NOT NULL,
            latency_s REAL NOT NULL,
            slowest_s REAL NOT NULL,
            last_at REAL NOT NULL,
            errors TEXT NOT NULL,
            latencies TEXT NOT NULL,
            PRIMARY KEY (identity, era, starts_at)
        ) WITHOUT ROWID""",
        """CREATE TABLE rejected_parameters (
            identity TEXT NOT NULL,
            parameter TEXT NOT NULL,
            learned_at REAL NOT NULL,
            PRIMARY KEY (identity, parameter)
        ) WITHOUT ROWID""",
        # `is_turn`: the answer is complete and a model's, so a conversation goes on from it.
        # `reusable_as`: a hash of what was asked, set when the answer may be given again.
        """CREATE TABLE requests (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            asked_at REAL NOT NULL,
            profile TEXT NOT NULL,
            conversation_id TEXT NOT NULL,
            is_turn INTEGER NOT NULL,
            reusable_as TEXT,
            question TEXT NOT NULL,
            system TEXT,
            attachments TEXT NOT NULL,
            text TEXT,
            tier TEXT,
            level INTEGER,
            provider TEXT,
            model TEXT,
            latency_ms REAL NOT NULL,
            first_token_ms REAL,
            finish_reason TEXT,
            truncated INTEGER NOT NULL,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            original_error TEXT,
            ref_code TEXT,
            intent TEXT,
            cached_at TEXT,
            error TEXT
        )""",
        "CREATE INDEX requests_by_time ON requests (asked_at)",
        "CREATE INDEX requests_by_conversation ON requests (conversation_id, number)",
        """CREATE INDEX requests_by_reuse ON requests (reusable_as, asked_at)
            WHERE reusable_as IS NOT NULL""",
        "CREATE INDEX requests_by_code ON requests (ref_code) WHERE ref_code IS NOT NULL",
        """CREATE TABLE attempts (
            request INTEGER NOT NULL REFERENCES requests (number),
            position INTEGER NOT NULL,
            tier TEXT NOT NULL,
            level INTEGER NOT NULL,
            provider TEXT NOT NULL,
            model TEXT NOT NULL,
            outcome TEXT NOT NULL,
            kind TEXT,
            message TEXT,
            status INTEGER,
            retry_after_s REAL,
            reason TEXT,
            started_ms REAL NOT NULL,
            duration_ms REAL NOT NULL,
            first_token_ms REAL,
            PRIMARY KEY (request, position)
        ) WITHOUT ROWID""",
    ),
    (
        # One row per profile, channel and cause (store/outbox_entry.py has the columns' meaning).
        """CREATE TABLE outbox (
            profile TEXT NOT NULL,
            channel TEXT NOT NULL,
            cause TEXT NOT NULL,
            id TEXT NOT NULL,
            severity INTEGER NOT NULL,
            body TEXT NOT NULL,
            waiting INTEGER NOT NULL,
            first_at REAL NOT NULL,
            last_at REAL NOT NULL,
            held_from REAL NOT NULL,
            held_s REAL NOT NULL,
            tries INTEGER NOT NULL,
            last_error TEXT,
            lease_owner TEXT,
            leased_at REAL NOT NULL,
            lease_s REAL NOT NULL,
            sent_at REAL,
            sent_severity INTEGER NOT NULL,
            is_open INTEGER NOT NULL,
            told INTEGER NOT NULL,
            opened_at REAL,
            PRIMARY KEY (profile, channel, cause)
        ) WITHOUT ROWID""",
    ),
    (
        # The kind of error that opened a circuit; why a backend was not asked, as JSON (`Skip`).
        "ALTER TABLE circuits ADD COLUMN kind TEXT",
        "ALTER TABLE attempts ADD COLUMN skip TEXT",
    ),
    (
        # The latest 100,000 requests are taken along: the log keeps no more (store/history.py).
        # A request's whole record is JSON (store/record.py), so that a new field costs no column;
        # beside it is what queries look for. `level` is NULL where nothing answered. `is_turn`: a
        # conversation goes on from it. `reusable_as`: a hash of what was asked, set when the answer
        # may be given again.
        """CREATE TABLE log (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            asked_at REAL NOT NULL,
            level INTEGER,
            conversation_id TEXT NOT NULL,
            is_turn INTEGER NOT NULL,
            reusable_as TEXT,
            ref_code TEXT,
            record TEXT NOT NULL
        )""",
        # A row per request and tier, for the statistics; narrow, and in the order of time.
        """CREATE TABLE tier_turns (
            asked_at REAL NOT NULL,
            request INTEGER NOT NULL,
            tier TEXT NOT NULL,
            level INTEGER NOT NULL,
            asked INTEGER NOT NULL,
            answered INTEGER NOT NULL,
            reached INTEGER NOT NULL,
            went_on INTEGER NOT NULL,
            latency_ms REAL,
            first_token_ms REAL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            PRIMARY KEY (asked_at, request, tier)
        ) WITHOUT ROWID""",
        """INSERT INTO log SELECT
            number, id, asked_at, level, conversation_id, is_turn, reusable_as, ref_code,
            json_object(
                'asked_at', asked_at, 'profile', profile, 'conversation_id', conversation_id,
                'prompt', json_object(
                    'question', question, 'system', system, 'attachments',
                    json(CASE WHEN json_valid(attachments) THEN attachments ELSE '[]' END)
                ),
                'answer', json_object(
                    'request_id', id, 'text', text, 'tier', tier, 'fallback_level', level,
                    'fallback_used', json(CASE WHEN level > 0 THEN 'true' ELSE 'false' END),
                    'provider', provider, 'model_used', model, 'latency_ms', latency_ms,
                    'first_token_ms', first_token_ms, 'finish_reason', finish_reason,
                    'truncated', json(CASE WHEN truncated THEN 'true' ELSE 'false' END),
                    'usage', json_object(
                        'prompt_tokens', prompt_tokens, 'completion_tokens', completion_tokens
                    ),
                    'original_error', original_error, 'ref_code', ref_code, 'intent', intent,
                    'cached_at', cached_at,
                    'error', json(CASE WHEN json_valid(error) THEN error END),
                    'attempts', json((
                        SELECT json_group_array(json_object(
                            'tier', tier, 'level', level, 'provider', provider, 'model', model,
                            'outcome', outcome,
                            'error', json(CASE WHEN kind IS NOT NULL THEN json_object(
                                'kind', kind, 'message', coalesce(message, ''),
                                'status', status, 'retry_after_s', retry_after_s
                            ) END),
                            'skip', json(CASE WHEN json_valid(skip) THEN skip END),
                            'reason', reason, 'started_ms', started_ms,
                            'duration_ms', duration_ms, 'first_token_ms', first_token_ms
                        )) FROM (
                            SELECT * FROM attempts WHERE request = number ORDER BY position
                        )
                    ))
                )
            ) FROM requests WHERE number > (SELECT max(number) FROM requests) - 100000""",
        """INSERT INTO tier_turns SELECT r.asked_at, r.number, a.tier, max(a.level),
            max(a.outcome IN ('ok', 'failed')),
            max(a.outcome IN ('ok', 'failed')) AND r.tier IS a.tier,
            max(a.outcome <> 'cancelled') OR r.level IS NULL OR r.level > max(a.level),
            (max(a.outcome <> 'cancelled') OR r.level IS NULL OR r.level > max(a.level))
                AND r.tier IS NOT a.tier,
            max(CASE a.outcome WHEN 'ok' THEN a.duration_ms END),
            max(CASE a.outcome WHEN 'ok' THEN a.first_token_ms END),
            CASE WHEN r.tier IS a.tier THEN coalesce(r.prompt_tokens, 0) ELSE 0 END,
            CASE WHEN r.tier IS a.tier THEN coalesce(r.completion_tokens, 0) ELSE 0 END
            FROM requests AS r JOIN attempts AS a ON a.request = r.number
            WHERE r.number IN (SELECT number FROM log)
            GROUP BY r.number, a.tier""",
        "DROP TABLE attempts",
        "DROP TABLE requests",
        "CREATE INDEX log_by_time ON log (asked_at, level)",
        "CREATE INDEX log_by_conversation ON log (conversation_id, number)",
        "CREATE INDEX log_by_reuse ON log (reusable_as, asked_at) WHERE reusable_as IS NOT NULL",
        "CREATE INDEX log_by_code ON log (ref_code) WHERE ref_code IS NOT NULL",
    ),
    (
        # Which of the tier's models answered, and what that cost where the profile names prices.
        "ALTER TABLE tier_turns ADD COLUMN model TEXT",
        "ALTER TABLE tier_turns ADD COLUMN cost REAL",
    ),
    (
        # What the user calls a conversation; gone with the last of its requests.
        """CREATE TABLE conversation_names (
            conversation_id TEXT PRIMARY KEY NOT NULL,
            name TEXT NOT NULL UNIQUE
        ) WITHOUT ROWID""",
    ),
    (
        # One bad schema of a request was noted as that the backend takes none, for 30 days.
        "DELETE FROM rejected_parameters WHERE parameter = 'schema'",
    ),
)
